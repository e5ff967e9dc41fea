//! From the names of settings, which the library's messages have in backquotes, to flags.

use regraft::Settings;

/// Flags that are no settings of a run.
const OTHERS: [&str; 10] = [
    "backbone",
    "weights",
    "output_dir",
    "exist_ok",
    "offline",
    "teacher",
    "threads",
    "device",
    "min_scale",
    "find_lr",
];

/// The flag of a setting: `val_fraction` is `--val-fraction`.
pub fn flag(name: &str) -> String {
    match name {
        "c" => "-C".into(),
        _ => format!("--{}", name.replace('_', "-")),
    }
}

/// Settings that errors of the data name. These have classes and columns in backquotes, too, which may be called as any other
/// setting is.
pub const OF_DATA: [&str; 2] = ["strict", "val_fraction"];

/// A message with flags in the place of settings in backquotes.
pub fn with_flags(text: &str) -> String {
    replaced(text, |name| Settings::field(name).is_some() || OTHERS.contains(&name))
}

/// The same for these settings alone.
pub fn with_flags_of(names: &[&str], text: &str) -> String {
    replaced(text, |name| names.contains(&name))
}

fn replaced(text: &str, is_setting: impl Fn(&str) -> bool) -> String {
    let mut result = String::new();
    let mut parts = text.split('`');
    result += parts.next().unwrap_or_default();
    // Every second part is in backquotes.
    while let (Some(quoted), rest) = (parts.next(), parts.next()) {
        match rest {
            Some(_) if is_setting(quoted) => result += &flag(quoted),
            Some(_) => result += &format!("`{quoted}`"),
            None => result += &format!("`{quoted}"),
        }
        result += rest.unwrap_or_default();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_flags_replaces_settings_alone() {
        for (text, expected) in [
            ("`val_fraction` is 2; it must be between 0 and 1", "--val-fraction is 2; it must be between 0 and 1"),
            ("it goes with `mode` probe or `c`", "it goes with --mode probe or -C"),
            ("use `regraft train`, and `weights` FILE", "use `regraft train`, and --weights FILE"),
            ("a lonely ` stays", "a lonely ` stays"),
            ("label `a` and `b", "label `a` and `b"),
            ("", ""),
        ] {
            assert_eq!(with_flags(text), expected);
        }
    }

    #[test]
    fn with_flags_of_leaves_classes_that_are_called_as_settings() {
        let text = "no photos of `head`; leave out `strict`";
        assert_eq!(with_flags_of(&OF_DATA, text), "no photos of `head`; leave out --strict");
    }
}
