//! Servers that behave, and files that are already in the cache.

use std::fs;
use std::sync::Arc;
use std::thread;

use regraft_hub::{Cached, Error, fetch};
use regraft_io::sha256;
use regraft_testing::server::{Reply, Server};

use crate::common::{Cache, NAME, file, weights, weights_with};

#[test]
fn fetch_downloads_once() {
    let (cache, server) = (Cache::new(), Server::of(file()));
    let entry = weights(&server.url(NAME));
    assert_eq!(cache.settings.cached(&entry), Cached::Absent);
    cache.gets(&server);
    assert_eq!(cache.settings.cached(&entry), Cached::Whole);
    assert_eq!(cache.listener.done(), file().len() as u64);
    let messages = cache.listener.messages();
    for part in [server.url(NAME).as_str(), "1.1 MiB", "licence: MIT", "patterns", "cache"] {
        assert!(messages.contains(part), "{part:?} is not in {messages}");
    }
    cache.gets(&server);
    assert_eq!(server.requests().len(), 1);
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.start()), ("GET", None));
    assert!(request.header("user-agent").unwrap().starts_with("regraft/"));
}

#[test]
fn fetch_uses_the_mirror() {
    let (mut cache, server) = (Cache::new(), Server::of(file()));
    cache.settings.mirror = Some(server.url("a/folder"));
    fetch(
        &weights("https://nowhere.invalid/of/theirs/weights-of-nothing.pth"),
        &cache.settings,
        &cache.listener,
        &cache.listener.cancel(),
    )
    .unwrap();
    assert_eq!(server.requests()[0].path, format!("/a/folder/{NAME}"));
}

#[test]
fn fetch_follows_redirects() {
    let server = Server::new(|_, request| match request.path.as_str() {
        "/there.pth" => Reply::file(request, &file(), "\"it\""),
        _ => Reply::new(302, &["Location: /there.pth", "Content-Length: 0"], b""),
    });
    Cache::new().gets(&server);
}

#[test]
fn fetch_accepts_a_body_of_unknown_length() {
    let chunked = |file: &[u8]| {
        let chunks = file.chunks(70_000).flat_map(|c| [format!("{:x}\r\n", c.len()).as_bytes(), c, b"\r\n"].concat());
        [chunks.collect(), b"0\r\n\r\n".to_vec()].concat()
    };
    Cache::new().gets(&Server::new(move |_, _| Reply::new(200, &["Transfer-Encoding: chunked"], &chunked(&file()))));
    Cache::new().gets(&Server::new(|_, _| Reply::new(200, &[], &file())));
}

#[test]
fn fetch_offline_uses_a_file_put_there_by_hand() {
    let (mut cache, server) = (Cache::new(), Server::of(file()));
    cache.settings.offline = true;
    let error = cache.fetch(&server).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::Offline { damage: None, .. }), "{message}");
    for part in [
        "`offline`",
        "REGRAFT_OFFLINE",
        "is not there",
        &server.url(NAME),
        &cache.path(NAME).display().to_string(),
        "by hand",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert!(cache.names().is_empty(), "not even the folder is created");
    cache.put(NAME, &file());
    assert_eq!(cache.fetch(&server).unwrap().sha256, sha256(&file()));
    assert!(server.requests().is_empty());
}

#[test]
fn fetch_replaces_a_damaged_file() {
    let mut flipped = file();
    flipped[1000] ^= 1;
    for (damaged, what) in [(flipped, "SHA-256"), (file()[1..].to_vec(), "bytes instead of"), (Vec::new(), "0 bytes")] {
        let (mut cache, server) = (Cache::new(), Server::of(file()));
        cache.put(NAME, &damaged);
        cache.settings.offline = true;
        let error = cache.fetch(&server).unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains(what), "{error}");
        cache.settings.offline = false;
        cache.gets(&server);
        let messages = cache.listener.messages();
        assert!(
            messages.contains("warning: ") && messages.contains(what) && messages.contains("downloading it again"),
            "{messages}"
        );
    }
}

#[test]
fn concurrent_fetches_download_once() {
    let server = Server::of(file());
    let cache = Arc::new(Cache::new());
    let url = server.url(NAME);
    let one = |url: String, cache: Arc<Cache>| {
        move || {
            fetch(&weights(&url), &cache.settings, &cache.listener, &cache.listener.cancel())
                .unwrap_or_else(|error| panic!("{error}"))
        }
    };
    let both: Vec<_> = (0..4).map(|_| thread::spawn(one(url.clone(), cache.clone()))).collect();
    both.into_iter().for_each(|thread| drop(thread.join().unwrap()));
    assert_eq!(server.requests().len(), 1);
    cache.gets(&server);
}

#[test]
fn fetch_checks_all_published_digits() {
    let server = Server::of(file());
    let whole = sha256(&file());
    let wrong = whole[..63].to_owned() + if whole.ends_with('0') { "1" } else { "0" };
    let (url, cache) = (format!("{:?}", server.url(NAME)), Cache::new());
    let get = |sha: &str| {
        let entry = weights_with(&[("url", &url), ("sha256", &format!("{sha:?}"))]);
        fetch(&entry, &cache.settings, &cache.listener, &cache.listener.cancel())
    };
    assert!(get(&wrong).unwrap_err().to_string().contains(&whole));
    assert_eq!(fs::read(get(&whole).unwrap().path).unwrap().len(), file().len());
}
