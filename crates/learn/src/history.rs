//! The results of a run, epoch by epoch, as the CSV that `results.csv` holds.

use serde::{Deserialize, Serialize};

use crate::linear::HeadKind;

/// What one epoch brought.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// Mean loss over the training samples as they were trained on.
    pub train_loss: f64,
    /// Their score, as [`HeadKind::metric`] names it: their accuracy, 0 to 1, or R².
    #[serde(alias = "train_acc")]
    pub train_score: f64,
    /// Mean loss over the validation samples.
    pub val_loss: f64,
    /// Their score: their accuracy, 0 to 1, their mean average precision, or R².
    #[serde(alias = "val_acc")]
    pub val_score: f64,
    /// Learning rate of the epoch's last step.
    pub lr: f64,
    /// Duration of the epoch, in seconds.
    pub seconds: f64,
}

/// The rows as CSV text with a header, the scores under the names that they have for this kind of head; every number reads
/// back as exactly the same.
pub fn to_csv(rows: &[Row], kind: HeadKind) -> String {
    let metric = kind.metric();
    let mut text = format!("epoch,train_loss,train_{},val_loss,val_{},lr,seconds\n", metric.train, metric.val);
    for r in rows {
        // Rust prints the shortest digits that read back as the same number.
        let Row { epoch, train_loss, train_score, val_loss, val_score, lr, seconds } = r;
        text += &format!("{epoch},{train_loss},{train_score},{val_loss},{val_score},{lr},{seconds}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_exactly() {
        let numbers = [1.0 / 3.0, 0.1 + 0.2, 1e-300, 1.0, 0.001 * 0.1, 12.25];
        let [train_loss, train_score, val_loss, val_score, lr, seconds] = numbers;
        let row = Row { epoch: 1, train_loss, train_score, val_loss, val_score, lr, seconds };
        let text = to_csv(&[row, Row { epoch: 2, ..row }], HeadKind::Softmax);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, "epoch,train_loss,train_acc,val_loss,val_acc,lr,seconds"));
        for (epoch, line) in lines[1..].iter().enumerate() {
            let fields: Vec<f64> = line.split(',').map(|field| field.parse().unwrap()).collect();
            assert_eq!((fields[0], &fields[1..]), ((epoch + 1) as f64, &numbers[..]));
        }
    }
    #[test]
    fn columns_say_what_the_scores_are() {
        assert_eq!(to_csv(&[], HeadKind::Labels), "epoch,train_loss,train_acc,val_loss,val_map,lr,seconds\n");
        assert_eq!(to_csv(&[], HeadKind::Value), "epoch,train_loss,train_r2,val_loss,val_r2,lr,seconds\n");
    }

    #[test]
    fn rows_of_older_checkpoints_are_read() {
        let old =
            r#"{"epoch":1,"train_loss":0.5,"train_acc":0.75,"val_loss":0.25,"val_acc":0.875,"lr":0.1,"seconds":2.0}"#;
        let row: Row = serde_json::from_str(old).unwrap();
        assert_eq!((row.train_score, row.val_score), (0.75, 0.875));
        assert_eq!(serde_json::from_str::<Row>(&serde_json::to_string(&row).unwrap()).unwrap(), row);
    }
}
