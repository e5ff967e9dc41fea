//! Where downloaded files are kept, and how they are downloaded.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcetera::BaseStrategy;

use crate::{Error, Result, Weights};

/// Where downloaded files are kept, and how they are downloaded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of downloaded files; need not exist yet.
    pub home: PathBuf,
    /// Address with the same files under the same names, used instead of the publishers'.
    pub mirror: Option<String>,
    /// Whether downloads are forbidden.
    pub offline: bool,
    /// PEM file of certificates to trust instead of the built-in ones.
    pub certificates: Option<PathBuf>,
    /// Timeouts and retries.
    pub timeouts: Timeouts,
}

/// How long to wait, and how often to retry.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Longest wait for the next bytes.
    pub read: Duration,
    /// Pause before each retry. The download fails once all are used up; an attempt that brings at least a hundredth of
    /// the file makes all of them available again.
    pub retry_pauses: Vec<Duration>,
    /// Longest pause that a server may ask for.
    pub max_retry_pause: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(20),
            read: seconds(30),
            retry_pauses: [1, 2, 4, 8].map(seconds).to_vec(),
            max_retry_pause: seconds(60),
        }
    }
}

impl Settings {
    /// Reads the settings from `REGRAFT_HOME`, `XDG_CACHE_HOME`, `REGRAFT_MIRROR`, `REGRAFT_OFFLINE` and `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the variable, its value and what is allowed.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
        let offline = match text("REGRAFT_OFFLINE").map(|value| value.to_lowercase()).as_deref() {
            None | Some("0" | "false" | "no" | "off") => false,
            Some("1" | "true" | "yes" | "on") => true,
            Some(other) => {
                return Err(Error::Setting {
                    field: "REGRAFT_OFFLINE",
                    value: format!("{other:?}"),
                    allowed: "1 or 0".into(),
                });
            }
        };
        let mirror = text("REGRAFT_MIRROR").map(mirror).transpose()?;
        let home = home(&variable)?;
        let certificates = variable("SSL_CERT_FILE").map(PathBuf::from);
        Ok(Self { home, mirror, offline, certificates, timeouts: Timeouts::default() })
    }

    /// Path of a file in the cache.
    pub fn path(&self, weights: &Weights) -> PathBuf {
        self.home.join(weights.file_name())
    }

    /// Address that a file is downloaded from: the mirror's if there is one, else the publisher's.
    pub fn url(&self, weights: &Weights) -> String {
        match &self.mirror {
            Some(mirror) => format!("{mirror}/{}", weights.file_name()),
            None => weights.url.clone(),
        }
    }

    /// What the cache holds of a file, judged by size alone.
    pub fn cached(&self, weights: &Weights) -> Cached {
        let length = |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|file| file.len());
        let path = self.path(weights);
        match (length(&path), length(&crate::part::part_path(&path))) {
            (Some(bytes), _) if weights.bytes().contains(&bytes) => Cached::Whole,
            (Some(_), _) => Cached::Damaged,
            (None, Some(bytes)) if bytes > 0 => Cached::Partial(bytes),
            (None, _) => Cached::Absent,
        }
    }
}

/// What the cache holds of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// Nothing.
    Absent,
    /// The first bytes, this many.
    Partial(u64),
    /// A file of the published size.
    Whole,
    /// A file of another size.
    Damaged,
}

/// Checks a mirror's address and drops the slash at its end.
fn mirror(text: String) -> Result<String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') && !text.contains(['?', '#', ' ']) => {
            Ok(text.trim_end_matches('/').into())
        }
        _ => Err(Error::Setting {
            field: "REGRAFT_MIRROR",
            value: format!("{text:?}"),
            allowed: "an address such as https://mirror.example/weights".into(),
        }),
    }
}

/// The cache folder: `REGRAFT_HOME`, else `regraft` in `XDG_CACHE_HOME` or in the system's folder of caches.
fn home(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let wrong = |value: String, allowed: String| Error::Setting { field: "REGRAFT_HOME", value, allowed };
    if let Some(home) = variable("REGRAFT_HOME").map(PathBuf::from) {
        return std::path::absolute(&home).map_err(|e| wrong(home.display().to_string(), format!("a folder ({e})")));
    }
    // On every system, for users who set it. The XDG specification says to ignore relative paths.
    if let Some(cache) = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Ok(cache.join("regraft"));
    }
    let caches = etcetera::base_strategy::choose_native_strategy().map(|strategy| strategy.cache_dir());
    caches.map(|caches| caches.join("regraft")).map_err(|_| {
        wrong("not set".into(), "a folder for downloaded weights, because this user has no home folder".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_variables(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[cfg(unix)]
    #[test]
    fn home_follows_the_environment() {
        let home = |variables: &[(&str, &str)]| settings(variables).unwrap().home;
        assert_eq!(home(&[("REGRAFT_HOME", "/a/b"), ("XDG_CACHE_HOME", "/c")]), Path::new("/a/b"));
        assert_eq!(home(&[("REGRAFT_HOME", "b")]), env::current_dir().unwrap().join("b"));
        assert_eq!(home(&[("XDG_CACHE_HOME", "/c")]), Path::new("/c/regraft"));
        let usual = home(&[("XDG_CACHE_HOME", "c")]);
        assert!(usual.is_absolute() && usual.ends_with("regraft"), "{}", usual.display());
    }

    #[test]
    fn url_replaces_everything_before_the_name_by_the_mirror() {
        let registry = Registry::published();
        let weights = registry.find("resnet18", "default").unwrap();
        let url = |mirror: &str| Ok::<_, Error>(settings(&[("REGRAFT_MIRROR", mirror)])?.url(weights));
        assert_eq!(url("http://10.0.0.1:8000/w/").unwrap(), "http://10.0.0.1:8000/w/resnet18-f37072fd.pth");
        assert_eq!(url("https://host").unwrap(), "https://host/resnet18-f37072fd.pth");
        for wrong in ["host/path", "ftp://host", "https://", "https:///path", "https://host/?a"] {
            let message = url(wrong).unwrap_err().to_string();
            assert!(message.contains("REGRAFT_MIRROR") && message.contains(wrong), "{message}");
        }
        assert_eq!(settings(&[]).unwrap().url(weights), weights.url);
    }

    #[test]
    fn offline_is_read_as_yes_or_no() {
        for (value, offline) in [("1", true), ("True", true), ("0", false), ("off", false)] {
            assert_eq!(settings(&[("REGRAFT_OFFLINE", value)]).unwrap().offline, offline, "{value}");
        }
        let error = settings(&[("REGRAFT_OFFLINE", "perhaps")]).unwrap_err();
        assert_eq!(error.to_string(), "REGRAFT_OFFLINE is \"perhaps\"; it must be 1 or 0");
        assert_eq!(error.kind(), regraft_io::ErrorKind::Setting);
    }
}
