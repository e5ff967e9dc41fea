//! Distillations: whose answers are used, how a run ends that was stopped or went wrong, and what cannot teach.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use regraft::{
    Cancel, Context, DistillSettings, Error, Golden, Model, Outcome, Pretrained, Progress, Provenance, Source,
    TeacherSpec, distill,
};
use regraft_data::Preprocessing;
use regraft_engine::{Engine, Images, SessionOptions};
use regraft_engine_cpu::CpuEngine;
use regraft_graph::{Graph, Linear, Op, Shape, init};
use regraft_learn::linear::HeadKind;

use crate::common::{Listener, resume, settings};
use crate::watched::{Watch, Watched};

/// Nobody asks to stop.
static NEVER: LazyLock<Cancel> = LazyLock::new(Cancel::new);

/// A file of weights to learn from.
fn teacher(dir: &Path, seed: u64) -> PathBuf {
    let path = dir.join(format!("teacher-{seed}.safetensors"));
    let state = Pretrained::load(&"squeezenet1_1".into(), &Source::Random, 32, seed).unwrap().state;
    regraft_weights::write_safetensors(&path, &state, &BTreeMap::new()).unwrap();
    path
}

/// A distillation of 9 of 14 photos, 3 steps an epoch, in two views.
fn distillation(dir: &Path) -> DistillSettings {
    let preprocessing = settings(dir, 5).preprocessing;
    let (weights, backbone) = (teacher(dir, 1), "squeezenet1_1".to_owned());
    let teachers =
        vec![TeacherSpec::Backbone { backbone: backbone.clone(), weights, preprocessing: preprocessing.clone() }];
    DistillSettings {
        epochs: 3,
        batch_size: 4,
        views: 2,
        val_fraction: 0.36,
        ..DistillSettings::new(vec![dir.join("photos")], backbone, teachers, preprocessing)
    }
}

fn context<'a>(engine: &'a dyn Engine, progress: &'a dyn Progress) -> Context<'a> {
    Context { engine, progress, cancel: &NEVER, threads: 1 }
}

/// The student of a finished run, and its results without the seconds.
fn results(run: &Path) -> (Vec<u8>, Vec<String>) {
    let rows = fs::read_to_string(run.join("results.csv")).unwrap();
    let rows = rows.lines().map(|row| row.rsplit_once(',').unwrap().0.to_owned());
    (fs::read(run.join("student.safetensors")).unwrap(), rows.collect())
}

/// Runs, or goes on, until a listener asks to stop. Returns where: epochs and steps.
#[track_caller]
fn stopped(settings: Option<&DistillSettings>, run: &Path, listener: &Listener) -> (usize, usize) {
    let engine = CpuEngine::new(1).unwrap();
    let context = Context { engine: &engine, progress: listener, cancel: &listener.stop, threads: 1 };
    let distilled = match settings {
        Some(settings) => distill(settings, Some(run), false, &context),
        None => resume(run, &context),
    };
    match distilled.unwrap() {
        Outcome::Interrupted(at) => (at.epoch, at.step),
        Outcome::Trained(_) | Outcome::Distilled(_) => panic!("finished too early"),
    }
}

/// Notes which teachers are asked about what.
#[derive(Default)]
struct Asked(Mutex<Vec<String>>);

impl Progress for Asked {
    fn begin(&self, what: &str, _: &str, _: u64) {
        self.0.lock().unwrap().extend(what.strip_prefix("asking squeezenet1_1, ").map(str::to_owned));
    }
}

