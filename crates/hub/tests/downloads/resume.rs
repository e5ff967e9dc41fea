//! Downloads that break off and continue.

use std::fs;
use std::sync::atomic::Ordering;

use regraft_hub::{Cached, Error, Reason};
use regraft_testing::server::{Reply, Server};

use crate::common::{Cache, NAME, file, weights};

/// Bytes that never arrive at first.
const MISSING: usize = 200_000;

/// Bytes of the file.
fn len() -> usize {
    file().len()
}

/// A server that first sends `first`, then behaves.
fn after(first: impl Fn() -> Reply + Send + Sync + 'static) -> Server {
    Server::new(move |number, request| match number {
        0 => first(),
        _ => Reply::file(request, &file(), "\"it\""),
    })
}

fn cut() -> Reply {
    Reply::whole(&file(), Some("\"it\"")).cut(MISSING)
}

#[test]
fn fetch_continues_a_broken_download() {
    let (cache, server) = (Cache::new(), after(cut));
    cache.gets(&server);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[1].start(), requests[1].header("if-range")), (Some(len() - MISSING), Some("\"it\"")));
    let messages = cache.listener.messages();
    assert!(messages.contains(&format!("broke after {} bytes", len() - MISSING)), "{messages}");
}

#[test]
fn fetch_continues_a_stalled_download() {
    let (cache, server) = (Cache::new(), after(|| cut().stall()));
    cache.gets(&server);
    assert_eq!(server.requests()[1].start(), Some(len() - MISSING));
    assert!(cache.listener.messages().contains("stalled"), "{}", cache.listener.messages());
    // Stalled before the first byte of the response.
    let (cache, server) = (Cache::new(), after(|| Reply::raw("").stall()));
    cache.gets(&server);
    assert!(cache.listener.messages().contains("did not respond"), "{}", cache.listener.messages());
}

#[test]
fn fetch_continues_a_failed_download() {
    let cache = Cache::new();
    let server = Server::new(|number, request| match number {
        0 => cut(),
        _ => Reply::file(request, &file(), "\"it\"").cut(MISSING),
    });
    let message = cache.fails(&server, |reason| matches!(reason, Reason::Broken { attempts: 3, .. }));
    assert!(message.contains("tried 3 times") && message.contains("kept for the next try"), "{message}");
    cache.holds(len() - MISSING);
    assert_eq!(cache.settings.cached(&weights(&server.url(NAME))), Cached::Partial((len() - MISSING) as u64));
    let server = Server::of(file());
    cache.gets(&server);
    assert_eq!(server.requests()[0].start(), Some(len() - MISSING));
}

#[test]
fn fetch_lets_a_slow_but_steady_download_finish() {
    // Each response brings a little more than a hundredth of the file, and there are only two retries.
    let step = len() / 99;
    let server = Server::new(move |_, request| {
        let rest = len() - request.start().unwrap_or(0);
        Reply::file(request, &file(), "\"it\"").cut(rest.saturating_sub(step))
    });
    Cache::new().gets(&server);
    assert_eq!(server.requests().len(), 100);
}

#[test]
fn fetch_continues_a_cancelled_download() {
    let (cache, server) = (Cache::new(), Server::of(file()));
    cache.listener.stop_at.store(100_000, Ordering::SeqCst);
    assert!(matches!(cache.fetch(&server).unwrap_err(), Error::Cancelled));
    let done = cache.listener.done() as usize;
    assert!((100_000..len()).contains(&done), "{done}");
    cache.holds(done);
    cache.listener.stop_at.store(0, Ordering::SeqCst);
    cache.gets(&server);
    assert_eq!(server.requests()[1].start(), Some(done));
}

#[test]
fn fetch_renames_a_whole_part() {
    let (cache, server) = (Cache::new(), Server::of(file()));
    cache.put(&format!("{NAME}.part"), &file());
    cache.put(&format!("{NAME}.part.etag"), b"\"it\"");
    cache.gets(&server);
    assert!(server.requests().is_empty());
}

#[test]
fn fetch_starts_again_if_the_server_ignores_ranges() {
    let server = Server::new(|number, _| match number {
        0 => cut(),
        _ => Reply::whole(&file(), Some("\"it\"")),
    });
    Cache::new().gets(&server);
    // Servers that send another range than the requested one.
    for shift in [1, len() - MISSING] {
        let server = Server::new(move |number, request| match (number, request.start()) {
            (0, _) => cut(),
            (1, Some(start)) => Reply::part(&file(), start - shift, Some("\"it\"")),
            _ => Reply::file(request, &file(), "\"it\""),
        });
        Cache::new().gets(&server);
        let starts: Vec<_> = server.requests().iter().map(|request| request.start()).collect();
        assert_eq!(starts, [None, Some(len() - MISSING), None]);
    }
}

#[test]
fn fetch_starts_again_if_the_file_changed() {
    let mut old = file();
    old.iter_mut().for_each(|byte| *byte ^= 0x55);
    let first = {
        let old = old.clone();
        move || Reply::whole(&old, Some("\"old\"")).cut(MISSING)
    };
    // A good server sends the whole new file.
    let server = after(first.clone());
    Cache::new().gets(&server);
    assert_eq!(server.requests()[1].header("if-range"), Some("\"old\""));
    // A bad one sends the rest of the new file, with its new validator or without any.
    for tag in [Some("\"new\""), None] {
        let first = first.clone();
        let server = Server::new(move |number, request| match (number, request.start()) {
            (0, _) => first(),
            (_, Some(start)) => Reply::part(&file(), start, tag),
            _ => Reply::whole(&file(), tag),
        });
        let cache = Cache::new();
        cache.gets(&server);
        assert_eq!(server.requests().len(), 3);
        assert_eq!(
            cache.listener.messages().contains("downloading it again"),
            tag.is_none(),
            "{}",
            cache.listener.messages()
        );
    }
}

#[test]
fn fetch_does_not_continue_without_a_validator() {
    for tag in [None, Some("W/\"weak\"")] {
        let server = Server::new(move |number, _| match number {
            0 => Reply::whole(&file(), tag).cut(MISSING),
            _ => Reply::whole(&file(), tag),
        });
        Cache::new().gets(&server);
        assert_eq!(server.requests()[1].start(), None);
    }
}

#[test]
fn fetch_drops_a_part_whose_range_is_refused() {
    let server = Server::new(|number, request| match (number, request.start()) {
        (0, _) => cut(),
        (_, Some(_)) => Reply::status(416),
        _ => Reply::whole(&file(), Some("\"it\"")),
    });
    Cache::new().gets(&server);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn fetch_replaces_a_part_of_another_file() {
    let cache = Cache::new();
    cache.put(&format!("{NAME}.part"), &vec![7; 1000]);
    cache.put(&format!("{NAME}.part.etag"), b"\"it\"");
    let server = Server::of(file());
    cache.gets(&server);
    assert!(fs::read(cache.path(NAME)).unwrap() == file());
    assert!(cache.listener.messages().contains("downloading it again"), "{}", cache.listener.messages());
}
