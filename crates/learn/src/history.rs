//! The results of a run, epoch by epoch, as the CSV that `results.csv` holds.

use serde::{Deserialize, Serialize};

use crate::Error;

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

/// The rows as CSV text with a header; [`from_csv`] gives back exactly the same numbers.
pub fn to_csv(rows: &[Row]) -> String {
    let mut text = COLUMNS.join(",") + "\n";
    for r in rows {
        // Rust prints the shortest digits that read back as the same number.
        let Row { epoch, train_loss, train_acc, val_loss, val_acc, lr, seconds } = r;
        text += &format!("{epoch},{train_loss},{train_acc},{val_loss},{val_acc},{lr},{seconds}\n");
    }
    text
}

/// Reads what [`to_csv`] wrote, to resume a run.
///
/// # Errors
/// [`Error::History`] naming the line, if the header differs, a field is missing, too many or no number, an
/// accuracy lies outside 0 to 1, another number is negative or not finite, or the epochs are not 1, 2, 3, ...
pub fn from_csv(text: &str) -> Result<Vec<Row>, Error> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| at(&e, 1))?;
    if header != COLUMNS.as_slice() {
        return Err(Error::History { line: 1, problem: format!("the header is not {}", COLUMNS.join(",")) });
    }
    let mut rows = Vec::new();
    for (i, row) in reader.deserialize().enumerate() {
        let line = i as u64 + 2;
        let row: Row = row.map_err(|e| at(&e, line))?;
        check(&row, i + 1).map_err(|problem| Error::History { line, problem })?;
        rows.push(row);
    }
    Ok(rows)
}

fn check(row: &Row, epoch: usize) -> Result<(), String> {
    if row.epoch != epoch {
        return Err(format!("epoch is {} where {epoch} was expected", row.epoch));
    }
    let Row { train_loss, train_acc, val_loss, val_acc, lr, seconds, .. } = *row;
    for (name, value, most) in [
        ("train_loss", train_loss, f64::MAX),
        ("train_acc", train_acc, 1.0),
        ("val_loss", val_loss, f64::MAX),
        ("val_acc", val_acc, 1.0),
        ("lr", lr, f64::MAX),
        ("seconds", seconds, f64::MAX),
    ] {
        if !(0.0..=most).contains(&value) {
            return Err(format!("{name} is {value}"));
        }
    }
    Ok(())
}

fn at(error: &csv::Error, line: u64) -> Error {
    Error::History { line: error.position().map_or(line, |p| p.line()), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |epoch, x: f64| Row {
            epoch,
            train_loss: x / 3.0,
            train_acc: 0.1 + 0.2,
            val_loss: 1e-300,
            val_acc: 1.0,
            lr: 0.001 * 0.1,
            seconds: 12.25,
        };
        vec![row(1, 1.0), row(2, 7.0)]
    }

    #[test]
    fn numbers_come_back_exactly() {
        assert_eq!(from_csv(&to_csv(&rows())).unwrap(), rows());
        assert_eq!(from_csv(&to_csv(&[])).unwrap(), []);
    }

    #[test]
    fn anything_else_is_refused_with_its_line() {
        let good = to_csv(&rows());
        let cases = [
            (String::new(), 1),
            (good.replace("val_acc", "accuracy"), 1),
            (good.replace("12.25", "soon"), 2),
            (good.replace(",1,", ",1.5,"), 2),
            (good.replace("\n2,", "\n3,"), 3),
            (good.replace("\n2,", "\n2,0,"), 3),
            (good.replace("\n2,", "\n2,NaN,").replacen(",12.25\n", "\n", 2), 2),
            (good[..good.len() - 8].to_string(), 3),
            (format!("{good}3,-1,0,0,0,0,0\n"), 4),
            (format!("{good}3,inf,0,0,0,0,0\n"), 4),
        ];
        for (text, expected) in cases {
            match from_csv(&text) {
                Err(Error::History { line, .. }) => assert_eq!(line, expected, "{text}"),
                other => panic!("{other:?} for {text}"),
            }
        }
    }
}
