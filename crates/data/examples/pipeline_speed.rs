//! Images per second of the data pipeline: decoding alone, then the training transforms, cold and from the cache.
//!
//! ```text
//! cargo run --release -p regraft-data --example pipeline_speed -- FOLDER
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use regraft_data::{
    Augmentation, Dataset, DecodeOptions, ImageStore, Loader, LoaderOptions, Preprocessing, SplitOptions, decode_file,
    default_cache_bytes,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: pipeline_speed FOLDER")?;
    let (dataset, _) = Dataset::open(Path::new(&folder), &SplitOptions::default())?;
    let n = dataset.train.len() as f64;
    let preprocessing = Preprocessing::default();

    let start = Instant::now();
    for sample in &dataset.train {
        decode_file(&sample.path, &DecodeOptions::default())?;
    }
    println!("decode in full, 1 thread: {:.0} img/s", n / start.elapsed().as_secs_f64());

    for augmentation in [Some(Augmentation::default()), None] {
        let what = if augmentation.is_some() { "train" } else { "eval" };
        for workers in [1, 2] {
            let store = Arc::new(ImageStore::new(preprocessing.decode_options(), default_cache_bytes()));
            let augmentation = augmentation.clone();
            let options = LoaderOptions { batch_size: 32, shuffle: true, augmentation, workers, ..Default::default() };
            let loader = Loader::new(dataset.train.clone(), store, preprocessing.clone(), options)?;
            for (epoch, state) in ["cold", "cached", "cached"].into_iter().enumerate() {
                let start = Instant::now();
                for batch in loader.epoch(epoch as u64, 0) {
                    std::hint::black_box(batch?);
                }
                println!("{what}, {workers} workers, {state}: {:.0} img/s", n / start.elapsed().as_secs_f64());
            }
        }
    }
    Ok(())
}
