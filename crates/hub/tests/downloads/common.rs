//! A file to fetch, a cache to fetch it into, and a listener.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use regraft_hub::{Error, Local, Reason, Registry, Settings, Timeouts, Weights, fetch};
use regraft_io::sha256;
use regraft_progress::{BYTES, Cancel, Progress};
use regraft_testing::pattern;
use regraft_testing::server::Server;
use tempfile::TempDir;

/// The name of the file.
pub const NAME: &str = "weights-of-nothing.pth";

/// Its bytes: a few hundred KiB, more than a socket holds.
pub fn file() -> Vec<u8> {
    pattern::values("a file of weights", 300_000).iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A cache with settings that do not wait long.
pub struct Cache {
    dir: TempDir,
    pub settings: Settings,
    pub listener: Listener,
}

impl Cache {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let timeouts = Timeouts {
            connect: Duration::from_secs(20),
            read: Duration::from_secs(2),
            retry_pauses: vec![Duration::from_millis(1); 2],
            max_retry_pause: Duration::from_millis(20),
        };
        let home = dir.path().join("cache");
        let settings = Settings { home, mirror: None, offline: false, certificates: None, timeouts };
        Self { dir, settings, listener: Listener::default() }
    }

    /// Fetches `file()` from `server`.
    pub fn fetch(&self, server: &Server) -> Result<Local, Error> {
        fetch(&weights(&server.url(NAME)), &self.settings, &self.listener, &self.listener.cancel())
    }

    /// Fetches it, requires its bytes to be right, and that the cache holds nothing else.
    #[track_caller]
    pub fn gets(&self, server: &Server) {
        let local = self.fetch(server).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(local.path, self.path(NAME));
        assert!(fs::read(&local.path).unwrap() == file(), "the file is not what was sent");
        assert_eq!(local.sha256, sha256(&file()));
        assert_eq!(self.names(), [format!(".{NAME}.lock"), NAME.into()], "nothing else is left");
    }

    /// Fetches it, requires that to fail for a reason that `fits`, and returns the message.
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

    /// Requires that a failed download left nothing to continue from.
    #[track_caller]
    pub fn holds_nothing(&self) {
        assert_eq!(self.names(), [format!(".{NAME}.lock")]);
    }

    /// Requires that a failed download left the first `bytes` bytes of the file and its validator.
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
    let (digest, bytes) = (format!("{:?}", &sha256(&file())[..8]), file().len().to_string());
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
    fs::write(dir.path().join("registry.toml"), table).unwrap();
    Registry::with_user_entries(dir.path()).unwrap().find("nothing", "default").unwrap().clone()
}

/// Records what a download reports, and cancels it after a number of bytes.
#[derive(Default)]
pub struct Listener {
    messages: Mutex<Vec<String>>,
    done: AtomicU64,
    cancel: Mutex<Cancel>,
    /// Cancels once this many bytes have arrived; 0 for never.
    pub stop_at: AtomicU64,
}

impl Listener {
    /// All notes and warnings, one a line.
    pub fn messages(&self) -> String {
        self.messages.lock().unwrap().join("\n")
    }

    /// A new [`Cancel`], which the listener uses from then on.
    pub fn cancel(&self) -> Cancel {
        let cancel = Cancel::new();
        *self.cancel.lock().unwrap() = cancel.clone();
        cancel
    }

    /// Bytes reported last.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }
}

impl Progress for Listener {
    fn note(&self, text: &str) {
        self.messages.lock().unwrap().push(text.into());
    }

    fn warn(&self, text: &str) {
        self.messages.lock().unwrap().push(format!("warning: {text}"));
    }

    fn begin(&self, file: &str, unit: &str, bytes: u64) {
        assert!(file == NAME && unit == BYTES && bytes > 0);
    }

    fn advance(&self, bytes: u64, _detail: &str) {
        self.done.store(bytes, Ordering::SeqCst);
        let stop_at = self.stop_at.load(Ordering::SeqCst);
        if stop_at > 0 && bytes >= stop_at {
            self.cancel.lock().unwrap().cancel();
        }
    }
}
