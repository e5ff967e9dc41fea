//! Settings as a file: `config.toml`, and the form that version 0.1.0 wrote.

use std::path::PathBuf;

use regraft_data::{Augmentation, AutoAugment, ColorJitter};
use regraft_engine::UpdateRule;
use regraft_learn::schedule::Schedule;
use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::{FIELDS, Mode, Settings, value::SettingValue};
use crate::{Backbone, Source};

impl Settings {
    /// The settings as TOML: a table for each section.
    ///
    /// # Errors
    /// In words, if a path is no text.
    pub(crate) fn to_toml(&self) -> Result<String, String> {
        fn value(value: impl Serialize) -> Result<Value, String> {
            Value::try_from(value).map_err(|e| e.to_string())
        }
        let mut file = Table::new();
        for field in FIELDS {
            let section = file.entry(field.section).or_insert_with(|| Value::Table(Table::new()));
            if let (Value::Table(section), Some(value)) = (section, (field.toml)(self)) {
                section.insert(field.name.into(), value);
            }
        }
        let mut insert = |section: &str, name: &str, value: Value| {
            if let Some(Value::Table(section)) = file.get_mut(section) {
                section.insert(name.into(), value);
            }
        };
        insert("data", "path", value(&self.data)?);
        insert("network", "backbone", value(&self.backbone)?);
        if !self.weights.is_random() {
            insert("network", "weights", value(&self.weights)?);
        }
        if let Some(published) = &self.published {
            insert("network", "published", value(published)?);
        }
        file.insert("preprocessing".into(), value(&self.preprocessing)?);
        toml::to_string(&file).map_err(|e| e.to_string())
    }

    /// Reads settings, in the form of this version or of 0.1.0.
    ///
    /// # Errors
    /// In words, naming the entry that is wrong.
    pub(crate) fn from_toml(text: &str) -> Result<Self, String> {
        let mut file: Table = toml::from_str(text).map_err(|e| e.to_string())?;
        let old = file.get("data").is_some_and(Value::is_str).then(|| file.clone());
        if old.is_some() {
            file = modern(file)?;
        }
        let preprocessing = take(&mut file, "preprocessing")?.ok_or("it does not say how images are prepared")?;
        let mut read = Reader { file };
        let mode = read.parsed::<Mode>("run", "mode")?.ok_or("it has no mode")?;
        let data = read.parsed::<PathBuf>("data", "path")?.ok_or("it has no path of the data")?;
        let backbone = read.parsed::<Backbone>("network", "backbone")?.ok_or("it has no backbone")?;
        let mut settings = Self {
            weights: read.parsed("network", "weights")?.unwrap_or(Source::Random),
            published: read.parsed("network", "published")?,
            preprocessing,
            ..Self::new(data, backbone, mode)
        };
        for field in FIELDS {
            match read.take(field.section, field.name) {
                Some(value) => settings.set(field.name, &text_of(&value)).map_err(|e| e.to_string())?,
                None if (field.toml)(&settings).is_none() => {}
                // An absent value is no value, whatever the default is by now.
                None => (field.clear)(&mut settings),
            }
        }
        match read.unknown() {
            Some(name) => Err(format!("it has an entry {name:?}, which this version does not know")),
            None => old.map_or(Ok(()), |old| settings.require_same(old)).map(|()| settings),
        }
    }

    /// Refuses a file of version 0.1.0 with values that these settings cannot express: a resumed run would end with other
    /// bits.
    fn require_same(&self, mut old: Table) -> Result<(), String> {
        let same = [
            ("optimizer", take::<UpdateRule>(&mut old, "optimizer")? == Some(self.update_rule())),
            ("schedule", take::<Schedule>(&mut old, "schedule")? == Some(self.schedule())),
            ("augmentation", take::<Augmentation>(&mut old, "augmentation")? == self.augmentation()),
        ];
        match same.iter().find(|(_, same)| !same) {
            Some((name, _)) => Err(format!("its entry {name:?} has values that this version cannot use")),
            None => Ok(()),
        }
    }
}

/// A value as text, as settings read it.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn take<T: DeserializeOwned>(table: &mut Table, name: &str) -> Result<Option<T>, String> {
    table.remove(name).map(|value| value.try_into().map_err(|e| format!("{name}: {e}"))).transpose()
}

/// A file from which entries are taken one after the other.
struct Reader {
    file: Table,
}

impl Reader {
    fn take(&mut self, section: &str, name: &str) -> Option<Value> {
        self.file.get_mut(section)?.as_table_mut()?.remove(name)
    }

