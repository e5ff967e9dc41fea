//! A file to fetch, a cache to fetch it into, and somebody who listens.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use regraft_hub::{Error, Local, Patience, Reason, Registry, Settings, Weights, fetch};
use regraft_progress::{Cancel, Progress};
use regraft_testing::pattern;
use regraft_testing::server::Server;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The name of the file.
pub const NAME: &str = "weights-of-nothing.pth";

/// Its bytes: a few hundred KiB, more than a socket holds.
pub fn file() -> Vec<u8> {
    pattern::values("a file of weights", 300_000).iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A cache, and the settings to fetch into it without waiting long.
pub struct Place {
    dir: TempDir,
    pub settings: Settings,
    pub watch: Listener,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let patience = Patience {
            connect: Duration::from_secs(20),
            stall: Duration::from_secs(2),
            pauses: vec![Duration::from_millis(1); 2],
            longest_pause: Duration::from_millis(20),
        };
        let home = dir.path().join("cache");
        let settings = Settings { home, mirror: None, offline: false, certificates: None, patience };
        Self { dir, settings, watch: Listener::default() }
    }

    /// Fetches `file()` from `server`.
    pub fn fetch(&self, server: &Server) -> Result<Local, Error> {
        fetch(&weights(&server.url(NAME)), &self.settings, &self.watch, &self.watch.cancel())
    }

    /// Fetches it and requires it to be right.
    #[track_caller]
    pub fn gets(&self, server: &Server) {
        let local = self.fetch(server).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(local.path, self.path(NAME));
        assert!(fs::read(&local.path).unwrap() == file(), "the file is not what was sent");
        assert_eq!(local.sha256, digest(&file()));
        assert_eq!(self.names(), [format!(".{NAME}.lock"), NAME.into()], "nothing else stays");
    }

    /// Fetches it, requires that to fail while the server did what `reason` says, and that the message says all.
    #[track_caller]
    pub fn fails(&self, server: &Server, fits: impl Fn(&Reason) -> bool) -> String {
        let error = self.fetch(server).unwrap_err();
        let message = error.to_string();
        let Error::Fetch { url, path, reason } = error else { panic!("{message}") };
        assert!(fits(&reason), "{reason:?}");
        assert!(message.contains(&url) && url == server.url(NAME), "{message}");
        assert!(message.ends_with(&format!("put the file at {} by hand", path.display())), "{message}");
        assert!(!self.path(NAME).exists());
        message
    }

    /// A path in the cache.
    pub fn path(&self, name: &str) -> PathBuf {
        self.settings.home.join(name)
    }

    /// Puts a file into the cache.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(&self.settings.home).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The names in the cache, sorted.
    pub fn names(&self) -> Vec<String> {
        let Ok(names) = fs::read_dir(&self.settings.home) else { return Vec::new() };
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Requires that a failed download has left nothing to go on from.
    #[track_caller]
    pub fn holds_nothing(&self) {
        assert_eq!(self.names(), [format!(".{NAME}.lock")]);
    }

    /// Requires that a failed download has left the first `bytes` bytes of the file, and what to go on by.
    #[track_caller]
    pub fn holds(&self, bytes: usize) {
        let part = format!("{NAME}.part");
        assert_eq!(self.names(), [format!(".{NAME}.lock"), part.clone(), format!("{part}.etag")]);
        assert!(fs::read(self.path(&part)).unwrap() == file()[..bytes], "not the first {bytes} bytes");
    }

    /// A path beside the cache.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The entry of `file()` at `url`.
pub fn weights(url: &str) -> Weights {
    weights_with(&[("url", &format!("{url:?}"))])
}

/// The entry of `file()`, with other values for some keys.
pub fn weights_with(changes: &[(&str, &str)]) -> Weights {
    let (digest, bytes) = (format!("{:?}", &digest(&file())[..8]), file().len().to_string());
    let mut entry: BTreeMap<&str, &str> = BTreeMap::from([
        ("backbone", "'nothing'"),
        ("name", "'V1'"),
        ("default", "true"),
        ("url", "'http://localhost/weights-of-nothing.pth'"),
        ("sha256", &digest),
        ("bytes", &bytes),
        ("parameters", "300000"),
        ("metric", "'nothing'"),
        ("accuracy", "0.0"),
        ("licence", "'MIT'"),
        ("trained_on", "'patterns'"),
        ("min_size", "1"),
        ("resize", "1"),
        ("crop", "1"),
        ("interpolation", "'bilinear'"),
        ("mean", "[0.0, 0.0, 0.0]"),
        ("std", "[1.0, 1.0, 1.0]"),
    ]);
    entry.extend(changes.iter().copied());
    let lines = entry.iter().map(|(key, value)| format!("{key} = {value}\n"));
    let dir = tempfile::tempdir().unwrap();
    let table = format!("[[weights]]\n{}", lines.collect::<String>());
    fs::write(dir.path().join(regraft_hub::OWN), table).unwrap();
    Registry::with_own(dir.path()).unwrap().find("nothing", "default").unwrap().clone()
}

pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keeps what a download says, and ends it after a number of bytes.
#[derive(Default)]
pub struct Listener {
    said: Mutex<Vec<String>>,
    done: AtomicU64,
    cancel: Mutex<Cancel>,
    /// Interrupts where so many bytes are here; 0 for never.
    pub stop_at: AtomicU64,
}

impl Listener {
    /// All notes and warnings, one a line.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// A wish to stop that the download's progress may bring about.
    pub fn cancel(&self) -> Cancel {
        let cancel = Cancel::new();
        *self.cancel.lock().unwrap() = cancel.clone();
        cancel
    }

    /// Bytes that it was told of last.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }
}

impl Progress for Listener {
    fn note(&self, text: &str) {
        self.said.lock().unwrap().push(text.into());
    }

    fn warn(&self, text: &str) {
        self.said.lock().unwrap().push(format!("warning: {text}"));
    }

    fn begin(&self, file: &str, unit: &str, bytes: u64) {
        assert!(file == NAME && unit == "bytes" && bytes > 0);
    }

    fn advance(&self, bytes: u64, _detail: &str) {
        self.done.store(bytes, Ordering::SeqCst);
        let stop_at = self.stop_at.load(Ordering::SeqCst);
        if stop_at > 0 && bytes >= stop_at {
            self.cancel.lock().unwrap().cancel();
        }
    }
}
