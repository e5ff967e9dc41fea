//! Misbehaving servers: the messages, and the files left in the cache.

use std::fs;
use std::net::TcpListener;

use regraft_hub::{Error, Reason, fetch};
use regraft_io::sha256;
use regraft_testing::server::{Reply, Server};

use crate::common::{Cache, NAME, file, weights, weights_with};

#[test]
fn fetch_does_not_retry_permanent_errors() {
    for (status, meaning) in [(404, "not there"), (410, "not there"), (403, "forbidden"), (401, "password"), (204, "")]
    {
        let (cache, server) = (Cache::new(), Server::new(move |_, _| Reply::status(status)));
        let message = cache.fails(&server, |reason| *reason == Reason::Status { status, attempts: 1 });
        assert!(message.contains(&status.to_string()) && message.contains(meaning), "{message}");
        assert_eq!(server.requests().len(), 1);
        cache.holds_nothing();
    }
}

#[test]
fn fetch_retries_transient_errors() {
    for status in [408, 429, 500, 502, 503, 504] {
        let (cache, server) = (Cache::new(), Server::new(move |_, _| Reply::status(status)));
        let message = cache.fails(&server, |reason| *reason == Reason::Status { status, attempts: 3 });
        assert!(message.contains("tried 3 times"), "{message}");
        cache.holds_nothing();
        let good = Server::new(move |number, request| match number {
            0 => Reply::new(status, &["Retry-After: 86400", "Content-Length: 0"], b""),
            _ => Reply::file(request, &file(), "\"it\""),
        });
        // These tests pause at most 20 ms, even if the server asks for more.
        cache.gets(&good);
    }
}

#[test]
fn fetch_keeps_the_part_after_an_error() {
    let server = Server::new(|number, _| match number {
        0 => Reply::whole(&file(), Some("\"it\"")).cut(1000),
        _ => Reply::status(503),
    });
    let cache = Cache::new();
    cache.fails(&server, |reason| matches!(reason, Reason::Status { status: 503, .. }));
    cache.holds(file().len() - 1000);
}

#[test]
fn fetch_refuses_another_length_before_the_body() {
    for (length, whole) in [(file().len() + 1, true), (file().len() - 1, true), (5, true), (usize::MAX, false)] {
        let server = Server::new(move |_, _| {
            let body = if whole { file() } else { Vec::new() };
            Reply::new(200, &[&format!("Content-Length: {length}")], &body)
        });
        let cache = Cache::new();
        let message = cache.fails(&server, |reason| matches!(reason, Reason::Length { .. }));
        assert!(message.contains(&format!("{length} bytes")), "{message}");
        assert!(message.contains(&file().len().to_string()), "{message}");
        assert_eq!(server.requests().len(), 1);
        cache.holds_nothing();
    }
}

#[test]
fn fetch_stops_at_the_published_size() {
    let server = Server::new(|_, _| Reply::new(200, &[], &[file(), vec![0; 100_000]].concat()));
    let cache = Cache::new();
    let message = cache.fails(&server, |reason| matches!(reason, Reason::TooLong { .. }));
    assert!(message.contains("more than the 1200000 bytes"), "{message}");
    cache.holds_nothing();
}

#[test]
fn fetch_discards_bytes_with_a_wrong_hash() {
    let mut other = file();
    other[17] ^= 1;
    let (cache, server) = (Cache::new(), Server::of(other.clone()));
    let found = sha256(&other);
    let message = cache.fails(&server, |reason| matches!(reason, Reason::Hash { .. }));
    assert!(message.contains(&found) && message.contains(&sha256(&file())[..8]), "{message}");
    assert_eq!(server.requests().len(), 1);
    cache.holds_nothing();
}

#[test]
fn fetch_limits_redirects() {
    let server = Server::new(|_, _| Reply::new(302, &["Location: /elsewhere", "Content-Length: 0"], b""));
    let cache = Cache::new();
    let message = cache.fails(&server, |reason| *reason == Reason::Redirects);
    assert!(message.contains("again and again"), "{message}");
    assert!((2..20).contains(&server.requests().len()), "{}", server.requests().len());
    cache.holds_nothing();
}

#[test]
fn fetch_refuses_invalid_http() {
    for bytes in ["220 smtp.example ESMTP\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"]
    {
        let (cache, server) = (Cache::new(), Server::new(move |_, _| Reply::raw(bytes)));
        cache.fails(&server, |reason| matches!(reason, Reason::Protocol(_)));
        cache.holds_nothing();
    }
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X-Filler: and so on\r\n".repeat(100_000));
    let (cache, server) = (Cache::new(), Server::new(move |_, _| Reply::raw(endless.clone())));
    cache.fails(&server, |_| true);
    cache.holds_nothing();
}

#[test]
fn fetch_retries_a_closed_connection() {
    let (cache, server) = (Cache::new(), Server::new(|_, _| Reply::raw("")));
    cache.fails(&server, |reason| matches!(reason, Reason::Broken { done: 0, attempts: 3, .. }));
    assert_eq!(server.requests().len(), 3);
    cache.holds_nothing();
}

#[test]
fn fetch_does_not_retry_without_a_server() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // Nothing listens there any more.
    for url in [format!("http://{closed}/{NAME}"), format!("http://nowhere.invalid/{NAME}")] {
        let cache = Cache::new();
        let error = fetch(&weights(&url), &cache.settings, &cache.listener, &cache.listener.cancel()).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Fetch { reason: Reason::Connect { .. }, .. }), "{error:?}");
        for part in ["cannot be reached", &url, "is there a network?", "by hand"] {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
        assert!(!cache.listener.messages().contains("trying again"));
        cache.holds_nothing();
    }
}

#[test]
fn fetch_checks_free_space_first() {
    let (cache, server) = (Cache::new(), Server::of(file()));
    let bytes = ((1u64 << 34) - 1).to_string();
    let entry = weights_with(&[("url", &format!("{:?}", server.url(NAME))), ("bytes", &bytes)]);
    let free = fs4::available_space(cache.beside("")).unwrap();
    let error = fetch(&entry, &cache.settings, &cache.listener, &cache.listener.cancel()).unwrap_err();
    // On a disk with that much room the server's file is too short instead.
    match error {
        Error::NoRoom { available, needed, .. } => assert!(needed == (1 << 34) - 1 && available < needed),
        Error::Fetch { reason: Reason::Length { .. }, .. } => assert!(free > 1 << 33),
        other => panic!("{other}"),
    }
    cache.holds_nothing();
}

#[test]
fn fetch_names_a_cache_that_cannot_be_used() {
    let (mut cache, server) = (Cache::new(), Server::of(file()));
    fs::write(cache.beside("a-file"), "").unwrap();
    cache.settings.home = cache.beside("a-file").join("cache");
    let error = cache.fetch(&server).unwrap_err();
    assert!(matches!(error, Error::CacheRead { .. } | Error::CacheWrite { .. }), "{error}");
    assert!(error.to_string().contains("a-file") && error.to_string().contains("REGRAFT_HOME"), "{error}");
    // A folder in the cache of the file.
    let cache = Cache::new();
    fs::create_dir_all(cache.path(NAME)).unwrap();
    let error = cache.fetch(&server).unwrap_err();
    assert!(matches!(error, Error::CacheRead { .. }) && error.to_string().contains(NAME), "{error}");
    assert!(server.requests().is_empty());
}
