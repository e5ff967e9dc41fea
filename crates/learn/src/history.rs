//! The results of a run, epoch by epoch, as the CSV that `results.csv` holds.

use serde::{Deserialize, Serialize};

/// The columns, in the order of [`Row`]'s fields.
const COLUMNS: [&str; 7] = ["epoch", "train_loss", "train_acc", "val_loss", "val_acc", "lr", "seconds"];

/// What one epoch brought.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// Mean loss over the training samples as they were trained on.
    pub train_loss: f64,
    /// Their accuracy, 0 to 1.
    pub train_acc: f64,
    /// Mean loss over the validation samples.
    pub val_loss: f64,
    /// Their accuracy, 0 to 1.
    pub val_acc: f64,
    /// Learning rate of the epoch's last step.
    pub lr: f64,
    /// Duration of the epoch, in seconds.
    pub seconds: f64,
}

/// The rows as CSV text with a header; every number reads back as exactly the same.
pub fn to_csv(rows: &[Row]) -> String {
    let mut text = COLUMNS.join(",") + "\n";
    for r in rows {
        // Rust prints the shortest digits that read back as the same number.
        let Row { epoch, train_loss, train_acc, val_loss, val_acc, lr, seconds } = r;
        text += &format!("{epoch},{train_loss},{train_acc},{val_loss},{val_acc},{lr},{seconds}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_exactly() {
        let numbers = [1.0 / 3.0, 0.1 + 0.2, 1e-300, 1.0, 0.001 * 0.1, 12.25];
        let [train_loss, train_acc, val_loss, val_acc, lr, seconds] = numbers;
        let row = Row { epoch: 1, train_loss, train_acc, val_loss, val_acc, lr, seconds };
        let text = to_csv(&[row, Row { epoch: 2, ..row }]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, "epoch,train_loss,train_acc,val_loss,val_acc,lr,seconds"));
        for (epoch, line) in lines[1..].iter().enumerate() {
            let fields: Vec<f64> = line.split(',').map(|field| field.parse().unwrap()).collect();
            assert_eq!((fields[0], &fields[1..]), ((epoch + 1) as f64, &numbers[..]));
        }
    }
}
