//! Where files are kept and how they are fetched, by the environment.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcetera::BaseStrategy;

use crate::{Error, Result, Weights};

/// Where files are kept and how they are fetched.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of downloaded files, which need not exist yet.
    pub home: PathBuf,
    /// An address that holds the same files under the same names and is asked instead of the publishers.
    pub mirror: Option<String>,
    /// Whether nothing may be downloaded.
    pub offline: bool,
    /// Certificates in PEM that are trusted instead of those built in.
    pub certificates: Option<PathBuf>,
    /// How long to wait for what.
    pub patience: Patience,
}

/// How long to wait, and how often to try again.
#[derive(Clone, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes.
    pub stall: Duration,
    /// Before each new attempt after one that brought next to nothing; with the last of them it gives up.
    pub pauses: Vec<Duration>,
    /// The longest pause that a server may ask for.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(20),
            stall: seconds(30),
            pauses: [1, 2, 4, 8].map(seconds).to_vec(),
            longest_pause: seconds(60),
        }
    }
}

impl Settings {
    /// The settings that `REGRAFT_HOME`, `XDG_CACHE_HOME`, `REGRAFT_MIRROR`, `REGRAFT_OFFLINE` and `SSL_CERT_FILE` make.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the variable, its value and what is allowed.
    pub fn from_env() -> Result<Self> {
        Self::from(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
        let offline = match text("REGRAFT_OFFLINE").map(|value| value.to_lowercase()).as_deref() {
            None | Some("0" | "false" | "no" | "off") => false,
            Some("1" | "true" | "yes" | "on") => true,
            Some(other) => {
                return Err(Error::Setting(format!("REGRAFT_OFFLINE is {other:?}; it must be 1 or 0")));
            }
        };
        let mirror = text("REGRAFT_MIRROR").map(mirror).transpose()?;
        let home = home(&variable)?;
        let certificates = variable("SSL_CERT_FILE").map(PathBuf::from);
        Ok(Self { home, mirror, offline, certificates, patience: Patience::default() })
    }

    /// Where a file belongs.
    pub fn path(&self, weights: &Weights) -> PathBuf {
        self.home.join(weights.file_name())
    }

    /// Where a file is asked for.
    pub fn url(&self, weights: &Weights) -> String {
        match &self.mirror {
            Some(mirror) => format!("{mirror}/{}", weights.file_name()),
            None => weights.url.clone(),
        }
    }

    /// What is in the place of a file, by its size alone.
    pub fn cached(&self, weights: &Weights) -> Cached {
        let length = |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|file| file.len());
        let path = self.path(weights);
        match (length(&path), length(&crate::part::partial(&path))) {
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
    /// So many bytes of it.
    Partial(u64),
    /// A file of its size.
    Whole,
    /// A file of another size.
    Damaged,
}

/// Checks the address of a mirror and drops the slash at its end.
fn mirror(text: String) -> Result<String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') && !text.contains(['?', '#', ' ']) => {
            Ok(text.trim_end_matches('/').into())
        }
        _ => Err(Error::Setting(format!(
            "REGRAFT_MIRROR is {text:?}; it must be an address such as https://mirror.example/weights"
        ))),
    }
}

/// `REGRAFT_HOME`, else `regraft` in `XDG_CACHE_HOME` or where the system keeps caches.
fn home(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let absolute =
        |path: PathBuf| std::path::absolute(&path).map_err(|source| Error::Cache { what: "find", path, source });
    if let Some(home) = variable("REGRAFT_HOME") {
        return absolute(home.into());
    }
    // Elsewhere than on Linux too, for those who set it; a relative one is to be ignored, says its specification.
    if let Some(cache) = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Ok(cache.join("regraft"));
    }
    let caches = etcetera::base_strategy::choose_native_strategy().map(|strategy| strategy.cache_dir());
    let unknown = "there is no home folder to keep weights in; set REGRAFT_HOME to a folder";
    caches.map(|caches| caches.join("regraft")).map_err(|_| Error::Setting(unknown.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::from(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[cfg(unix)]
    #[test]
    fn the_cache_is_where_the_environment_says() {
        let home = |variables: &[(&str, &str)]| settings(variables).unwrap().home;
        assert_eq!(home(&[("REGRAFT_HOME", "/a/b"), ("XDG_CACHE_HOME", "/c")]), Path::new("/a/b"));
        assert_eq!(home(&[("REGRAFT_HOME", "b")]), env::current_dir().unwrap().join("b"));
        assert_eq!(home(&[("XDG_CACHE_HOME", "/c")]), Path::new("/c/regraft"));
        let usual = home(&[("XDG_CACHE_HOME", "c")]);
        assert!(usual.is_absolute() && usual.ends_with("regraft"), "{}", usual.display());
    }

    #[test]
    fn a_mirror_takes_the_place_of_everything_before_the_name() {
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
    fn offline_is_a_yes_or_a_no() {
        for (value, offline) in [("1", true), ("True", true), ("0", false), ("off", false)] {
            assert_eq!(settings(&[("REGRAFT_OFFLINE", value)]).unwrap().offline, offline, "{value}");
        }
        assert!(settings(&[("REGRAFT_OFFLINE", "perhaps")]).unwrap_err().to_string().contains("perhaps"));
    }
}
