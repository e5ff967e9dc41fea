//! The teachers' outputs for the images, computed once and stored on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use regraft_data::{Loader, LoaderOptions, Sample};
use regraft_graph::{StateDict, Tensor};
use serde_json::json;

use super::teacher::{About, Teacher, Widths};
use super::{DistillSettings, Unlabelled};
use crate::photos::features::{BATCH, for_each_batch};
use crate::run::folder::remove;
use crate::{Context, Error, Result, RunFolder};

/// Name of the tensor in a file of outputs.
const OUTPUTS: &str = "said";

/// The metadata entry of such a file that says which teachers gave the outputs, and for what.
const QUESTION: &str = "asked";

/// A part of the images in one of its views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// The training images in one of their views.
    Train(usize),
    /// The held-out images, without variation.
    Val,
}

/// The teachers' outputs, and how they are standardised.
pub(super) struct TeacherOutputs<'a> {
    settings: &'a DistillSettings,
    images: &'a Unlabelled,
    folder: &'a RunFolder,
    teachers: Vec<Teacher>,
    /// Everything that decides the outputs, as their files store it.
    question: String,
    pub widths: Vec<Widths>,
    pub about: Vec<About>,
    /// For every output: its mean over the training images, and the factor that makes each teacher's features and each
    /// one's logits count the same.
    pub mean: Vec<f32>,
    pub factor: Vec<f32>,
}

impl<'a> TeacherOutputs<'a> {
    /// Opens the teachers, and removes outputs from the folder that are not theirs for these images. A run that `resumes`
    /// began with the outputs that are there, so others are an error.
    ///
    /// # Errors
    /// Errors of opening the teachers; [`Error::File`] naming the outputs of others.
    pub fn open(
        settings: &'a DistillSettings,
        images: &'a Unlabelled,
        folder: &'a RunFolder,
        resumes: bool,
        context: &Context,
    ) -> Result<Self> {
        let teachers =
            settings.teachers.iter().map(|teacher| Teacher::open(teacher, context)).collect::<Result<Vec<_>>>()?;
        let widths = teachers.iter().map(|teacher| teacher.widths).collect();
        let about = teachers.iter().map(|teacher| teacher.about.clone()).collect();
        let question = question(settings, images, &teachers);
        let (mean, factor) = (Vec::new(), Vec::new());
        let outputs = Self { settings, images, folder, teachers, question, widths, about, mean, factor };
        outputs.remove_others(resumes)?;
        Ok(outputs)
    }

    /// Computes the outputs of the first view, by which all views are standardised.
    ///
    /// # Errors
    /// Errors of computing, reading and writing them.
    pub fn begin(&mut self, context: &Context) -> Result<()> {
        let outputs = self.raw(View::Train(0), context)?;
        self.fit_standardisation(&outputs);
        Ok(())
    }

    /// Views of the training images that the epochs reach.
    fn views(&self) -> usize {
        self.settings.views.min(self.settings.epochs)
    }

