//! An evaluation of classes as text for a terminal.

use std::fmt::{Display, Formatter, Result};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::ClassEvaluation;

/// Columns that a class name may take.
const NAME_WIDTH: usize = 24;
/// Classes up to which the whole matrix is shown: 60 columns of three characters still fit a wide terminal.
const MATRIX_CLASSES: usize = 60;
/// Confusions listed for more classes.
const LISTED: usize = 20;

impl Display for ClassEvaluation {
    /// A summary line, a table of the classes, and the confusion matrix (with more than 60 classes, the most
    /// frequent confusions instead).
    fn fmt(&self, f: &mut Formatter) -> Result {
        let [low, high] = self.top1_ci95;
        write!(f, "top-1 {:.4} (95% interval {low:.4} to {high:.4}), ", self.top1)?;
        // With five classes or fewer it is 1 for every model.
        if self.classes.len() > 5 {
            write!(f, "top-5 {:.4}, ", self.top5)?;
        }
        writeln!(f, "loss {:.4}, n {}", self.loss, self.n)?;
        let names: Vec<String> = self.classes.iter().map(|name| fit_name(name)).collect();
        let width = names.iter().map(|n| n.width()).chain([13]).max().unwrap_or(13);
        writeln!(f)?;
        write_class_table(f, self, &names, width)?;
        writeln!(f)?;
        if names.len() <= MATRIX_CLASSES { write_matrix(f, self, &names) } else { write_confusions(f, self, &names) }
    }
}

fn write_class_table(f: &mut Formatter, evaluation: &ClassEvaluation, names: &[String], width: usize) -> Result {
    writeln!(f, "{}  precision  recall      f1  support", pad("class", width))?;
    for (class, name) in evaluation.per_class.iter().zip(names) {
        let (precision, recall, f1) = (class.precision, class.recall, class.f1);
        writeln!(f, "{}  {precision:>9.4}  {recall:>6.4}  {f1:>6.4}  {:>7}", pad(name, width), class.support)?;
    }
    let mean = &evaluation.macro_average;
    let label = pad("macro average", width);
    writeln!(f, "{label}  {:>9.4}  {:>6.4}  {:>6.4}  {:>7}", mean.precision, mean.recall, mean.f1, evaluation.n)
}

/// Columns are headed by the class's number, which its row repeats; zeros are dots, so that errors stand out.
fn write_matrix(f: &mut Formatter, evaluation: &ClassEvaluation, names: &[String]) -> Result {
    let largest = evaluation.confusion.iter().flatten().max().copied().unwrap_or(0);
    let digits = |n: u64| n.to_string().len();
    let number = digits(names.len().saturating_sub(1) as u64);
    let cell = digits(largest).max(number) + 1;
    let name_width = names.iter().map(|n| n.width()).max().unwrap_or(0);
    writeln!(f, "confusion matrix: rows are the true classes, columns the predicted ones")?;
    write!(f, "{:1$}", "", number + 1 + name_width)?;
    for k in 0..names.len() {
        write!(f, "{k:>cell$}")?;
    }
    writeln!(f)?;
    for (k, (row, name)) in evaluation.confusion.iter().zip(names).enumerate() {
        write!(f, "{k:>number$} {}", pad(name, name_width))?;
        for &count in row {
            if count == 0 { write!(f, "{:>cell$}", ".")? } else { write!(f, "{count:>cell$}")? }
        }
        writeln!(f)?;
    }
    Ok(())
}

fn write_confusions(f: &mut Formatter, evaluation: &ClassEvaluation, names: &[String]) -> Result {
    let cells = |k: usize| evaluation.confusion[k].iter().enumerate().map(move |(j, &count)| (count, k, j));
    let mut confusions: Vec<(u64, usize, usize)> =
        (0..names.len()).flat_map(cells).filter(|&(count, k, j)| k != j && count > 0).collect();
    // The most frequent first, the classes' order among equals.
    confusions.sort_by_key(|&(count, k, j)| (std::cmp::Reverse(count), k, j));
    writeln!(f, "most frequent confusions, {} of {}:", LISTED.min(confusions.len()), confusions.len())?;
    for &(count, k, j) in confusions.iter().take(LISTED) {
        writeln!(f, "{count:>7}  {} taken for {}", names[k], names[j])?;
    }
    Ok(())
}

/// The name without control characters, which could rewrite the terminal, and cut to [`NAME_WIDTH`] columns.
pub(super) fn fit_name(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if clean.width() <= NAME_WIDTH {
        return clean;
    }
    let mut cut = String::new();
    for c in clean.chars() {
        if cut.width() + c.width().unwrap_or(0) >= NAME_WIDTH {
            break;
        }
        cut.push(c);
    }
    cut + "…"
}

/// `text` filled with spaces to `width` columns.
pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{text}{:1$}", "", width.saturating_sub(text.width()))
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use crate::{
        linear::{HeadKind, Targets},
        metrics::MetricAccumulator,
    };

    fn render(names: &[String], confusions: &[(u32, usize)]) -> String {
        let mut accumulator = MetricAccumulator::new(HeadKind::Softmax, names.len());
        for &(label, predicted) in confusions {
            let mut logits = vec![0.0; names.len()];
            logits[predicted] = 9.0;
            accumulator.add(&logits, Targets::Classes(&[label])).unwrap();
        }
        accumulator.finish(names).unwrap().to_string()
    }

    #[test]
    fn two_classes_read_as_expected() {
        let names = ["ants".to_string(), "bees".to_string()];
        let text = render(&names, &[(0, 0), (0, 0), (0, 1), (1, 1)]);
        let (summary, tables) = text.split_once('\n').unwrap();
        assert!(!summary.contains("top-5"), "{summary}");
        let expected = "
class          precision  recall      f1  support
ants              1.0000  0.6667  0.8000        3
bees              0.5000  1.0000  0.6667        1
macro average     0.7500  0.8333  0.7333        4

confusion matrix: rows are the true classes, columns the predicted ones
       0 1
0 ants 2 1
1 bees . 1
";
        assert_eq!(tables, expected);
    }

    #[test]
    fn forty_classes_with_awkward_names_stay_aligned() {
        let mut names: Vec<String> = (0..40).map(|k| format!("person {k}")).collect();
        names[3] = "蜂の写真".into();
        names[4] = "a name much longer than any column could reasonably be".into();
        names[5] = "two\nlines\u{1b}[2J".into();
        let confusions: Vec<(u32, usize)> = (0..400).map(|i| ((i % 40) as u32, (i % 40 + i / 390) % 40)).collect();
        let text = render(&names, &confusions);
        assert!(text.lines().next().unwrap().contains("), top-5 "), "{text}");
        let matrix: Vec<&str> = text.lines().skip_while(|l| !l.starts_with("confusion")).skip(1).collect();
        assert_eq!(matrix.len(), 41);
        assert!(matrix.iter().all(|line| line.width() == matrix[0].width()), "{text}");
        assert!(matrix[0].width() <= 150, "{} columns", matrix[0].width());
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn many_classes_list_the_frequent_confusions() {
        let names: Vec<String> = (0..61).map(|k| format!("c{k}")).collect();
        let text = render(&names, &[(60, 2), (60, 2), (1, 0), (5, 5)]);
        assert!(
            text.ends_with("most frequent confusions, 2 of 2:\n      2  c60 taken for c2\n      1  c1 taken for c0\n")
        );
    }
}