    fn parsed<T: DeserializeOwned>(&mut self, section: &str, name: &str) -> Result<Option<T>, String> {
        let value = self.file.get(section).and_then(|section| section.get(name)).cloned();
        // The mode stays for the other settings to be read.
        if name != "mode" {
            self.take(section, name);
        }
        value.map(|value| value.try_into().map_err(|e| format!("{name}: {e}"))).transpose()
    }

    /// An entry that nobody has taken.
    fn unknown(&self) -> Option<String> {
        self.file.iter().find_map(|(section, entries)| match entries {
            Value::Table(entries) => entries.keys().next().map(|name| format!("{section}.{name}")),
            _ => Some(section.clone()),
        })
    }
}

/// The settings that version 0.1.0 wrote, in today's form.
fn modern(mut old: Table) -> Result<Table, String> {
    let mut file = Table::new();
    let mut put = |section: &str, name: &str, value: Option<Value>| {
        let section = file.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let (Value::Table(section), Some(value)) = (section, value) {
            section.insert(name.into(), value);
        }
    };
    put("data", "path", old.remove("data"));
    for name in ["backbone", "weights", "published"] {
        put("network", name, old.remove(name));
    }
    if let Some(Value::Integer(bytes)) = old.remove("cache_bytes") {
        put("data", "cache_mib", Some(Value::Integer(bytes >> 20)));
    }
    let mut class_weights = old.remove("class_weights");
    if let Some(Value::Table(given)) = &class_weights {
        let list = given.get("given").and_then(Value::as_array).cloned().unwrap_or_default();
        class_weights = Some(Value::String(list.iter().map(text_of).collect::<Vec<_>>().join(",")));
    }
    put("optimizer", "class_weights", class_weights);
    if let Some(Value::Table(mut rule)) = old.remove("optimizer") {
        put("optimizer", "optimizer", rule.remove("name"));
        for name in ["momentum", "nesterov", "weight_decay"] {
            put("optimizer", name, rule.remove(name));
        }
    }
    if let Some(Value::Table(mut schedule)) = old.remove("schedule") {
        if let Some(Value::Table(mut policy)) = schedule.remove("policy") {
            let name = policy.remove("name").as_ref().and_then(Value::as_str).map(str::to_lowercase);
            put("schedule", "lr_scheduler", name.map(Value::String));
            for (old, name) in [("step_size", "lr_step_size"), ("gamma", "lr_gamma"), ("eta_min", "lr_min")] {
                put("schedule", name, policy.remove(old));
            }
        }
        if let Some(Value::Table(mut warmup)) = schedule.remove("warmup") {
            put("schedule", "lr_warmup_epochs", warmup.remove("total_iters"));
            put("schedule", "lr_warmup_decay", warmup.remove("start_factor"));
        }
    }
    match old.remove("augmentation") {
        Some(Value::Table(mut augmentation)) => {
            put("augmentation", "hflip_prob", augmentation.remove("hflip"));
            put("augmentation", "rotation", augmentation.remove("degrees"));
            if let Some(jitter) = take::<ColorJitter>(&mut augmentation, "color_jitter")? {
                put("augmentation", "color_jitter", Some(Value::String(jitter.text())));
            }
            match take::<AutoAugment>(&mut augmentation, "auto_augment")? {
                Some(AutoAugment::Ra { magnitude, .. }) => {
                    put("augmentation", "auto_augment", Some(Value::String("ra".into())));
                    put("augmentation", "ra_magnitude", Some(Value::Integer(magnitude as i64)));
                }
                Some(AutoAugment::TaWide) => {
                    put("augmentation", "auto_augment", Some(Value::String("ta_wide".into())));
                }
                None => {}
            }
            if let Some(Value::Table(mut erasing)) = augmentation.remove("random_erasing") {
                put("augmentation", "random_erase", erasing.remove("p"));
            }
            if let Some(Value::Table(mut mix)) = augmentation.remove("mix") {
                put("augmentation", "mixup_alpha", mix.remove("mixup_alpha"));
                put("augmentation", "cutmix_alpha", mix.remove("cutmix_alpha"));
            }
        }
        _ => put("augmentation", "no_augment", Some(Value::Boolean(true))),
    }
    // Where it was absent, there was no decay, whatever the mode's default.
    old.entry("lr_layer_decay").or_insert(Value::Float(1.0));
    for field in FIELDS {
        if let Some(value) = old.remove(field.name) {
            put(field.section, field.name, Some(value));
        }
    }
    let preprocessing = old.remove("preprocessing");
    if let Some(name) = old.keys().next() {
        return Err(format!("it has an entry {name:?}, which this version does not know"));
    }
    file.extend(preprocessing.map(|value| ("preprocessing".to_owned(), value)));
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AutoAugmentPolicy, BatchNorm, ClassWeights, InitHead, Optimizer, Published, Scheduler, Seconds};

    #[test]
    fn toml_round_trips() {
        let mut settings = Settings::new("photos".into(), "resnet18".into(), Mode::Auto);
        settings.weights = Source::File("weights.pth".into());
        settings.published = Some(Published { name: "V1".into(), url: "https://host/weights.pth".into() });
        settings.bn = Some(BatchNorm::Frozen);
        settings.class_weights = ClassWeights::Given(vec![0.5, 2.0]);
        settings.head = "conv:256,fc:128".parse().unwrap();
        (settings.cut, settings.init_head) = (Some("layer3".into()), InitHead::Probe);
        (settings.ema, settings.accumulate, settings.lr) = (Some(0.99), 2, 0.1 + 0.2);
        settings.mean = Some([0.485, 0.456, 0.406]);
        // Other than the mode's default: an absent value stays absent.
        settings.time = None;
        let text = settings.to_toml().unwrap();
        assert_eq!(Settings::from_toml(&text).unwrap(), settings, "{text}");
        assert!(text.contains("[optimizer]") && text.contains("lr = 0.30000000000000004"), "{text}");
    }

    #[test]
    fn from_toml_names_what_is_wrong() {
        let text = Settings::tutorial("photos".into(), "resnet18".into()).to_toml().unwrap();
        let wrong = |from: &str, to: &str| Settings::from_toml(&text.replace(from, to)).unwrap_err();
        assert!(wrong("lr = 0.001", "lr = -1.0").contains("`lr` is -1"), "{text}");
        assert!(wrong("momentum", "inertia").contains("optimizer.inertia"));
        assert!(wrong("mode = \"finetune\"", "mode = \"fast\"").contains("mode"));
        assert!(Settings::from_toml("port = 80").unwrap_err().contains("images are prepared"));
    }

    #[test]
    fn from_toml_reads_the_files_of_older_versions() {
        let old = include_str!("../../tests/fixtures/config-0.1.0.toml");
        let settings = Settings::from_toml(old).unwrap();
        let mut expected = Settings::new("/photos".into(), "mobilenet_v2".into(), Mode::Finetune);
        expected.weights = Source::File("/weights/mobilenet_v2.pth".into());
        (expected.bn, expected.lr, expected.epochs) = (Some(BatchNorm::Frozen), 0.0001, 2);
        (expected.clip_grad_norm, expected.accumulate, expected.ema) = (Some(1.0), 2, Some(0.9));
        (expected.random_erase, expected.mixup_alpha) = (0.3, 0.2);
        (expected.lr_warmup_epochs, expected.lr_warmup_decay) = (1, 0.05);
        expected.class_weights = ClassWeights::Given(vec![1.0, 2.5]);
        // Version 0.1.0 resolved it.
        expected.weight_decay = Some(0.0);
        assert_eq!(settings, expected);
        // A rule that this version cannot express is refused, not changed.
        for (from, to) in [("scale = [0.08, 1.0]", "scale = [0.5, 1.0]"), ("name = \"sgd\"", "name = \"adam\"")] {
            assert!(old.contains(from) && Settings::from_toml(&old.replace(from, to)).is_err(), "{to}");
        }
        let auto = old.replace("mode = \"finetune\"", "mode = \"auto\"");
        assert_eq!(Settings::from_toml(&auto).unwrap().lr_layer_decay, 1.0);

        // As the program wrote them.
        let auto = Settings::from_toml(include_str!("../../tests/fixtures/config-0.1.0-auto.toml")).unwrap();
        let mut expected = Settings::new("/photos".into(), Backbone::embedded(), Mode::Auto);
        expected.weights = Source::Embedded;
        expected.preprocessing = crate::Embedded::ROOTSTOCK.preprocessing().unwrap();
        (expected.time, expected.weight_decay) = (Some(Seconds(0.0)), Some(0.01));
        assert_eq!(auto, expected);
        let frozen = Settings::from_toml(include_str!("../../tests/fixtures/config-0.1.0-frozen.toml")).unwrap();
        assert_eq!((frozen.optimizer, frozen.lr_scheduler), (Optimizer::AdamW, Scheduler::OneCycleLR));
        assert_eq!((frozen.auto_augment, frozen.ra_magnitude), (Some(AutoAugmentPolicy::Ra), 9));
        assert_eq!((frozen.class_weights.clone(), frozen.color_jitter.unwrap().hue), (ClassWeights::Balanced, 0.1));
    }
}
