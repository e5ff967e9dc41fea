//! The arguments of `regraft train`: some of its own, and one for each setting.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use regraft::{Error, FIELDS, Field, Settings, WeightSpec};
use regraft_data::Preprocessing;

use crate::flags::{flag, with_flags};
use crate::values::{AUTO, backbone_or_auto, names, weights};

#[derive(Args)]
pub struct Train {
    /// Folder with train/ and val/ of class folders, or with the class folders themselves; or a CSV file that lists photos
    pub data: PathBuf,
    /// Architecture, by torchvision's name (see regraft backbones); an ONNX file (.onnx) of a classifier, with its weights; or
    /// auto: rootstock, which is inside this program
    #[arg(long, default_value = AUTO, value_parser = backbone_or_auto)]
    pub backbone: String,
    /// Pretrained weights: a published name such as imagenet1k_v1 (see regraft backbones), downloaded if need be; a file,
    /// torchvision's .pth or .safetensors; or random
    #[arg(long, value_name = "NAME|FILE", default_value = "default", value_parser = weights())]
    pub weights: WeightSpec,
    /// Download nothing: published weights must be here already
    #[arg(long, hide_short_help = true)]
    pub offline: bool,
    /// Folder for the run [default: runs/train, runs/train2, ...]
    #[arg(long)]
    pub output_dir: Option<PathBuf>,
    /// Replace the run that --output-dir holds
    #[arg(long, requires = "output_dir", hide_short_help = true)]
    pub exist_ok: bool,
    /// Train nothing; try learning rates, suggest one, and draw the curve (lr_find.svg and .csv in --output-dir)
    #[arg(long, hide_short_help = true)]
    pub find_lr: bool,
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// The settings that were given on the command line, as text.
pub struct SettingArgs(Vec<(&'static Field, String)>);

/// Settings in the short help; the long one has all.
const SHORT_HELP: [&str; 8] = ["mode", "time", "val_fraction", "head", "freeze_until", "epochs", "batch_size", "lr"];

/// Other names of flags.
const ALIASES: [(&str, &str); 2] = [("c", "C"), ("weight_decay", "wd")];

/// The argument of a setting.
fn argument(field: &'static Field) -> Arg {
    let mut help = with_flags(field.help);
    let default = field.default_text();
    if !default.is_empty() && !field.is_flag {
        help += &format!(" [default: {}]", with_flags(&default));
    }
    let name = field.name.replace('_', "-");
    let mut arg =
        Arg::new(field.name).help(help).help_heading(field.title).hide_short_help(!SHORT_HELP.contains(&field.name));
    arg = match field.name {
        "c" => arg.short('C').long("C"),
        "batch_size" => arg.short('b').long(name),
        _ => arg.long(name),
    };
    if let Some((_, alias)) = ALIASES.iter().find(|(name, alias)| *name == field.name && *alias != "C") {
        arg = arg.visible_alias(*alias);
    }
    if field.is_flag {
        return arg.action(ArgAction::SetTrue);
    }
    // A list may begin with a negative number, which clap does not take for one.
    arg = arg.value_name(field.value_name).allow_hyphen_values(field.is_list);
    match field.choices {
        [] => arg.value_parser(move |text: &str| match field.check_text(text) {
            Ok(()) => Ok(text.to_owned()),
            // clap names flag and value.
            Err(Error::Setting { allowed, .. }) => Err(with_flags(&allowed)),
            Err(error) => Err(error.to_string()),
        }),
        choices => arg.value_parser(names(choices)),
    }
}

impl Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        command.args(FIELDS.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |field: &&Field| matches.value_source(field.name) == Some(ValueSource::CommandLine);
        let text = |field: &'static Field| match field.is_flag {
            true => matches.get_flag(field.name).to_string(),
            false => matches.get_one::<String>(field.name).cloned().unwrap_or_default(),
        };
        Ok(Self(FIELDS.iter().filter(given).map(|field| (field, text(field))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Train {
    /// The run's settings but for the weights; `usual` is how images are prepared where no setting says otherwise.
    ///
    /// # Errors
    /// [`regraft::Error::Setting`].
    pub fn settings(&self, usual: &Preprocessing) -> regraft::Result<Settings> {
        let changes = self.settings.0.iter().map(|(field, text)| (field.name, text.as_str()));
        let mut settings = Settings::with_changes(self.data.clone(), self.backbone.as_str().into(), changes)?;
        settings.prepare_as(usual);
        Ok(settings)
    }

    /// Names every setting that was given and has no effect, with what it goes with.
    pub fn idle(&self, settings: &Settings) -> Vec<String> {
        let idle = self.settings.0.iter().filter_map(|(field, _)| Some((field, field.idle(settings)?)));
        idle.map(|(field, goes_with)| {
            format!("{} has no effect here: it goes with {}", flag(field.name), with_flags(goes_with))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Command as Commands};
    use clap::CommandFactory;
    use regraft::Mode;

    fn train(line: &str) -> Box<Train> {
        let words = ["regraft", "train", "photos"].into_iter().chain(line.split_whitespace());
        let Commands::Train(train) = Arguments::try_read(words).unwrap().command else { panic!("train") };
        train
    }

    #[test]
    fn every_setting_has_a_flag_and_every_older_flag_is_there() {
        let command = Arguments::command();
        let train = command.find_subcommand("train").unwrap();
        let flags: Vec<&str> = train.get_arguments().filter_map(Arg::get_long).collect();
        for field in FIELDS {
            let long = if field.name == "c" { "C".into() } else { field.name.replace('_', "-") };
            assert!(flags.contains(&&*long), "{}", field.name);
        }
        for old in include_str!("flags-0.1.0.txt").lines() {
            assert!(flags.contains(&old), "--{old} is gone");
        }
    }

    #[test]
    fn settings_are_those_given_over_the_modes_defaults() {
        let usual = Preprocessing::default();
        let settings = train("").settings(&usual).unwrap();
        assert_eq!((settings.mode, settings.lr, settings.epochs), (Mode::Auto, 0.0003, 10));
        let settings = train("--lr 0.01 --mode frozen --imgsz 128 -b 8 --nesterov").settings(&usual).unwrap();
        assert_eq!((settings.mode, settings.lr, settings.batch_size, settings.epochs), (Mode::Frozen, 0.01, 8, 25));
        assert_eq!((settings.preprocessing.crop, settings.preprocessing.resize, settings.nesterov), (128, 146, true));
        assert_eq!(train("--mode probe -C 0.5").settings(&usual).unwrap().c, Some(0.5));
    }

    #[test]
    fn idle_names_flags_without_effect() {
        let train = train("--mode frozen --optimizer adamw --momentum 0.8 -C 1 --seed 3");
        let idle = train.idle(&train.settings(&Preprocessing::default()).unwrap());
        assert_eq!(
            idle,
            [
                "-C has no effect here: it goes with --mode probe or --init-head probe",
                "--momentum has no effect here: it goes with --optimizer sgd"
            ]
        );
    }
}
