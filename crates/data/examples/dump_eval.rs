//! Writes the evaluation pixels of every photo beneath a folder, for comparison with torchvision's by
//! `reference/transforms/check_hymenoptera.py`.
//!
//! ```text
//! cargo run --release -p regraft-data --example dump_eval -- FOLDER OUTPUT [full|reduced]
//! ```
//!
//! OUTPUT receives 224 * 224 * 3 bytes a photo, in the order of the paths, which go to standard output.
//! `full`, the default, decodes as PIL does, ignoring orientation as torchvision does; `reduced` decodes
//! large JPEGs at a reduced scale, as training does.

use std::fs::File;
use std::io::{BufWriter, Write};

use regraft_data::{DecodeOptions, Preprocessing, Scratch, decode_file, image_paths};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(output)) = (arguments.next(), arguments.next()) else {
        return Err("usage: dump_eval FOLDER OUTPUT [full|reduced]".into());
    };
    let min_side = match arguments.next().as_deref() {
        None | Some("full") => None,
        Some("reduced") => Some(Preprocessing::default().resize),
        Some(other) => return Err(format!("neither full nor reduced: {other}").into()),
    };
    let options = DecodeOptions { exif_orientation: false, min_side, ..Default::default() };
    let mut output = BufWriter::new(File::create(output)?);
    let mut scratch = Scratch::default();
    for path in image_paths(&[folder])?.0 {
        let image = decode_file(&path, &options)?;
        output.write_all(Preprocessing::default().resize_and_crop(&image, &mut scratch).pixels())?;
        println!("{}", path.display());
    }
    output.flush()?;
    Ok(())
}
