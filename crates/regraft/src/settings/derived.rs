//! What settings come to: the engine's update rule, the schedule, the transforms, the loss's weights.

use regraft_data::{Augmentation, AutoAugment, Dataset, Mix, Preprocessing, RandomErasing, Task};
use regraft_engine::UpdateRule;
use regraft_learn::schedule::{Policy, Schedule, Warmup};

use super::{AutoAugmentPolicy, ClassWeights, Optimizer, Scheduler, Settings};

/// AdamW's decay of the moments and its epsilon: PyTorch's defaults.
pub(crate) const ADAMW_BETAS: [f64; 2] = [0.9, 0.999];
pub(crate) const ADAMW_EPS: f64 = 1e-8;

impl Optimizer {
    /// Its weight decay by default, as in PyTorch.
    pub(super) fn weight_decay(self) -> f64 {
        match self {
            Optimizer::Sgd => 0.0,
            Optimizer::AdamW => 0.01,
        }
    }
}

impl Settings {
    /// Prepares images as for the weights, `usual`, unless settings say otherwise.
    pub fn prepare_as(&mut self, usual: &Preprocessing) {
        let crop = self.imgsz.unwrap_or(usual.crop);
        self.preprocessing = Preprocessing {
            resize: self.val_resize_size.unwrap_or_else(|| usual.resize_for(crop)),
            crop,
            interpolation: self.interpolation.unwrap_or(usual.interpolation),
            mean: self.mean.unwrap_or(usual.mean),
            std: self.std.unwrap_or(usual.std),
            ..usual.clone()
        };
    }

    /// The optimiser.
    pub fn update_rule(&self) -> UpdateRule {
        let Self { momentum, nesterov, .. } = *self;
        let weight_decay = self.weight_decay.unwrap_or(self.optimizer.weight_decay());
        match self.optimizer {
            Optimizer::Sgd => UpdateRule::Sgd { momentum, weight_decay, nesterov },
            Optimizer::AdamW => UpdateRule::AdamW { betas: ADAMW_BETAS, eps: ADAMW_EPS, weight_decay },
        }
    }

    /// How the learning rate goes.
    pub fn schedule(&self) -> Schedule {
        let policy = match self.lr_scheduler {
            Scheduler::StepLR => Policy::StepLR { step_size: self.lr_step_size, gamma: self.lr_gamma },
            Scheduler::CosineAnnealingLR => Policy::CosineAnnealingLR { eta_min: self.lr_min },
            Scheduler::OneCycleLR => {
                Policy::OneCycleLR { max_lr: self.lr, pct_start: 0.3, div_factor: 25.0, final_div_factor: 1e4 }
            }
            Scheduler::Constant => Policy::Constant,
        };
        let warmup = (self.lr_warmup_epochs > 0)
            .then_some(Warmup { total_iters: self.lr_warmup_epochs, start_factor: self.lr_warmup_decay });
        Schedule { policy, warmup }
    }

    /// How training images are varied; `None` if they are prepared as for validation.
    pub fn augmentation(&self) -> Option<Augmentation> {
        (!self.no_augment).then(|| Augmentation {
            hflip: self.hflip_prob,
            degrees: self.rotation,
            color_jitter: self.color_jitter,
            auto_augment: self.auto_augment.map(|policy| match policy {
                AutoAugmentPolicy::Ra => AutoAugment::Ra { num_ops: 2, magnitude: self.ra_magnitude.into() },
                AutoAugmentPolicy::TaWide => AutoAugment::TaWide,
            }),
            random_erasing: (self.random_erase > 0.0)
                .then(|| RandomErasing { p: self.random_erase, ..RandomErasing::default() }),
            mix: self.mixes().then_some(Mix { mixup_alpha: self.mixup_alpha, cutmix_alpha: self.cutmix_alpha }),
            ..Augmentation::default()
        })
    }

    /// Whether images of a step are mixed with one another.
    pub(super) fn mixes(&self) -> bool {
        self.mixup_alpha > 0.0 || self.cutmix_alpha > 0.0
    }

    /// Most bytes of decoded images kept in memory, if that is set.
    pub(crate) fn cache_bytes(&self) -> Option<usize> {
        self.cache_mib.map(|mib| mib.saturating_mul(1 << 20))
    }

    /// Weight of each class in the loss, or of each label's yes, if they differ.
    pub(crate) fn loss_weights(&self, dataset: &Dataset) -> Option<Vec<f32>> {
        match &self.class_weights {
            ClassWeights::Uniform => None,
            ClassWeights::Given(weights) => Some(weights.clone()),
            ClassWeights::Balanced => {
                let (classes, n) = (dataset.classes.len(), dataset.train.len() as f32);
                let mut counts = vec![0usize; classes];
                dataset.train.iter().flat_map(|sample| sample.target.indices()).for_each(|&class| counts[class] += 1);
                let weight = |&count: &usize| match dataset.task {
                    // A label's yeses count as much as its noes.
                    Task::Labels => (n - count as f32) / count as f32,
                    Task::Classes | Task::Value => n / classes as f32 / count as f32,
                };
                Some(counts.iter().map(weight).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regraft_data::{Sample, Target};

    fn dataset(task: Task, targets: impl IntoIterator<Item = Target>) -> Dataset {
        let train = targets.into_iter().map(|target| Sample { path: "image".into(), target }).collect();
        Dataset { root: "photos".into(), task, classes: vec!["a".into(), "b".into()], train, val: Vec::new() }
    }

    #[test]
    fn loss_weights_balance_classes_and_labels() {
        let mut settings = Settings::tutorial("photos".into(), "resnet18".into());
        settings.class_weights = ClassWeights::Balanced;
        let classes = dataset(Task::Classes, [0, 0, 0, 1].map(Target::Class));
        assert_eq!(settings.loss_weights(&classes).unwrap(), [4.0 / 6.0, 2.0]);
        let labels = dataset(Task::Labels, [vec![0], vec![0, 1], vec![], vec![0]].map(Target::Labels));
        assert_eq!(settings.loss_weights(&labels).unwrap(), [1.0 / 3.0, 3.0]);
    }

    #[test]
    fn prepare_as_keeps_the_proportion_of_the_weights() {
        let mut settings = Settings::tutorial("photos".into(), "resnet18".into());
        let usual = Preprocessing { resize: 299, crop: 299, ..Preprocessing::default() };
        settings.prepare_as(&usual);
        assert_eq!(settings.preprocessing, usual);
        settings.imgsz = Some(100);
        settings.prepare_as(&Preprocessing::default());
        assert_eq!((settings.preprocessing.resize, settings.preprocessing.crop), (114, 100));
        settings.val_resize_size = Some(120);
        settings.prepare_as(&Preprocessing::default());
        assert_eq!(settings.preprocessing.resize, 120);
    }
}
