//! The pictures as files, one folder for each kind, as people have their photos.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use mozjpeg::{ColorSpace, Compress};
use rayon::prelude::*;

use crate::{KINDS, draw};

/// Draws `per_kind` pictures of each kind, of `side` by `side` pixels, and writes them as `folder/KIND/NUMBER.jpg`
/// (numbers from 000). Files that are there already are replaced; each appears whole or not at all. `progress` hears
/// the number of pictures written so far, from several threads, so the numbers need not come in order.
///
/// # Errors
/// Where a folder or file cannot be written. What was written until then stays.
///
/// # Panics
/// If `side` is 0 or above 4096.
pub fn write_collection(
    folder: &Path,
    per_kind: usize,
    seed: u64,
    side: u32,
    progress: impl Fn(usize) + Sync,
) -> io::Result<()> {
    for kind in KINDS {
        fs::create_dir_all(folder.join(kind))?;
    }
    let written = AtomicUsize::new(0);
    (0..KINDS.len() * per_kind).into_par_iter().try_for_each(|place| {
        let (kind, number) = (place / per_kind, place % per_kind);
        let jpeg = encode(&draw(kind, number as u64, seed, side), side as usize)?;
        let path = folder.join(KINDS[kind]).join(format!("{number:03}.jpg"));
        let part = path.with_extension("part");
        fs::write(&part, jpeg)?;
        fs::rename(&part, &path)?;
        progress(written.fetch_add(1, Ordering::Relaxed) + 1);
        Ok(())
    })
}

/// A JPEG of quality 90, in libjpeg's plain form, whose transform is of integers.
fn encode(pixels: &[u8], side: usize) -> io::Result<Vec<u8>> {
    let mut compress = Compress::new(ColorSpace::JCS_RGB);
    compress.set_fastest_defaults();
    compress.set_size(side, side);
    compress.set_quality(90.0);
    let mut started = compress.start_compress(Vec::new())?;
    started.write_scanlines(pixels)?;
    started.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn every_kind_has_its_folder_and_its_pictures() {
        let (once, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let heard = Mutex::new(Vec::new());
        write_collection(once.path(), 3, 7, 24, |number| heard.lock().unwrap().push(number)).unwrap();
        let mut heard = heard.into_inner().unwrap();
        heard.sort();
        assert_eq!(heard, (1..=3 * KINDS.len()).collect::<Vec<_>>());

        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        pool.install(|| write_collection(again.path(), 3, 7, 24, |_| ())).unwrap();
        assert_eq!(fs::read_dir(once.path()).unwrap().count(), KINDS.len());
        for kind in KINDS {
            let pictures = files(&once.path().join(kind));
            let names: Vec<&str> = pictures.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["000.jpg", "001.jpg", "002.jpg"], "{kind}");
            assert!(pictures == files(&again.path().join(kind)), "{kind}: other bytes with another number of threads");
        }
    }

    #[test]
    fn the_files_show_what_was_drawn() {
        let pixels = draw(8, 0, 0, 40);
        let jpeg = encode(&pixels, 40).unwrap();
        let mut decoder = mozjpeg::Decompress::new_mem(&jpeg).unwrap().rgb().unwrap();
        let decoded: Vec<u8> = decoder.read_scanlines().unwrap();
        decoder.finish().unwrap();
        assert_eq!(decoded.len(), pixels.len());
        let apart: u32 = decoded.iter().zip(&pixels).map(|(&a, &b)| u32::from(a.abs_diff(b))).sum();
        let mean = f64::from(apart) / pixels.len() as f64;
        assert!(mean < 10.0, "mean difference {mean}");
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        write_collection(&file, 1, 0, 8, |_| ()).unwrap_err();
    }
}
