//! The learning-rate range test: "Cyclical Learning Rates for Training Neural Networks" (Smith 2017).

use std::ops::ControlFlow;
use std::path::PathBuf;

use plotters::prelude::*;

use crate::trainer::inputs::Inputs;
use crate::trainer::job::Job;
use crate::trainer::learner::{Learner, Pace, Taken};
use crate::trainer::supervised;
use crate::{Context, Error, Result, Settings};

/// The rates of the first and the last step.
const RATES: [f64; 2] = [1e-7, 10.0];

/// Steps from the one to the other, if the loss does not diverge before.
const STEPS: usize = 100;

/// Weight of the past in the smoothed loss.
const SMOOTHING: f64 = 0.9;

/// The test ends where the smoothed loss is so many times the lowest.
const DIVERGED: f64 = 4.0;

/// Steps before the smoothed loss means something.
const SETTLED: usize = 10;

/// The suggested rate is this part of the one where the smoothed loss is lowest: there it is about to rise again.
const MARGIN: f64 = 0.1;

/// One step of the test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Its learning rate, which the head has.
    pub lr: f64,
    /// Mean loss of its batch, before the step.
    pub loss: f64,
    /// Exponentially smoothed loss.
    pub smoothed: f64,
}

/// What the test found.
#[derive(Clone, Debug)]
pub struct FoundRate {
    /// The suggested rate; none if the loss did not fall at any.
    pub lr: Option<f64>,
    /// All steps.
    pub points: Vec<Point>,
    /// Where they are as CSV.
    pub csv: PathBuf,
    /// Where they are drawn, as SVG.
    pub plot: PathBuf,
}

/// Takes the steps, and writes the curve.
///
/// # Errors
/// Any of [`Error`].
pub(crate) fn run(job: &Job) -> Result<FoundRate> {
    let folder = job.folder;
    let points = sweep(job)?;
    let lr = suggest(&points);
    let mut csv = "lr,loss,smoothed\n".to_owned();
    points.iter().for_each(|Point { lr, loss, smoothed }| csv += &format!("{lr},{loss},{smoothed}\n"));
    let csv = folder.write("lr_find.csv", &csv)?;
    let svg = draw(&points, lr).map_err(|reason| Error::File { path: folder.path().join("lr_find.svg"), reason })?;
    let plot = folder.write("lr_find.svg", &svg)?;
    Ok(FoundRate { lr, points, csv, plot })
}

/// Checks that a run with these settings takes steps of a given rate.
///
/// # Errors
/// [`Error::Setting`] if not.
pub(crate) fn require_steps(settings: &Settings) -> Result<()> {
    if settings.mode.probes() {
        let allowed = "`find_lr` goes with `mode` frozen or `mode` finetune; other modes take no steps of a given rate";
        return Err(Error::Setting { field: "mode", value: settings.mode.to_string(), allowed: allowed.into() });
    }
    Ok(())
}

/// Takes the steps.
fn sweep(job: &Job) -> Result<Vec<Point>> {
    let Job { settings, photos, context, .. } = *job;
    let (grafted, state) = job.graft(None)?;
    let mut learner = supervised::learner(job, &grafted, state, 0)?;
    let mut train = Inputs::training(settings, photos, learner.session.trunk(), context)?;
    let mut sweep = Sweep { curve: Curve::default(), loss: 0.0, weight: 0.0, context };
    for epoch in 0.. {
        learner.epoch(&mut train, epoch, 0, &mut sweep, context)?;
        context.progress.end();
        if sweep.curve.is_complete() {
            break;
        }
    }
    Ok(sweep.curve.points)
}

/// The learning rates of the test, and the losses so far.
struct Sweep<'a, 'b> {
    curve: Curve,
    /// Sums over the batches of the current step.
    loss: f64,
    weight: f64,
    context: &'a Context<'b>,
}

impl Pace for Sweep<'_, '_> {
    fn begin(&mut self) {
        self.context.progress.begin("trying learning rates", "steps", STEPS as u64);
    }

    fn rate(&mut self, _: usize) -> f64 {
        self.curve.next_rate()
    }

