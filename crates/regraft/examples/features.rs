//! Features of photos: cargo run --release --example features -- MODEL PHOTO...
use regraft::{DeviceChoice, PredictOptions, Predictor, default_threads, engine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("give a model and photos")?;
    let engine = engine(DeviceChoice::Auto, default_threads())?;
    let options = PredictOptions { features: true, ..PredictOptions::default() };
    let mut predictor = Predictor::open(model, engine.as_ref(), options)?;
    for photo in predictor.predict(arguments.map(std::path::PathBuf::from).collect::<Vec<_>>())? {
        println!("{} {:?}", photo.name, photo.features.ok_or("it could not be read")?);
    }
    Ok(())
}
