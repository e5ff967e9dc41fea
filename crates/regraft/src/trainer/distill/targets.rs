//! What the teachers say of the photos, computed once and kept on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use regraft_data::{Loader, LoaderOptions, Sample};
use regraft_graph::{StateDict, Tensor};
use serde_json::json;

use super::teacher::{About, Teacher, Widths};
use super::{DistillConfig, Unlabelled};
use crate::photos::features::{BATCH, for_each_batch};
use crate::run::folder::remove;
use crate::{Context, Error, Result, RunFolder};

/// The tensor in a file of theirs.
const SAID: &str = "said";

/// The metadata entry of such a file that says what was asked: whom, and about what.
const ASKED: &str = "asked";

/// A part of the photos in a certain view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// The training photos, varied in one of the ways.
    Train(usize),
    /// The photos kept apart, as they are.
    Val,
}

/// The teachers' words.
pub(super) struct Targets<'a> {
    config: &'a DistillConfig,
    images: &'a Unlabelled,
    folder: &'a RunFolder,
    teachers: Vec<Teacher>,
    /// All that decides what they say, as their files have it.
    asked: String,
    pub widths: Vec<Widths>,
    pub about: Vec<About>,
    /// For every number that they say: its mean over the training photos, and the factor that makes each teacher's features
    /// and each one's logits count the same.
    pub mean: Vec<f32>,
    pub factor: Vec<f32>,
}

impl<'a> Targets<'a> {
    /// Opens the teachers. Of what lies in the folder, only their own answers about these photos stay; a run that `resumes`
    /// began with the answers that are there, so others are an error.
    ///
    /// # Errors
    /// Those of opening them; [`Error::File`] naming the answers of others.
    pub fn open(
        config: &'a DistillConfig,
        images: &'a Unlabelled,
        folder: &'a RunFolder,
        resumes: bool,
        context: &Context,
    ) -> Result<Self> {
        let teachers =
            config.teachers.iter().map(|teacher| Teacher::open(teacher, context)).collect::<Result<Vec<_>>>()?;
        let widths = teachers.iter().map(|teacher| teacher.widths).collect();
        let about = teachers.iter().map(|teacher| teacher.about.clone()).collect();
        let asked = asked(config, images, &teachers);
        let (mean, factor) = (Vec::new(), Vec::new());
        let targets = Self { config, images, folder, teachers, asked, widths, about, mean, factor };
        targets.forget_others(resumes)?;
        Ok(targets)
    }

    /// Asks them about the first view, which sets the units for all.
    ///
    /// # Errors
    /// Those of asking them, and of reading and writing what is kept.
    pub fn begin(&mut self, context: &Context) -> Result<()> {
        let said = self.said(View::Train(0), context)?;
        self.standardise(&said);
        Ok(())
    }

    /// Views of the training photos that the epochs come to.
    fn views(&self) -> usize {
        self.config.views.min(self.config.epochs)
    }