#[test]
fn answers_are_used_again_by_a_run_alone_that_would_ask_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let settings = distillation(dir.path());
    let engine = CpuEngine::new(1).unwrap();
    let asked = |settings: &DistillSettings, run: &Path| {
        let asked = Asked::default();
        distill(settings, Some(run), true, &context(&engine, &asked)).unwrap();
        asked.0.into_inner().unwrap()
    };
    let photo = dir.path().join("photos/train/dark/0.pgm");
    let original = fs::read(&photo).unwrap();
    let redraw = |_: &mut DistillSettings| {
        let mut other = original.clone();
        other[20..].iter_mut().for_each(|pixel| *pixel ^= 1);
        fs::write(&photo, other).unwrap();
    };
    let other_teacher = teacher(dir.path(), 2);
    let replace = |settings: &mut DistillSettings| {
        let TeacherSpec::Backbone { weights, .. } = &mut settings.teachers[0] else { unreachable!() };
        *weights = other_teacher.clone();
    };
    type Change<'a> = &'a dyn Fn(&mut DistillSettings);
    let changes: [(&str, Change, bool); 6] = [
        ("the rate", &|settings| settings.lr *= 2.0, false),
        ("fewer views", &|settings| settings.views = 1, false),
        ("the teacher", &replace, true),
        ("the seed", &|settings| settings.seed = 1, true),
        ("the crops", &|settings| settings.min_scale = 0.5, true),
        ("a photo of the same size", &redraw, true),
    ];
    for (what, change, asks) in changes {
        let path = |name: &str| dir.path().join(format!("{what}, {name}"));
        assert_eq!(asked(&settings, &path("again")), ["view 1/2", "held-out photos", "view 2/2"], "{what}");
        let mut changed = settings.clone();
        change(&mut changed);
        let fresh = asked(&changed, &path("fresh"));
        let again = asked(&changed, &path("again"));
        assert_eq!(again, if asks { fresh } else { Vec::new() }, "{what}");
        assert!(results(&path("again")) == results(&path("fresh")), "{what}");
        assert_eq!(path("again").join("teachers-1.safetensors").exists(), changed.views > 1, "{what}");
        fs::write(&photo, &original).unwrap();
    }
}

#[test]
fn a_run_does_not_go_on_with_the_answers_of_another_teacher() {
    let dir = tempfile::tempdir().unwrap();
    let settings = distillation(dir.path());
    let run = dir.path().join("run");
    assert_eq!(stopped(Some(&settings), &run, &Listener::stopping("epoch 2/3", 4)), (1, 1));
    let (first, second) = (teacher(dir.path(), 1), teacher(dir.path(), 2));
    let kept = fs::read(&first).unwrap();
    fs::copy(second, &first).unwrap();
    let engine = CpuEngine::new(1).unwrap();
    let silent = Listener::default();
    let message = resume(&run, &context(&engine, &silent)).unwrap_err().to_string();
    for part in ["teachers-", "not the answers of these teachers", "start a new run"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    fs::write(&first, kept).unwrap();
    // Half of a file says nothing, and is made again.
    fs::write(run.join("teachers-1.safetensors"), "half").unwrap();
    resume(&run, &context(&engine, &silent)).unwrap();
    distill(&settings, Some(&dir.path().join("whole")), false, &context(&engine, &silent)).unwrap();
    assert!(results(&run) == results(&dir.path().join("whole")));
}

#[test]
fn a_run_stopped_at_any_instant_ends_with_the_same_bits_and_is_complete_once_the_student_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let settings = distillation(dir.path());
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    let engine = CpuEngine::new(1).unwrap();
    let silent = Listener::default();
    distill(&settings, Some(&whole), false, &context(&engine, &silent)).unwrap();

    let stop = Listener::stopping;
    assert_eq!(stopped(Some(&settings), &parts, &stop("asking squeezenet1_1, view 1/2", 0)), (0, 0));
    assert_eq!(stopped(None, &parts, &stop("epoch 1/3", 4)), (0, 1));
    // Its answers are there: the run has come further than this sitting.
    fs::remove_file(parts.join("teachers-0.safetensors")).unwrap();
    assert_eq!(stopped(None, &parts, &stop("asking squeezenet1_1, view 1/2", 0)), (0, 1));
    assert_eq!(stopped(None, &parts, &stop("validating", 0)), (0, 3));
    assert_eq!(stopped(None, &parts, &stop("asking squeezenet1_1, view 2/2", 0)), (1, 0));
    resume(&parts, &context(&engine, &silent)).unwrap();
    assert!(results(&parts) == results(&whole));

    let complete = |run: &Path| resume(run, &context(&engine, &silent)).unwrap_err().to_string();
    assert!(complete(&parts).contains("is complete"));
    // As if it could not be written after the last epoch.
    fs::remove_file(parts.join("student.safetensors")).unwrap();
    fs::remove_file(parts.join("results.csv")).unwrap();
    assert!(matches!(resume(&parts, &context(&engine, &silent)), Ok(Outcome::Distilled(_))));
    assert!(results(&parts) == results(&whole));
    assert!(complete(&parts).contains("is complete"));
}

