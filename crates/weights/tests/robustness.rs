//! Damaged and malicious files end in an error (or, where the damage is harmless, in tensors), never
//! in a panic, and take no more memory than a small multiple of their size.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use peak_alloc::PeakAlloc;
use regraft_random::{Purpose, below, keyed};
use regraft_weights::{Error, read};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The allocator counts for the whole process, so one test runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The fixtures are smaller than 16 KiB, and a file that small may decode to 1 MiB and 8 times its
/// size, which a strided tensor takes twice for a moment; the rest is what parsing takes.
const MAX_BYTES: usize = 3 << 20;

const FIXTURES: [&str; 9] = [
    "zip.pth",
    "stream.pth",
    "tar.pth",
    "zip_protocol4.pth",
    "stream_protocol4.pth",
    "checkpoint.pth",
    "parameters.pth",
    "instances.pth",
    "types.safetensors",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/weights/fixtures").join(name)
}

/// Reads `path` and fails if that took more memory than it may.
#[track_caller]
fn read_bounded(path: &Path, what: &dyn std::fmt::Display) -> Result<usize, Error> {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let outcome = read(path).map(|weights| weights.len());
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(taken <= MAX_BYTES, "{what} took {taken} bytes");
    outcome
}

#[test]
fn every_truncation_is_an_error() {
    let _alone = ALONE.lock().unwrap();
    for name in FIXTURES {
        let temporary = tempfile::NamedTempFile::new().unwrap();
        let bytes = fs::read(fixture(name)).unwrap();
        fs::write(temporary.path(), &bytes).unwrap();
        assert!(read_bounded(temporary.path(), &name).is_ok());
        // A tar archive ends in blocks of zeros, which may be missing.
        let content = if name == "tar.pth" { bytes.iter().rposition(|&b| b != 0).unwrap() } else { bytes.len() };
        for len in (0..bytes.len()).rev() {
            temporary.as_file().set_len(len as u64).unwrap();
            let outcome = read_bounded(temporary.path(), &format_args!("{name} cut to {len} bytes"));
            assert!(outcome.is_err() || len >= content, "{name} cut to {len} bytes was read");
        }
    }
}

