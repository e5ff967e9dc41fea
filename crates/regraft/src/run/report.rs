//! Reporting of an epoch.

use regraft_learn::history::Row;
use regraft_learn::linear::{HeadKind, Metric};
use regraft_progress::Epoch;

/// An epoch's results as [`Progress`](regraft_progress::Progress) hears of them.
pub(crate) fn epoch(row: &Row, epochs: usize, best: bool, kind: HeadKind) -> Epoch {
    let Metric { train: train_metric, val: val_metric } = kind.metric();
    Epoch {
        epoch: row.epoch,
        epochs,
        train_loss: row.train_loss,
        train_score: row.train_score,
        val_loss: row.val_loss,
        val_score: row.val_score,
        train_metric,
        val_metric,
        seconds: row.seconds,
        best,
    }
}
