//! Classifies photos: cargo run --release --example predict -- MODEL PHOTO...
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("give a model and photos")?;
    let mut predictor = regraft::Model::open(model)?.predictor()?;
    for prediction in predictor.predict(arguments.map(std::path::PathBuf::from).collect::<Vec<_>>())? {
        println!("{}", serde_json::to_string(&prediction)?);
    }
    Ok(())
}
