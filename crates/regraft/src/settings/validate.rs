//! Settings that contradict one another, or the images.

use regraft_data::{Augmentation, Dataset, Task};

use super::{ClassWeights, FIELDS, Keep, Mode, Settings};
use crate::{Error, Head, InitHead, Result};

/// Fails with a setting that does not go with others.
fn refuse<T>(field: &'static str, value: impl ToString, allowed: impl Into<String>) -> Result<T> {
    Err(Error::Setting { field, value: value.to_string(), allowed: allowed.into() })
}

impl Settings {
    /// Checks what can be checked without looking at any file.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        FIELDS.iter().try_for_each(|field| field.check(self))?;
        if let (Some(patience), true) = (self.patience, self.keep == Keep::Last || self.mode == Mode::Auto) {
            let keeps_last = if self.keep == Keep::Last { "`keep` last" } else { "`mode` auto, which keeps the last," };
            let why = format!("it waits for a better epoch, and {keeps_last} looks for none: leave one out");
            return refuse("patience", patience, why);
        }
        self.validate_head()?;
        self.validate_rates()?;
        self.validate_variation()?;
        if let ClassWeights::Given(weights) = &self.class_weights
            && !weights.iter().all(|weight| weight.is_finite() && *weight > 0.0)
        {
            return refuse("class_weights", format!("{weights:?}"), "they must all be positive");
        }
        self.schedule().validate()?;
        self.preprocessing.validate()?;
        Ok(self.augmentation().as_ref().map_or(Ok(()), Augmentation::validate)?)
    }

    /// Checks the head against the other settings.
    fn validate_head(&self) -> Result<()> {
        let (head, mode) = (&self.head, self.mode);
        if mode != Mode::Probe && matches!(head, Head::Ovr | Head::Mean) {
            let text = if mode == Mode::Auto { "fine-tuning" } else { "gradient descent" };
            return refuse("head", head, format!("it goes with `mode` probe; {text} trains a softmax head"));
        }
        if mode.probes() && !head.is_linear() {
            let text = "it is learned by gradient descent, so it goes with `mode` frozen or `mode` finetune";
            return refuse("head", head, text);
        }
        if self.init_head == InitHead::Probe && !head.is_linear() {
            let text = "a probe gives the weights of a single fully connected layer";
            return refuse("init_head", "probe", format!("it goes with `head` linear, not with {head}: {text}"));
        }
        Ok(())
    }

    /// Checks the settings of layers' learning rates.
    fn validate_rates(&self) -> Result<()> {
        let of_backbone = [
            ("freeze_until", self.freeze_until.is_some()),
            ("backbone_lr", self.backbone_lr.is_some()),
            ("lr_layer_decay", self.lr_layer_decay != 1.0),
            ("unfreeze_every", self.unfreeze_every.is_some()),
        ];
        match of_backbone.into_iter().find(|(_, given)| *given && !self.mode.fine_tunes()) {
            Some((field, _)) => {
                let value = Self::field(field).map_or(String::new(), |field| (field.text)(self));
                refuse(field, value, format!("it goes with `mode` finetune, not with {}", self.mode))
            }
            None => Ok(()),
        }
    }

    /// Checks that what varies images goes together.
    fn validate_variation(&self) -> Result<()> {
        let varies = [
            ("hflip_prob", self.hflip_prob != 0.5),
            ("color_jitter", self.color_jitter.is_some()),
            ("rotation", self.rotation > 0.0),
            ("auto_augment", self.auto_augment.is_some()),
            ("random_erase", self.random_erase > 0.0),
            ("mixup_alpha", self.mixup_alpha > 0.0),
            ("cutmix_alpha", self.cutmix_alpha > 0.0),
            ("views", self.views.is_some()),
        ];
        if let (true, Some((field, _))) = (self.no_augment, varies.into_iter().find(|(_, varies)| *varies)) {
            let value = Self::field(field).map_or(String::new(), |field| (field.text)(self));
            return refuse(field, value, "it varies photos, and `no_augment` does not: leave one of them out");
        }
        let Some(views) = self.views else { return Ok(()) };
        if self.mode.fine_tunes() && self.freeze_until.is_none() {
            let why = "it keeps the features of frozen layers, and fine-tuning without `freeze_until` has none";
            return refuse("views", views, why);
        }
        if self.mixes() {
            let why = "it keeps features of single photos, and `mixup_alpha` and `cutmix_alpha` mix photos before: leave \
                       out either";
            return refuse("views", views, why);
        }
        Ok(())
    }

    /// Checks the settings against the task and the classes of a dataset.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting that does not go with it.
    pub(crate) fn validate_for(&self, dataset: &Dataset) -> Result<()> {
        let (head, classes) = (&self.head, &dataset.classes);
        match dataset.task {
            Task::Classes => {}
            Task::Labels if *head == Head::Mean => {
                return refuse("head", head, "it is for photos of one class each, and these have labels");
            }
            Task::Labels => {}
            Task::Value if matches!(head, Head::Ovr | Head::Mean | Head::Cosine) => {
                return refuse("head", head, "it tells classes apart, and these photos have a number each");
            }
            Task::Value => {
                let given = [
                    ("class_weights", self.class_weights != ClassWeights::Uniform),
                    ("label_smoothing", self.label_smoothing > 0.0),
                    ("cutmix_alpha", self.cutmix_alpha > 0.0),
                ];
                if let Some((field, _)) = given.into_iter().find(|(_, given)| *given) {
                    let value = Self::field(field).map_or(String::new(), |field| (field.text)(self));
                    return refuse(field, value, "it goes with classes or labels, and these photos have a number each");
                }
            }
        }
        match &self.class_weights {
            ClassWeights::Given(weights) if weights.len() != classes.len() => {
                let (given, n) = (weights.len(), classes.len());
                let text = format!("it gives {given} numbers, but there are {n} classes: {}", classes.join(", "));
                refuse("class_weights", format!("{weights:?}"), text)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: fn(&mut Settings)) -> Result<(), String> {
        let mut settings = Settings::tutorial("photos".into(), "resnet18".into());
        change(&mut settings);
        settings.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn validate_names_the_setting() {
        assert!(with(|_| ()).is_ok());
        assert!(with(|s| s.epochs = 0).unwrap_err().contains("`epochs` is 0"));
        assert!(with(|s| s.lr = f64::NAN).unwrap_err().contains("`lr`"));
        assert!(with(|s| s.head = Head::Ovr).unwrap_err().contains("`mode` probe"));
        assert!(with(|s| s.weight_decay = Some(f64::NAN)).unwrap_err().contains("`weight_decay`"));
        assert!(with(|s| s.label_smoothing = 1.0).unwrap_err().contains("`label_smoothing`"));
        assert!(with(|s| (s.patience, s.keep) = (Some(2), Keep::Last)).unwrap_err().contains("`keep` last"));
        assert!(with(|s| (s.mode, s.lr_layer_decay) = (Mode::Frozen, 0.5)).unwrap_err().contains("finetune"));
    }

    #[test]
    fn validate_refuses_views_without_frozen_layers() {
        assert!(with(|s| (s.mode, s.views) = (Mode::Frozen, Some(2))).is_ok());
        assert!(with(|s| s.views = Some(2)).unwrap_err().contains("`freeze_until`"));
        assert!(with(|s| (s.mode, s.views) = (Mode::Frozen, Some(0))).unwrap_err().contains("`views` is 0"));
        assert!(
            with(|s| (s.mode, s.views, s.no_augment) = (Mode::Frozen, Some(2), true))
                .unwrap_err()
                .contains("no_augment")
        );
        assert!(
            with(|s| (s.mode, s.views, s.mixup_alpha) = (Mode::Frozen, Some(2), 0.2))
                .unwrap_err()
                .contains("mixup_alpha")
        );
        assert!(with(|s| (s.no_augment, s.rotation) = (true, 9.0)).unwrap_err().contains("`rotation` is 9"));
    }

    #[test]
    fn validate_for_names_what_does_not_go_with_the_task() {
        let refused = |task, change: fn(&mut Settings)| {
            let mut settings = Settings::tutorial("photos".into(), "resnet18".into());
            change(&mut settings);
            let classes = vec!["a".into(), "b".into()];
            let dataset = Dataset { root: "photos".into(), task, classes, train: Vec::new(), val: Vec::new() };
            settings.validate_for(&dataset).unwrap_err().to_string()
        };
        assert!(refused(Task::Labels, |s| s.head = Head::Mean).contains("`head` is mean"));
        assert!(refused(Task::Value, |s| s.head = Head::Cosine).contains("`head` is cosine"));
        assert!(refused(Task::Value, |s| s.class_weights = ClassWeights::Balanced).contains("`class_weights`"));
        assert!(refused(Task::Value, |s| s.label_smoothing = 0.1).contains("`label_smoothing`"));
        assert!(refused(Task::Value, |s| s.cutmix_alpha = 1.0).contains("`cutmix_alpha`"));
        let message = refused(Task::Classes, |s| s.class_weights = ClassWeights::Given(vec![1.0; 3]));
        assert!(message.contains("3 numbers") && message.contains("a, b"), "{message}");
    }
}
