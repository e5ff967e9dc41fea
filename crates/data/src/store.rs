//! Decoded pictures, kept in memory up to a bound.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{DecodeOptions, Image, Result, decode_file};

/// Decodes files and keeps the pictures, to be shared between threads and between the loaders of a run.
///
/// Pictures are kept in the order they come until the bound is reached; later ones are decoded each time.
/// Nothing is thrown out: an epoch visits every picture once, so whatever was thrown out would be needed
/// just as soon as what replaced it. What [`ImageStore::get`] returns does not depend on what is kept.
pub struct ImageStore {
    options: DecodeOptions,
    limit_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    images: HashMap<PathBuf, Arc<Image>>,
    bytes: usize,
}

impl ImageStore {
    /// A store that decodes with `options` and keeps at most `limit_bytes` of pixels; 0 keeps nothing. See
    /// [`default_cache_bytes`] and [`crate::Preprocessing::decode_options`].
    pub fn new(options: DecodeOptions, limit_bytes: usize) -> Self {
        Self { options, limit_bytes, kept: Mutex::default() }
    }

    /// The decoded picture of a file.
    ///
    /// # Errors
    /// As [`decode_file`].
    pub fn get(&self, path: &Path) -> Result<Arc<Image>> {
        if let Some(image) = self.lock().images.get(path) {
            return Ok(image.clone());
        }
        let image = Arc::new(decode_file(path, &self.options)?);
        let bytes = image.pixels().len();
        let mut kept = self.lock();
        let total = kept.bytes.saturating_add(bytes);
        if total <= self.limit_bytes && !kept.images.contains_key(path) {
            kept.images.insert(path.to_owned(), image.clone());
            kept.bytes = total;
        }
        Ok(image)
    }

    /// How many bytes of pixels are kept now.
    pub fn kept_bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // The map is valid after every statement above, whatever another thread did while it held the lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The default bound of an [`ImageStore`]: 1 GiB, or a quarter of the memory that is available, if that is
/// less. Available is what Linux says, within the limit of the control group (a container's, say); on
/// other systems it is not asked for.
pub fn default_cache_bytes() -> usize {
    const GIB: u64 = 1 << 30;
    let free = meminfo_available(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    let available = free.into_iter().chain(group).min().unwrap_or(u64::MAX);
    usize::try_from((available / 4).min(GIB)).unwrap_or(usize::MAX)
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_what_came_first_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = |i: usize| dir.path().join(format!("{i}.pgm"));
        for i in 0..4 {
            std::fs::write(path(i), [b"P5 2 2 255\n".as_slice(), &[i as u8; 4]].concat()).unwrap();
        }
        let store = ImageStore::new(DecodeOptions::default(), 30); // two pictures of 12 bytes
        for round in 0..2 {
            for i in 0..4 {
                assert_eq!(*store.get(&path(i)).unwrap(), Image::filled(2, 2, [i as u8; 3]), "round {round}");
            }
            assert_eq!(store.kept_bytes(), 24);
        }
        std::fs::remove_file(path(0)).unwrap();
        std::fs::remove_file(path(3)).unwrap();
        assert!(store.get(&path(0)).is_ok() && store.get(&path(3)).is_err());
    }

    #[test]
    fn meminfo_is_read() {
        assert_eq!(meminfo_available("MemTotal: 9 kB\nMemAvailable:   23456 kB\n"), Some(23456 * 1024));
        assert_eq!(meminfo_available("nothing of the kind"), None);
        assert!((1..=1 << 30).contains(&default_cache_bytes()));
    }
}