    fn after(&mut self, _: &mut Learner, taken: &Taken) -> Result<ControlFlow<()>> {
        self.loss += taken.losses.sum;
        self.weight += taken.losses.weight;
        if taken.stepped {
            self.curve.add(taken.lr, self.loss / self.weight);
            (self.loss, self.weight) = (0.0, 0.0);
            if self.curve.is_complete() {
                return Ok(ControlFlow::Break(()));
            }
            self.context.progress.advance(self.curve.points.len() as u64, &format!("lr {:.1e}", taken.lr));
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The losses over rising rates.
#[derive(Default)]
struct Curve {
    points: Vec<Point>,
    /// The exponentially smoothed loss, without the correction for its start at 0.
    sum: f64,
    lowest: Option<f64>,
    /// Whether the loss has diverged.
    diverged: bool,
}

impl Curve {
    /// The rate of the next step: each one the same factor above that of the one before.
    fn next_rate(&self) -> f64 {
        let [first, last] = RATES;
        first * (last / first).powf(self.points.len() as f64 / (STEPS - 1) as f64)
    }

    /// Whether there is nothing left to try.
    fn is_complete(&self) -> bool {
        self.diverged || self.points.len() >= STEPS
    }

    /// Adds a step.
    fn add(&mut self, lr: f64, loss: f64) {
        if !loss.is_finite() {
            self.diverged = true;
            return;
        }
        self.sum = SMOOTHING * self.sum + (1.0 - SMOOTHING) * loss;
        let smoothed = self.sum / (1.0 - SMOOTHING.powi(self.points.len() as i32 + 1));
        self.points.push(Point { lr, loss, smoothed });
        let lowest = self.lowest.map_or(smoothed, |lowest| lowest.min(smoothed));
        self.lowest = Some(lowest);
        self.diverged = self.points.len() > SETTLED && smoothed > DIVERGED * lowest;
    }
}

/// The rate to begin with, if the loss fell below what it was when the rates were too low to matter.
fn suggest(points: &[Point]) -> Option<f64> {
    let (start, rest) = points.split_at_checked(SETTLED)?;
    let lowest = rest.iter().min_by(|a, b| a.smoothed.total_cmp(&b.smoothed))?;
    let before = start.iter().fold(f64::INFINITY, |low, point| low.min(point.smoothed));
    (lowest.smoothed < before).then_some(lowest.lr * MARGIN)
}

/// The curve over the logarithm of the rate: every loss in grey, the smoothed ones in blue, the suggestion in red.
fn draw(points: &[Point], lr: Option<f64>) -> Result<String, String> {
    let mut svg = String::new();
    draw_into(&mut svg, points, lr).map_err(|error| format!("cannot be drawn: {error}"))?;
    Ok(svg)
}

fn draw_into(svg: &mut String, points: &[Point], lr: Option<f64>) -> Result<(), Box<dyn std::error::Error>> {
    let low = points.iter().fold(f64::INFINITY, |low, point| low.min(point.smoothed));
    // A loss that runs away would flatten the rest.
    let first = points.first().map_or(1.0, |point| point.smoothed);
    let top = if first > 0.0 { 2.0 * first } else { 1.0 };
    let bottom = if low.is_finite() { (2.0 * low - first).max(0.0) } else { 0.0 };
    let root = SVGBackend::with_string(svg, (800, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((RATES[0]..RATES[1]).log_scale(), bottom..top)?;
    let rate = |lr: &f64| format!("{lr:.0e}");
    chart.configure_mesh().x_desc("learning rate").y_desc("loss").x_label_formatter(&rate).draw()?;
    let within = |loss: f64| loss.clamp(bottom, top);
    chart.draw_series(LineSeries::new(points.iter().map(|it| (it.lr, within(it.loss))), BLACK.mix(0.25)))?;
    chart.draw_series(LineSeries::new(points.iter().map(|it| (it.lr, within(it.smoothed))), BLUE.stroke_width(2)))?;
    if let Some(lr) = lr {
        chart.draw_series(LineSeries::new([(lr, bottom), (lr, top)], RED))?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The curve of a loss that is a function of the rate.
    fn curve(loss: impl Fn(f64) -> f64) -> Vec<Point> {
        let mut curve = Curve::default();
        loop {
            let lr = curve.next_rate();
            curve.add(lr, loss(lr));
            if curve.is_complete() {
                return curve.points;
            }
        }
    }

    #[test]
    fn the_suggestion_lies_below_where_the_loss_turns() {
        // Falls from 1e-4 on, rises from 0.1 on.
        let points = curve(|lr| 1.0 - 0.2 * (lr / 1e-4).log10().clamp(0.0, 3.0) + 20.0 * (lr - 0.1).max(0.0));
        let lr = suggest(&points).unwrap();
        assert!((0.003..0.03).contains(&lr), "{lr}");
        assert!(points.len() < STEPS, "it ends where the loss diverges");
        assert!(points.windows(2).all(|pair| pair[0].lr < pair[1].lr));
        let svg = draw(&points, Some(lr)).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("learning rate") && svg.matches("<polyline").count() >= 3);
    }

    #[test]
    fn a_loss_that_only_rises_suggests_nothing() {
        // Not enough to end the test.
        let points = curve(|lr| 1.0 + 0.1 * lr);
        assert_eq!(suggest(&points), None);
        assert_eq!((points.len(), points[0].lr), (STEPS, RATES[0]));
        assert!((points[STEPS - 1].lr - RATES[1]).abs() < 1e-9);
        assert_eq!(suggest(&[]), None);
        draw(&[], None).unwrap();
        draw(&curve(|_| 0.0), None).unwrap();
    }

    #[test]
    fn a_loss_that_is_no_number_ends_the_test() {
        let points = curve(|lr| if lr > 1e-3 { f64::NAN } else { 1.0 });
        assert!(points.iter().all(|point| point.loss == 1.0) && points.len() < STEPS);
    }
}
