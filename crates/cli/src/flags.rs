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

/// A message with flags in the place of settings in backquotes.
pub fn with_flags(text: &str) -> String {
    let mut result = String::new();
    let mut parts = text.split('`');
    result += parts.next().unwrap_or_default();
    // Every second part is in backquotes.
    while let (Some(quoted), rest) = (parts.next(), parts.next()) {
        match rest {
            Some(_) if Settings::field(quoted).is_some() || OTHERS.contains(&quoted) => result += &flag(quoted),
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
}