    fn forget_others(&self, resumes: bool) -> Result<()> {
        for (view, path) in self.folder.answers()? {
            let told = regraft_weights::read_safetensors_metadata(&path);
            let others = told.as_ref().is_ok_and(|about| about.get(ASKED) != Some(&self.asked));
            if resumes && others {
                let reason = "are not the answers of these teachers about these views: they, or the settings, have changed \
                              since this run began, so it cannot go on; start a new run";
                return Err(Error::File { path, reason: reason.into() });
            }
            if told.is_err() || others || view.is_some_and(|view| view >= self.views()) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// The most bytes that their answers will take which are not there yet.
    ///
    /// # Errors
    /// [`Error::File`] if the folder cannot be read.
    pub fn missing_bytes(&self) -> Result<u64> {
        let here = self.folder.answers()?;
        let views = self.views() - here.iter().filter(|(view, _)| view.is_some()).count().min(self.views());
        let val = if here.iter().any(|(view, _)| view.is_none()) { 0 } else { self.images.val.len() };
        let photos = (views as u64).saturating_mul(self.images.train.len() as u64).saturating_add(val as u64);
        // In half precision.
        Ok(photos.saturating_mul(2 * self.len() as u64))
    }

    /// Numbers that they say of one photo.
    pub fn len(&self) -> usize {
        self.widths.iter().map(|widths| widths.all()).sum()
    }

    /// What a student is to say of a part: `[photos, len]`, standardised.
    ///
    /// # Errors
    /// Those of asking them, and of reading and writing what is kept.
    pub fn of(&mut self, view: View, context: &Context) -> Result<Vec<f32>> {
        let mut said = self.said(view, context)?;
        for row in said.chunks_exact_mut(self.mean.len()) {
            for ((value, mean), factor) in row.iter_mut().zip(&self.mean).zip(&self.factor) {
                *value = (*value - mean) * factor;
            }
        }
        Ok(said)
    }

    /// What they say of a part in their own units, from disk if it is there.
    fn said(&mut self, view: View, context: &Context) -> Result<Vec<f32>> {
        let path = self.path(view);
        let n = self.samples(view).len();
        if path.exists() {
            let mut tensors = regraft_weights::read(&path)?;
            let said = tensors.remove(SAID).filter(|tensor| tensor.shape() == [n, self.len()]);
            return said.map(|tensor| tensor.data().to_vec()).ok_or_else(|| Error::File {
                path,
                reason: "is not what these teachers said of these photos; remove it, and it is made again".into(),
            });
        }
        let (len, mut at) = (self.len(), 0);
        let mut said = vec![0.0; n * len];
        for i in 0..self.widths.len() {
            let width = self.widths[i].all();
            let take = |photo: usize, row: &[f32]| said[photo * len + at..][..width].copy_from_slice(row);
            self.ask(i, view, context, take)?;
            at += width;
        }
        let tensors = StateDict::from([(SAID.to_owned(), Tensor::new([n, len], said))]);
        let about = BTreeMap::from([(ASKED.to_owned(), self.asked.clone())]);
        regraft_weights::write_safetensors_half(&path, &tensors, &about)?;
        // As it will be read again: a run that is resumed must not see other digits.
        self.said(view, context)
    }

    fn samples(&self, view: View) -> &'a [Sample] {
        match view {
            View::Train(_) => &self.images.train,
            View::Val => &self.images.val,
        }
    }

    fn path(&self, view: View) -> PathBuf {
        self.folder.answers_path(match view {
            View::Train(view) => Some(view),
            View::Val => None,
        })
    }

    /// Asks a teacher about every photo of a part; what it says goes to `take` with the photo's index.
    fn ask(
        &mut self,
        teacher: usize,
        view: View,
        context: &Context,
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let (config, samples) = (self.config, self.samples(view));
        let teacher = &mut self.teachers[teacher];
        let (augmentation, epoch, of) = match view {
            View::Train(view) => (Some(config.augmentation()), view, format!("view {}/{}", view + 1, config.views)),
            View::Val => (None, 0, "photos kept apart".into()),
        };
        // The same views as the student's: what varies is keyed by seed, view and photo.
        let options = LoaderOptions {
            batch_size: BATCH,
            augmentation,
            seed: config.seed,
            workers: context.threads,
            ..LoaderOptions::default()
        };
        let loader = Loader::new(samples.to_vec(), self.images.store.clone(), teacher.preprocessing.clone(), options)?;
        let (what, width) = (format!("asking {}, {of}", teacher.about.backbone), teacher.widths.all());
        for_each_batch(
            &what,
            &loader,
            epoch as u64,
            |views| teacher.ask(views),
            context,
            |said, batch| {
                if let Some(&value) = said.iter().find(|value| !value.is_finite()) {
                    return Err(Error::NotFinite { value });
                }
                for (&photo, row) in batch.sample_keys.iter().zip(said.chunks_exact(width)) {
                    take(photo as usize, row);
                }
                Ok(())
            },
        )
    }

    /// Measures what they say, so that every number has mean 0 and each teacher's features and logits count the same.
    fn standardise(&mut self, said: &[f32]) {
        let (len, n) = (self.len(), self.images.train.len() as f64);
        let (mut mean, mut square) = (vec![0.0f64; len], vec![0.0f64; len]);
        for row in said.chunks_exact(len) {
            mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x) / n);
        }
        for row in said.chunks_exact(len) {
            let deviations = row.iter().zip(&mean).map(|(&x, m)| (f64::from(x) - m).powi(2) / n);
            square.iter_mut().zip(deviations).for_each(|(s, d)| *s += d);
        }
        let blocks: Vec<usize> =
            self.widths.iter().flat_map(|widths| [widths.features, widths.logits]).filter(|&block| block > 0).collect();
        let weights = blocks.iter().flat_map(|&block| {
            let weight = (len as f64 / (blocks.len() * block) as f64).sqrt();
            std::iter::repeat_n(weight, block)
        });
        // What never varies has nothing to be learned.
        let factor = |(variance, weight): (&f64, f64)| if *variance > 1e-12 { weight / variance.sqrt() } else { 0.0 };
        self.factor = square.iter().zip(weights).map(|pair| factor(pair) as f32).collect();
        self.mean = mean.iter().map(|&m| m as f32).collect();
    }
}

/// Everything that decides what teachers say of the photos, so that answers can be told from those to another question.
fn asked(config: &DistillConfig, images: &Unlabelled, teachers: &[Teacher]) -> String {
    let who = teachers.iter().map(|teacher| json!({"is": teacher.about, "preprocessing": teacher.preprocessing}));
    json!({
        "teachers": who.collect::<Vec<_>>(),
        "photos_sha256": images.sha256,
        // Large photos are decoded at a smaller size, which depends on the largest that anyone asks for.
        "decoded_for": images.side,
        "exif_orientation": config.preprocessing.exif_orientation,
        "views": config.augmentation(),
        "seed": config.seed,
    })
    .to_string()
}