fn write_at(file: &tempfile::NamedTempFile, bytes: &[u8], place: u64) {
    let mut file = file.as_file();
    file.seek(SeekFrom::Start(place)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn flipped_bytes_do_no_harm() {
    let _alone = ALONE.lock().unwrap();
    for (index, name) in FIXTURES.into_iter().enumerate() {
        let temporary = tempfile::NamedTempFile::new().unwrap();
        let original = fs::read(fixture(name)).unwrap();
        fs::write(temporary.path(), &original).unwrap();
        let mut errors = 0;
        for round in 0..4000 {
            // Up to four bytes at once, half of the time set to values that lengths and counts go wrong by.
            let rng = &mut keyed(1, Purpose::Augment, index as u64, round);
            let places: Vec<u64> = (0..=below(rng, 4)).map(|_| below(rng, original.len() as u64)).collect();
            for &place in &places {
                let random = below(rng, 256) as u8;
                let byte = [0x00, 0xff, 0x7f, 0x80, random, random, random, random][below(rng, 8) as usize];
                write_at(&temporary, &[byte], place);
            }
            errors += usize::from(read_bounded(temporary.path(), &format_args!("{name}, round {round}")).is_err());
            for &place in &places {
                write_at(&temporary, &original[place as usize..][..1], place);
            }
        }
        assert!((200..4000).contains(&errors), "{name}: {errors} of 4000 damaged files were errors");
        assert!(read(temporary.path()).is_ok(), "{name} was not restored");
    }
}

/// The zip form of a state dict with the pickle given and one storage, `0`, of the bytes given, with
/// an entry beside it that means nothing.
fn zip_form(pickle: &[u8], storage: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut zip = zip::ZipWriter::new(file.as_file_mut());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [("a/data.pkl", pickle), ("a/data/0", storage), ("a/notes_", b"")] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
    file
}

/// A pickle of `{name: tensor}` for each name, all tensors of one shape and stride in one storage.
fn pickle(names: &[&str], elements: u32, offset: u32, shape: &[u32], stride: &[u32]) -> Vec<u8> {
    let text = |s: &str| [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat();
    let int = |n: u32| [&[0x8a, 5], &u64::from(n).to_le_bytes()[..5]].concat();
    let tuple = |items: &[u32]| [b"(".to_vec(), items.iter().flat_map(|&n| int(n)).collect(), b"t".to_vec()].concat();
    let mut bytes = b"\x80\x02}(".to_vec();
    for name in names {
        let storage = [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), &int(elements)];
        let tensor = [&int(offset)[..], &tuple(shape), &tuple(stride), b"\x89}t"].concat();
        bytes.extend(
            [&text(name), &b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &storage.concat(), b"tQ", &tensor, b"R"]
                .concat(),
        );
    }
    bytes.extend(b"u.");
    bytes
}

#[test]
fn tensors_that_do_not_fit_their_storage_are_errors() {
    let _alone = ALONE.lock().unwrap();
    const MAX: u32 = u32::MAX;
    /// Elements of the storage, offset, shape, stride, and the reason why they are refused.
    type Case = (u32, u32, &'static [u32], &'static [u32], Option<&'static str>);
    let cases: [Case; 12] = [
        (4, 0, &[2, 2], &[2, 1], None),
        (4, 0, &[4, 1], &[1, MAX], None),
        (4, 3, &[], &[], None),
        (4, 4, &[], &[], Some("does not fit its storage")),
        (4, 1, &[2, 2], &[2, 1], Some("does not fit its storage")),
        (4, MAX, &[1], &[1], Some("does not fit its storage")),
        (4, 0, &[2, 2], &[3, 1], Some("does not fit its storage")),
        (4, 0, &[2], &[2, 1], Some("1 dimensions and 2 strides")),
        (4, 0, &[MAX, MAX, MAX], &[0, 0, 0], Some("too large")),
        (4, 0, &[MAX], &[0], Some("more than 8 times its size")),
        (4, 0, &[1; 65], &[1; 65], Some("65 dimensions")),
        (MAX, 0, &[2], &[1], Some("should have 4294967295 elements")),
    ];
    for (elements, offset, shape, stride, reason) in cases {
        let file = zip_form(&pickle(&["w"], elements, offset, shape, stride), &[0; 16]);
        match (read_bounded(file.path(), &format_args!("{shape:?}")), reason) {
            (Ok(1), None) => {}
            (Err(error), Some(reason)) => assert!(error.to_string().contains(reason), "{error}"),
            (outcome, _) => panic!("{shape:?} {stride:?}: {outcome:?}"),
        }
    }
}

#[test]
fn many_tensors_of_one_storage_are_bounded_together() {
    let _alone = ALONE.lock().unwrap();
    let names: Vec<String> = (0..1000).map(|i| format!("layer{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let file = zip_form(&pickle(&names[..100], 1024, 0, &[1024], &[1]), &[0; 4096]);
    assert_eq!(read_bounded(file.path(), &"100 tensors").unwrap(), 100);
    // A thousand would be 4 MB from a file of 150 kB.
    let file = zip_form(&pickle(&names, 1024, 0, &[1024], &[1]), &[0; 4096]);
    let error = read(file.path()).unwrap_err();
    assert!(error.to_string().contains("more than 8 times its size"), "{error}");
}

#[test]
fn names_that_occur_twice_or_could_forge_output_are_refused() {
    let _alone = ALONE.lock().unwrap();
    let twice = zip_form(&pickle(&["w", "w"], 4, 0, &[4], &[1]), &[0; 16]);
    assert!(read(twice.path()).unwrap_err().to_string().contains("\"w\" twice"));
    let forged = zip_form(&pickle(&["w\r\x1b[31m"], 4, 0, &[4], &[1]), &[0; 16]);
    assert!(read(forged.path()).unwrap_err().to_string().contains("\"w\\r\\u{1b}[31m\""));
}

/// `bytes` with each occurrence of `from`, in the headers and in the directory, overwritten by `to`:
/// writers are honest, so a finished archive has to be patched.
fn patched(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let places: Vec<usize> = (0..=bytes.len() - to.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    let mut bytes = bytes.to_vec();
    places.iter().for_each(|&at| bytes[at..at + to.len()].copy_from_slice(to));
    bytes
}

#[test]
fn archives_that_torch_would_not_write_are_refused() {
    let _alone = ALONE.lock().unwrap();
    let file = zip_form(&pickle(&["w"], 4, 0, &[4], &[1]), &[7; 16]);
    let honest = fs::read(file.path()).unwrap();
    let cases: [(&[u8], &[u8], &str); 4] = [
        (b"a/data.pkl", b"a/data/pkl", "not of one data.pkl"),
        (b"a/data/0", b"a/data/1", "\"0\" of \"w\" is not in the archive"),
        // Compression method 8, deflate, in the directory's entries.
        (b"PK\x01\x02", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x08\x00", "compressed or encrypted"),
        (b"a/notes_", b"a/data/0", "two entries of one name"),
    ];
    for (from, to, reason) in cases {
        fs::write(file.path(), patched(&honest, from, to)).unwrap();
        let message = read(file.path()).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}

/// The stream form of `{"w": tensor}`, of four elements at offset 1 of the part of the storage that
/// `view` gives, and a storage `0` that claims `elements` and holds 1, 2, 3, ..., 8.
fn stream_form(view: &[u8], key: u8, elements: u64) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let parts: [&[u8]; 8] = [
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.",
        b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x08",
        view,
        b"tQK\x01K\x04\x85K\x01\x85tRs.",
        b"\x80\x02](U\x01",
        &[key],
        b"e.",
        &elements.to_le_bytes(),
    ];
    file.write_all(&parts.concat()).unwrap();
    (1..=8u8).for_each(|i| file.write_all(&f32::from(i).to_le_bytes()).unwrap());
    file
}

#[test]
fn a_part_of_a_storage_is_read_from_where_it_begins() {
    let _alone = ALONE.lock().unwrap();
    let whole = stream_form(b"N", b'0', 8);
    assert_eq!(read(whole.path()).unwrap()["w"].data(), [2., 3., 4., 5.]);
    // (key, first element, elements)
    let part = stream_form(b"U\x01vK\x03K\x05\x87", b'0', 8);
    assert_eq!(read(part.path()).unwrap()["w"].data(), [5., 6., 7., 8.]);
}

#[test]
fn storages_of_a_stream_that_are_not_as_said_are_errors() {
    let _alone = ALONE.lock().unwrap();
    let cases: [(&[u8], u8, u64, &str); 6] = [
        (b"U\x01vK\x04K\x05\x87", b'0', 8, "5 elements from 4 of a storage of 8"),
        (b"U\x01vK\x00K\x04\x87", b'0', 8, "does not fit its storage of 4"),
        (b"N", b'1', 8, "nothing refers to the storage"),
        (b"N", b'0', 7, "has 7 elements, but should have 8"),
        (b"N", b'0', 1 << 40, "bytes in all"),
        (b"N", b'0', u64::MAX, "claims 18446744073709551615 elements"),
    ];
    for (view, key, elements, reason) in cases {
        let message = read_bounded(stream_form(view, key, elements).path(), &reason).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}
