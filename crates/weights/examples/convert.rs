//! Converts a weight file to safetensors, recording where it came from:
//!
//! `cargo run -p regraft-weights --example convert -- resnet18.pth resnet18.safetensors`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regraft_io::sha256_file;
use regraft_weights::{Error, read, write_safetensors};

fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(from), Some(to), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: convert FROM TO.safetensors");
        std::process::exit(2);
    };
    match convert(&from, &to) {
        Ok(tensors) => println!("{tensors} tensors written to {}", to.display()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

fn convert(from: &Path, to: &Path) -> Result<usize, Error> {
    let weights = read(from)?;
    let metadata = BTreeMap::from([("source_sha256".to_string(), sha256_file(from)?)]);
    write_safetensors(to, &weights, &metadata)?;
    Ok(weights.len())
}