/// What goes wrong after so many steps.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The answers are not numbers.
    Answers,
    /// The next step cannot be taken.
    Step,
}

/// Lets it go wrong.
#[derive(Clone)]
struct Failing {
    fault: Fault,
    after: usize,
    steps: usize,
}

impl Watch for Failing {
    fn inferred(&mut self, outputs: &mut [f32]) {
        if self.fault == Fault::Answers && self.steps == self.after {
            outputs[0] = f32::NAN;
        }
    }

    fn batch(&mut self) -> Result<(), regraft_engine::Error> {
        if self.fault == Fault::Step && self.steps == self.after {
            return Err(regraft_engine::Error::Batch("it is too heavy".into()));
        }
        Ok(())
    }

    fn stepped(&mut self) {
        self.steps += 1;
    }
}

#[test]
fn what_was_sound_before_something_went_wrong_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let settings = distillation(dir.path());
    let silent = Listener::default();
    let sound = CpuEngine::new(1).unwrap();
    distill(&settings, Some(&dir.path().join("whole")), false, &context(&sound, &silent)).unwrap();
    // After the second epoch's last step, and after its first one.
    for (name, fault, after, goes_on_at) in [("a", Fault::Answers, 6, (1, 1)), ("b", Fault::Step, 4, (1, 2))] {
        let run = dir.path().join(name);
        let engine = Watched::by(Failing { fault, after, steps: 0 });
        let error = distill(&settings, Some(&run), false, &context(&engine, &silent)).unwrap_err();
        let message = error.to_string();
        match fault {
            Fault::Answers => {
                assert!(matches!(error, Error::Diverged { epoch: 2, .. }), "{error:?}");
                assert!(
                    message.contains("loss on the validation photos became NaN") && message.contains("`lr`"),
                    "{message}"
                );
            }
            Fault::Step => assert!(message.contains("too heavy"), "{message}"),
        }
        // One step further than where it goes on.
        assert_eq!(stopped(None, &run, &Listener::stopping("epoch 2/3", 0)), goes_on_at);
        resume(&run, &context(&sound, &silent)).unwrap();
        assert!(results(&run) == results(&dir.path().join("whole")), "{message}");
    }
}

#[test]
fn a_network_in_which_something_goes_past_the_last_layer_is_no_teacher() {
    let dir = tempfile::tempdir().unwrap();
    let settings = distillation(dir.path());
    let mut graph = Graph::new(Shape::rgb(32));
    let pool = graph.push("pool", Op::AdaptiveAvgPool2d { output_size: 1 }, &[0]);
    let flat = graph.push("flat", Op::Flatten, &[pool]);
    let relu = graph.push("relu", Op::ReLU, &[flat]);
    let fc = graph.push("fc", Op::Linear(Linear { in_features: 3, out_features: 3, bias: true }), &[relu]);
    graph.push("sum", Op::Add, &[flat, fc]);
    let state = init::random(&graph, 0);
    let engine = CpuEngine::new(1).unwrap();
    let mut session = engine.compile(&graph, &state, SessionOptions::inference(&graph)).unwrap();
    let output = graph.output();
    let infer = |images: Images| Ok(session.infer(images.into(), &[output])?.remove(0).into_data());
    let model = Model {
        golden: Golden::record(graph.input_shape(), infer).unwrap(),
        graph,
        state,
        classes: ["a", "b", "c"].map(String::from).into(),
        preprocessing: Preprocessing { resize: 36, crop: 32, ..Preprocessing::default() },
        head: HeadKind::Softmax,
        scale: None,
        provenance: Provenance {
            regraft: "test".into(),
            backbone: "sum".into(),
            weights_sha256: None,
            weights: None,
            data_sha256: "0".into(),
            mode: None,
            distilled: None,
            seed: 0,
            epoch: 1,
            val_score: None,
            val_n: 1,
        },
    };
    let path = dir.path().join("sum.safetensors");
    model.save(&path).unwrap();
    let settings = DistillSettings { teachers: vec![TeacherSpec::Model { path }], ..settings };
    let run = dir.path().join("run");
    let message =
        distill(&settings, Some(&run), false, &context(&engine, &Listener::default())).unwrap_err().to_string();
    for part in ["sum.safetensors", "goes past its last layer, fc", "another `teacher`"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}
