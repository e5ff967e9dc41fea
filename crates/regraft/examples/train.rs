//! Trains a classifier: cargo run --release --example train -- PHOTOS RUN
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let photos = arguments.next().unwrap_or("photos".into());
    let run = arguments.next().unwrap_or("runs/example".into());
    let trained = regraft::Trainer::new(photos).mode(regraft::Mode::Probe).seed(1).output_dir(run).replace().run()?;
    println!("{:.1}% of {} validation photos are right", 100.0 * trained.best_val_score, trained.val_n);
    println!("{}", trained.model().display());
    Ok(())
}
