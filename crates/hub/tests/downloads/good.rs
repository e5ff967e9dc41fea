//! Servers that behave, and files that are here already.

use std::fs;
use std::sync::Arc;
use std::thread;

use regraft_hub::{Cached, Error, fetch};
use regraft_testing::server::{Reply, Server};

use crate::common::{NAME, Place, digest, file, weights, weights_with};

#[test]
fn a_file_is_fetched_once() {
    let (place, server) = (Place::new(), Server::of(file()));
    let entry = weights(&server.url(NAME));
    assert_eq!(place.settings.cached(&entry), Cached::Absent);
    place.gets(&server);
    assert_eq!(place.settings.cached(&entry), Cached::Whole);
    assert_eq!(place.watch.done(), file().len() as u64);
    let said = place.watch.said();
    for part in [server.url(NAME).as_str(), "1.1 MiB", "licence: MIT", "patterns", "cache"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    place.gets(&server);
    assert_eq!(server.requests().len(), 1);
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.start()), ("GET", None));
    assert!(request.header("user-agent").unwrap().starts_with("regraft/"));
}

#[test]
fn a_mirror_is_asked_instead() {
    let (mut place, server) = (Place::new(), Server::of(file()));
    place.settings.mirror = Some(server.url("a/folder"));
    fetch(
        &weights("https://nowhere.invalid/of/theirs/weights-of-nothing.pth"),
        &place.settings,
        &place.watch,
        &place.watch.cancel(),
    )
    .unwrap();
    assert_eq!(server.requests()[0].path, format!("/a/folder/{NAME}"));
}

#[test]
fn redirects_are_followed() {
    let server = Server::new(|_, request| match request.path.as_str() {
        "/there.pth" => Reply::file(request, &file(), "\"it\""),
        _ => Reply::new(302, &["Location: /there.pth", "Content-Length: 0"], b""),
    });
    Place::new().gets(&server);
}

#[test]
fn a_body_of_unknown_length_will_do() {
    let chunked = |file: &[u8]| {
        let chunks = file.chunks(70_000).flat_map(|c| [format!("{:x}\r\n", c.len()).as_bytes(), c, b"\r\n"].concat());
        [chunks.collect(), b"0\r\n\r\n".to_vec()].concat()
    };
    Place::new().gets(&Server::new(move |_, _| Reply::new(200, &["Transfer-Encoding: chunked"], &chunked(&file()))));
    Place::new().gets(&Server::new(|_, _| Reply::new(200, &[], &file())));
}

#[test]
fn without_network_a_file_put_there_by_hand_is_used_and_an_absent_one_explained() {
    let (mut place, server) = (Place::new(), Server::of(file()));
    place.settings.offline = true;
    let error = place.fetch(&server).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::Offline { damage: None, .. }), "{message}");
    for part in ["--offline", "is not there", &server.url(NAME), &place.path(NAME).display().to_string(), "by hand"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert!(place.names().is_empty(), "not even a folder is made");
    place.put(NAME, &file());
    assert_eq!(place.fetch(&server).unwrap().sha256, digest(&file()));
    assert!(server.requests().is_empty());
}

#[test]
fn a_damaged_file_in_the_cache_is_fetched_anew() {
    let mut flipped = file();
    flipped[1000] ^= 1;
    for (damaged, what) in [(flipped, "SHA-256"), (file()[1..].to_vec(), "bytes where"), (Vec::new(), "0 bytes")] {
        let (mut place, server) = (Place::new(), Server::of(file()));
        place.put(NAME, &damaged);
        place.settings.offline = true;
        let error = place.fetch(&server).unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains(what), "{error}");
        place.settings.offline = false;
        place.gets(&server);
        let said = place.watch.said();
        assert!(said.contains("warning: ") && said.contains(what) && said.contains("anew"), "{said}");
    }
}

#[test]
fn two_that_want_the_same_file_download_it_once() {
    let server = Server::of(file());
    let place = Arc::new(Place::new());
    let url = server.url(NAME);
    let one = |url: String, place: Arc<Place>| {
        move || {
            fetch(&weights(&url), &place.settings, &place.watch, &place.watch.cancel())
                .unwrap_or_else(|error| panic!("{error}"))
        }
    };
    let both: Vec<_> = (0..4).map(|_| thread::spawn(one(url.clone(), place.clone()))).collect();
    both.into_iter().for_each(|thread| drop(thread.join().unwrap()));
    assert_eq!(server.requests().len(), 1);
    place.gets(&server);
}

#[test]
fn a_full_digest_is_checked_to_the_end() {
    let server = Server::of(file());
    let whole = digest(&file());
    let wrong = whole[..63].to_owned() + if whole.ends_with('0') { "1" } else { "0" };
    let (url, place) = (format!("{:?}", server.url(NAME)), Place::new());
    let get = |sha: &str| {
        let entry = weights_with(&[("url", &url), ("sha256", &format!("{sha:?}"))]);
        fetch(&entry, &place.settings, &place.watch, &place.watch.cancel())
    };
    assert!(get(&wrong).unwrap_err().to_string().contains(&whole));
    assert_eq!(fs::read(get(&whole).unwrap().path).unwrap().len(), file().len());
}