    fn remove_others(&self, resumes: bool) -> Result<()> {
        for (view, path) in self.folder.answers()? {
            let metadata = regraft_weights::read_safetensors_metadata(&path);
            let others = metadata.as_ref().is_ok_and(|it| it.get(QUESTION) != Some(&self.question));
            if resumes && others {
                let reason = "are not the answers of these teachers about these views: they, or the settings, have changed \
                              since this run began, so it cannot go on; start a new run";
                return Err(Error::File { path, reason: reason.into() });
            }
            if metadata.is_err() || others || view.is_some_and(|view| view >= self.views()) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Bytes of the outputs that are not there yet.
    ///
    /// # Errors
    /// [`Error::File`] if the folder cannot be read.
    pub fn missing_bytes(&self) -> Result<u64> {
        let here = self.folder.answers()?;
        let views = self.views() - here.iter().filter(|(view, _)| view.is_some()).count().min(self.views());
        let val = if here.iter().any(|(view, _)| view.is_none()) { 0 } else { self.images.val.len() };
        let images = (views as u64).saturating_mul(self.images.train.len() as u64).saturating_add(val as u64);
        // In half precision.
        Ok(images.saturating_mul(2 * self.len() as u64))
    }

    /// Outputs for one image.
    pub fn len(&self) -> usize {
        self.widths.iter().map(|widths| widths.all()).sum()
    }

    /// The student's targets for a part: `[n, len]`, standardised.
    ///
    /// # Errors
    /// Errors of computing, reading and writing them.
    pub fn of(&mut self, view: View, context: &Context) -> Result<Vec<f32>> {
        let mut outputs = self.raw(view, context)?;
        for row in outputs.chunks_exact_mut(self.mean.len()) {
            for ((value, mean), factor) in row.iter_mut().zip(&self.mean).zip(&self.factor) {
                *value = (*value - mean) * factor;
            }
        }
        Ok(outputs)
    }

    /// The outputs for a part in their own units, from disk if they are there.
    fn raw(&mut self, view: View, context: &Context) -> Result<Vec<f32>> {
        let path = self.path(view);
        let n = self.samples(view).len();
        if path.exists() {
            let mut tensors = regraft_weights::read(&path)?;
            let outputs = tensors.remove(OUTPUTS).filter(|tensor| tensor.shape() == [n, self.len()]);
            return outputs.map(|tensor| tensor.data().to_vec()).ok_or_else(|| Error::File {
                path,
                reason: "does not hold the outputs of these teachers for these photos; remove it, and it is made again"
                    .into(),
            });
        }
        let (len, mut at) = (self.len(), 0);
        let mut outputs = vec![0.0; n * len];
        for i in 0..self.widths.len() {
            let width = self.widths[i].all();
            let take = |image: usize, row: &[f32]| outputs[image * len + at..][..width].copy_from_slice(row);
            self.compute(i, view, context, take)?;
            at += width;
        }
        let tensors = StateDict::from([(OUTPUTS.to_owned(), Tensor::new([n, len], outputs))]);
        let metadata = BTreeMap::from([(QUESTION.to_owned(), self.question.clone())]);
        regraft_weights::write_safetensors_half(&path, &tensors, &metadata)?;
        // Read back in half precision: a resumed run must see the same digits.
        self.raw(view, context)
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

    /// Computes a teacher's outputs for every image of a part, and hands them to `take` with the image's index.
    fn compute(
        &mut self,
        teacher: usize,
        view: View,
        context: &Context,
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let (settings, samples) = (self.settings, self.samples(view));
        let teacher = &mut self.teachers[teacher];
        let (augmentation, epoch, of) = match view {
            View::Train(view) => (Some(settings.augmentation()), view, format!("view {}/{}", view + 1, settings.views)),
            View::Val => (None, 0, "held-out photos".into()),
        };
        // The same views as the student's: variations are keyed by seed, view and image.
        let options = LoaderOptions {
            batch_size: BATCH,
            augmentation,
            seed: settings.seed,
            workers: context.threads,
            ..LoaderOptions::default()
        };
        let loader = Loader::new(samples.to_vec(), self.images.store.clone(), teacher.preprocessing.clone(), options)?;
        let (what, width) = (format!("asking {}, {of}", teacher.about.backbone), teacher.widths.all());
        for_each_batch(
            &what,
            &loader,
            epoch as u64,
            |views| teacher.infer(views),
            context,
            |outputs, batch| {
                if let Some(&value) = outputs.iter().find(|value| !value.is_finite()) {
                    return Err(Error::NotFinite { value });
                }
                for (&image, row) in batch.sample_keys.iter().zip(outputs.chunks_exact(width)) {
                    take(image as usize, row);
                }
                Ok(())
            },
        )
    }

    /// Measures the outputs, so that each has mean 0 and each teacher's features and logits count the same.
    fn fit_standardisation(&mut self, outputs: &[f32]) {
        let (len, n) = (self.len(), self.images.train.len() as f64);
        let (mut mean, mut square) = (vec![0.0f64; len], vec![0.0f64; len]);
        for row in outputs.chunks_exact(len) {
            mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x) / n);
        }
        for row in outputs.chunks_exact(len) {
            let deviations = row.iter().zip(&mean).map(|(&x, m)| (f64::from(x) - m).powi(2) / n);
            square.iter_mut().zip(deviations).for_each(|(s, d)| *s += d);
        }
        let blocks: Vec<usize> =
            self.widths.iter().flat_map(|widths| [widths.features, widths.logits]).filter(|&block| block > 0).collect();
        let weights = blocks.iter().flat_map(|&block| {
            let weight = (len as f64 / (blocks.len() * block) as f64).sqrt();
            std::iter::repeat_n(weight, block)
        });
        // A constant output has nothing to be learned.
        let factor = |(variance, weight): (&f64, f64)| if *variance > 1e-12 { weight / variance.sqrt() } else { 0.0 };
        self.factor = square.iter().zip(weights).map(|pair| factor(pair) as f32).collect();
        self.mean = mean.iter().map(|&m| m as f32).collect();
    }
}

/// Everything that decides the teachers' outputs, so that those for other images or settings can be recognised.
fn question(settings: &DistillSettings, images: &Unlabelled, teachers: &[Teacher]) -> String {
    let identities =
        teachers.iter().map(|teacher| json!({"is": teacher.about, "preprocessing": teacher.preprocessing}));
    json!({
        "teachers": identities.collect::<Vec<_>>(),
        "photos_sha256": images.sha256,
        // Large images are decoded at a smaller size, which depends on the largest that is needed.
        "decoded_for": images.side,
        "exif_orientation": settings.preprocessing.exif_orientation,
        "views": settings.augmentation(),
        "seed": settings.seed,
    })
    .to_string()
}
