//! Servers that do not behave: what is said, and what is left.

use std::fs;
use std::net::TcpListener;

use regraft_hub::{Error, Reason, fetch};
use regraft_testing::server::{Reply, Server};

use crate::common::{NAME, Place, digest, file, weights, weights_with};

#[test]
fn an_error_that_stays_is_asked_for_once() {
    for (status, meaning) in [(404, "not there"), (410, "not there"), (403, "forbidden"), (401, "password"), (204, "")]
    {
        let (place, server) = (Place::new(), Server::new(move |_, _| Reply::status(status)));
        let message = place.fails(&server, |reason| *reason == Reason::Status { status, attempts: 1 });
        assert!(message.contains(&status.to_string()) && message.contains(meaning), "{message}");
        assert_eq!(server.requests().len(), 1);
        place.holds_nothing();
    }
}

#[test]
fn an_error_that_may_pass_is_tried_again() {
    for status in [408, 429, 500, 502, 503, 504] {
        let (place, server) = (Place::new(), Server::new(move |_, _| Reply::status(status)));
        let message = place.fails(&server, |reason| *reason == Reason::Status { status, attempts: 3 });
        assert!(message.contains("tried 3 times"), "{message}");
        place.holds_nothing();
        let good = Server::new(move |number, request| match number {
            0 => Reply::new(status, &["Retry-After: 86400", "Content-Length: 0"], b""),
            _ => Reply::file(request, &file(), "\"it\""),
        });
        // The patience of these tests is 20 ms at most, whatever the server asks for.
        place.gets(&good);
    }
}

#[test]
fn an_error_in_the_middle_leaves_what_has_arrived() {
    let server = Server::new(|number, _| match number {
        0 => Reply::whole(&file(), Some("\"it\"")).cut(1000),
        _ => Reply::status(503),
    });
    let place = Place::new();
    place.fails(&server, |reason| matches!(reason, Reason::Status { status: 503, .. }));
    place.holds(file().len() - 1000);
}

#[test]
fn a_file_of_another_length_is_not_even_begun() {
    for (length, whole) in [(file().len() + 1, true), (file().len() - 1, true), (5, true), (usize::MAX, false)] {
        let server = Server::new(move |_, _| {
            let body = if whole { file() } else { Vec::new() };
            Reply::new(200, &[&format!("Content-Length: {length}")], &body)
        });
        let place = Place::new();
        let message = place.fails(&server, |reason| matches!(reason, Reason::Length { .. }));
        assert!(message.contains(&format!("{length} bytes")), "{message}");
        assert!(message.contains(&file().len().to_string()), "{message}");
        assert_eq!(server.requests().len(), 1);
        place.holds_nothing();
    }
}

#[test]
fn the_end_of_the_file_is_the_end() {
    let server = Server::new(|_, _| Reply::new(200, &[], &[file(), vec![0; 100_000]].concat()));
    let place = Place::new();
    let message = place.fails(&server, |reason| matches!(reason, Reason::TooLong { .. }));
    assert!(message.contains("more than the 1200000 bytes"), "{message}");
    place.holds_nothing();
}

#[test]
fn other_bytes_are_not_kept() {
    let mut other = file();
    other[17] ^= 1;
    let (place, server) = (Place::new(), Server::of(other.clone()));
    let found = digest(&other);
    let message = place.fails(&server, |reason| matches!(reason, Reason::Hash { .. }));
    assert!(message.contains(&found) && message.contains(&digest(&file())[..8]), "{message}");
    assert_eq!(server.requests().len(), 1);
    place.holds_nothing();
}

#[test]
fn redirects_have_an_end() {
    let server = Server::new(|_, _| Reply::new(302, &["Location: /elsewhere", "Content-Length: 0"], b""));
    let place = Place::new();
    let message = place.fails(&server, |reason| *reason == Reason::Redirects);
    assert!(message.contains("again and again"), "{message}");
    assert!((2..20).contains(&server.requests().len()), "{}", server.requests().len());
    place.holds_nothing();
}

#[test]
fn something_that_is_no_http_is_no_answer() {
    for bytes in ["220 smtp.example ESMTP\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"]
    {
        let (place, server) = (Place::new(), Server::new(move |_, _| Reply::raw(bytes)));
        place.fails(&server, |reason| matches!(reason, Reason::Protocol(_)));
        place.holds_nothing();
    }
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X-Filler: and so on\r\n".repeat(100_000));
    let (place, server) = (Place::new(), Server::new(move |_, _| Reply::raw(endless.clone())));
    place.fails(&server, |_| true);
    place.holds_nothing();
}

#[test]
fn a_server_that_hangs_up_is_tried_again() {
    let (place, server) = (Place::new(), Server::new(|_, _| Reply::raw("")));
    place.fails(&server, |reason| matches!(reason, Reason::Broken { done: 0, attempts: 3, .. }));
    assert_eq!(server.requests().len(), 3);
    place.holds_nothing();
}

#[test]
fn without_a_server_it_is_said_at_once() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // nobody listens there any more
    for url in [format!("http://{closed}/{NAME}"), format!("http://nowhere.invalid/{NAME}")] {
        let place = Place::new();
        let error = fetch(&weights(&url), &place.settings, &place.watch, &place.watch.cancel()).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Fetch { reason: Reason::Connect { .. }, .. }), "{error:?}");
        for part in ["cannot be reached", &url, "is there a network?", "by hand"] {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
        assert!(!place.watch.said().contains("trying again"));
        place.holds_nothing();
    }
}

#[test]
fn a_disk_without_room_is_noticed_before() {
    let (place, server) = (Place::new(), Server::of(file()));
    let bytes = ((1u64 << 34) - 1).to_string();
    let entry = weights_with(&[("url", &format!("{:?}", server.url(NAME))), ("bytes", &bytes)]);
    let free = fs4::available_space(place.beside("")).unwrap();
    let error = fetch(&entry, &place.settings, &place.watch, &place.watch.cancel()).unwrap_err();
    // Where there is as much room as that, the server's file is too short.
    match error {
        Error::NoRoom { available, needed, .. } => assert!(needed == (1 << 34) - 1 && available < needed),
        Error::Fetch { reason: Reason::Length { .. }, .. } => assert!(free > 1 << 33),
        other => panic!("{other}"),
    }
    place.holds_nothing();
}

#[test]
fn a_cache_that_cannot_be_is_named() {
    let (mut place, server) = (Place::new(), Server::of(file()));
    fs::write(place.beside("a-file"), "").unwrap();
    place.settings.home = place.beside("a-file").join("cache");
    let error = place.fetch(&server).unwrap_err();
    assert!(matches!(error, Error::Cache { .. }), "{error}");
    assert!(error.to_string().contains("a-file") && error.to_string().contains("REGRAFT_HOME"), "{error}");
    // A folder in the place of the file.
    let place = Place::new();
    fs::create_dir_all(place.path(NAME)).unwrap();
    let error = place.fetch(&server).unwrap_err();
    assert!(matches!(error, Error::Cache { .. }) && error.to_string().contains(NAME), "{error}");
    assert!(server.requests().is_empty());
}
