//! Downloads that end before their end, and go on.

use std::fs;
use std::sync::atomic::Ordering;

use regraft_hub::{Cached, Error, Reason};
use regraft_testing::server::{Reply, Server};

use crate::common::{NAME, Place, file, weights};

/// Bytes that never arrive at first.
const MISSING: usize = 200_000;

/// Bytes of the file.
fn len() -> usize {
    file().len()
}

/// A server that first answers with `first`, then as a good one.
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
fn a_download_that_is_cut_short_goes_on_where_it_was() {
    let (place, server) = (Place::new(), after(cut));
    place.gets(&server);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[1].start(), requests[1].header("if-range")), (Some(len() - MISSING), Some("\"it\"")));
    let said = place.watch.said();
    assert!(said.contains(&format!("broke off after {} bytes", len() - MISSING)), "{said}");
}

#[test]
fn a_download_that_stalls_goes_on_where_it_was() {
    let (place, server) = (Place::new(), after(|| cut().stall()));
    place.gets(&server);
    assert_eq!(server.requests()[1].start(), Some(len() - MISSING));
    assert!(place.watch.said().contains("nothing more came"), "{}", place.watch.said());
    // Before a word of its answer.
    let (place, server) = (Place::new(), after(|| Reply::raw("").stall()));
    place.gets(&server);
    assert!(place.watch.said().contains("did not answer"), "{}", place.watch.said());
}

#[test]
fn a_download_that_cannot_go_on_leaves_what_has_arrived_to_the_next() {
    let place = Place::new();
    let server = Server::new(|number, request| match number {
        0 => cut(),
        _ => Reply::file(request, &file(), "\"it\"").cut(MISSING),
    });
    let message = place.fails(&server, |reason| matches!(reason, Reason::Broken { attempts: 3, .. }));
    assert!(message.contains("tried 3 times") && message.contains("kept for the next try"), "{message}");
    place.holds(len() - MISSING);
    assert_eq!(place.settings.cached(&weights(&server.url(NAME))), Cached::Partial((len() - MISSING) as u64));
    let server = Server::of(file());
    place.gets(&server);
    assert_eq!(server.requests()[0].start(), Some(len() - MISSING));
}

#[test]
fn slow_but_steady_arrives() {
    // Each answer brings a little more than a hundredth of the file, and there are only two pauses.
    let step = len() / 99;
    let server = Server::new(move |_, request| {
        let rest = len() - request.start().unwrap_or(0);
        Reply::file(request, &file(), "\"it\"").cut(rest.saturating_sub(step))
    });
    Place::new().gets(&server);
    assert_eq!(server.requests().len(), 100);
}

#[test]
fn an_interrupted_download_goes_on_too() {
    let (place, server) = (Place::new(), Server::of(file()));
    place.watch.stop_at.store(100_000, Ordering::SeqCst);
    assert!(matches!(place.fetch(&server).unwrap_err(), Error::Interrupted));
    let done = place.watch.done() as usize;
    assert!((100_000..len()).contains(&done), "{done}");
    place.holds(done);
    place.watch.stop_at.store(0, Ordering::SeqCst);
    place.gets(&server);
    assert_eq!(server.requests()[1].start(), Some(done));
}

#[test]
fn a_whole_part_needs_only_its_name() {
    let (place, server) = (Place::new(), Server::of(file()));
    place.put(&format!("{NAME}.part"), &file());
    place.put(&format!("{NAME}.part.etag"), b"\"it\"");
    place.gets(&server);
    assert!(server.requests().is_empty());
}

#[test]
fn a_server_that_ignores_ranges_begins_again() {
    let server = Server::new(|number, _| match number {
        0 => cut(),
        _ => Reply::whole(&file(), Some("\"it\"")),
    });
    Place::new().gets(&server);
    // One that says 200 and sends part of the file nevertheless, and one that sends another part.
    for shift in [1, len() - MISSING] {
        let server = Server::new(move |number, request| match (number, request.start()) {
            (0, _) => cut(),
            (1, Some(start)) => Reply::part(&file(), start - shift, Some("\"it\"")),
            _ => Reply::file(request, &file(), "\"it\""),
        });
        Place::new().gets(&server);
        let starts: Vec<_> = server.requests().iter().map(|request| request.start()).collect();
        assert_eq!(starts, [None, Some(len() - MISSING), None]);
    }
}

#[test]
fn a_file_that_changes_between_two_attempts_begins_again() {
    let mut old = file();
    old.iter_mut().for_each(|byte| *byte ^= 0x55);
    let first = {
        let old = old.clone();
        move || Reply::whole(&old, Some("\"old\"")).cut(MISSING)
    };
    // A good server sends the whole new file.
    let server = after(first.clone());
    Place::new().gets(&server);
    assert_eq!(server.requests()[1].header("if-range"), Some("\"old\""));
    // A bad one sends the rest of the new file, under its new name or without any.
    for tag in [Some("\"new\""), None] {
        let first = first.clone();
        let server = Server::new(move |number, request| match (number, request.start()) {
            (0, _) => first(),
            (_, Some(start)) => Reply::part(&file(), start, tag),
            _ => Reply::whole(&file(), tag),
        });
        let place = Place::new();
        place.gets(&server);
        assert_eq!(server.requests().len(), 3);
        assert_eq!(place.watch.said().contains("anew"), tag.is_none(), "{}", place.watch.said());
    }
}

#[test]
fn nobody_goes_on_with_a_file_that_has_no_name() {
    for tag in [None, Some("W/\"weak\"")] {
        let server = Server::new(move |number, _| match number {
            0 => Reply::whole(&file(), tag).cut(MISSING),
            _ => Reply::whole(&file(), tag),
        });
        Place::new().gets(&server);
        assert_eq!(server.requests()[1].start(), None);
    }
}

#[test]
fn a_part_that_the_server_does_not_know_is_forgotten() {
    let server = Server::new(|number, request| match (number, request.start()) {
        (0, _) => cut(),
        (_, Some(_)) => Reply::status(416),
        _ => Reply::whole(&file(), Some("\"it\"")),
    });
    Place::new().gets(&server);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_part_of_something_else_does_not_stay_for_ever() {
    let place = Place::new();
    place.put(&format!("{NAME}.part"), &vec![7; 1000]);
    place.put(&format!("{NAME}.part.etag"), b"\"it\"");
    let server = Server::of(file());
    place.gets(&server);
    assert!(fs::read(place.path(NAME)).unwrap() == file());
    assert!(place.watch.said().contains("anew"), "{}", place.watch.said());
}
