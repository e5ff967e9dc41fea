//! A folder with drawn photos, and the program run inside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use regraft_testing::pattern;
use serde_json::Value;
use tempfile::TempDir;

/// Side of the drawn photos in pixels.
const SIDE: usize = 40;

/// What there is to see on photos: a class is a shape, its colour and its background.
#[derive(Clone, Copy)]
pub enum Class {
    /// Red discs.
    Discs,
    /// Green squares.
    Squares,
    /// Blue stripes.
    Stripes,
}

impl Class {
    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Class::Discs => "discs",
            Class::Squares => "squares",
            Class::Stripes => "stripes",
        }
    }

    /// Draws photo number `i` of the class as a PPM: the shape at a place of its own, under noise.
    pub fn draw(self, path: &Path, i: usize) {
        let noise = pattern::values(&format!("{} {i}", self.name()), 3 * SIDE * SIDE);
        let (x, y) = (12 + i * 7 % 16, 12 + i * 5 % 16);
        let mut file = format!("P6 {SIDE} {SIDE} 255\n").into_bytes();
        for (p, noise) in noise.chunks_exact(3).enumerate() {
            let (column, row) = (p % SIDE, p / SIDE);
            let (dx, dy) = (column.abs_diff(x), row.abs_diff(y));
            let inside = match self {
                Class::Discs => dx * dx + dy * dy < 100,
                Class::Squares => dx.max(dy) < 9,
                Class::Stripes => (row + i) % 8 < 4,
            };
            let colour = match (self, inside) {
                (Class::Discs, true) => [220.0, 60.0, 50.0],
                (Class::Squares, true) => [60.0, 200.0, 70.0],
                (Class::Stripes, true) => [60.0, 70.0, 220.0],
                (_, false) => [120.0, 120.0, 120.0],
            };
            file.extend(colour.iter().zip(noise).map(|(colour, noise)| (colour + 30.0 * noise) as u8));
        }
        fs::write(path, file).unwrap();
    }
}

/// A folder to run the program in; it goes when dropped.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// A folder that holds nothing yet.
    pub fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A folder with `photos/train` and `photos/val` of two classes, 8 and 4 photos each.
    pub fn with_photos() -> Self {
        let place = Self::empty();
        for class in [Class::Discs, Class::Squares] {
            place.draw(class, "photos/train", 0..8);
            place.draw(class, "photos/val", 8..12);
        }
        place
    }

    /// The same with a model in `run/best.safetensors`.
    pub fn with_model() -> Self {
        let place = Self::with_photos();
        place
            .run("train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir run")
            .done();
        place
    }

    /// Draws photos of a class into its folder under `parent`.
    pub fn draw(&self, class: Class, parent: &str, photos: std::ops::Range<usize>) {
        let folder = self.path(parent).join(class.name());
        fs::create_dir_all(&folder).unwrap();
        photos.for_each(|i| class.draw(&folder.join(format!("{i:02}.ppm")), i));
    }

    /// A path inside.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// The bytes of a file.
    #[track_caller]
    pub fn read(&self, relative: &str) -> Vec<u8> {
        fs::read(self.path(relative)).unwrap_or_else(|e| panic!("{relative}: {e}"))
    }

    /// The text of a file.
    #[track_caller]
    pub fn text(&self, relative: &str) -> String {
        String::from_utf8(self.read(relative)).unwrap()
    }

    /// Writes a file, and the folders to it.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The program with the words of `line` as its arguments, not yet started.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_regraft"));
        command.args(line.split_whitespace()).current_dir(self.dir.path()).stdin(Stdio::null());
        // Neither this machine's downloads nor its network have a part in these tests, unless one of them says so.
        command.env("REGRAFT_HOME", self.path("cache")).env("REGRAFT_OFFLINE", "1");
        for name in ["REGRAFT_MIRROR", "SSL_CERT_FILE", "NO_PROXY", "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, line: &str) -> Ended {
        Ended::new(line, self.command(line).output().unwrap())
    }

    /// Starts the program and leaves it running.
    pub fn start(&self, line: &str) -> Running {
        let child = self.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running { line: line.into(), child: Some(child) }
    }

    /// Starts the program with these variables and leaves it running; what it writes to stderr goes to a file, to be
    /// seen meanwhile.
    #[cfg(unix)]
    pub fn start_saying(&self, line: &str, file: &str, variables: &[(&str, String)]) -> Running {
        let file = fs::File::create(self.path(file)).unwrap();
        let mut command = self.command(line);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let child = command.stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        Running { line: line.into(), child: Some(child) }
    }
}

/// A program that came to its end.
pub struct Ended {
    line: String,
    code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Ended {
    pub fn new(line: &str, output: Output) -> Self {
        Self {
            line: line.into(),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Requires an exit code, and that there was no panic.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        let Self { line, stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "regraft {line}\nstdout: {stdout}\nstderr: {stderr}");
        assert!(!stderr.contains("panicked"), "regraft {line}\nstderr: {stderr}");
        self
    }

    /// Requires exit code 0.
    #[track_caller]
    pub fn done(self) -> Self {
        self.exits(0)
    }

    /// Requires exit code 1, nothing on stdout, and one line of error that says all of `words`.
    #[track_caller]
    pub fn fails(self, words: &[&str]) -> Self {
        let ended = self.exits(1).says(words);
        assert_eq!(ended.stdout, "", "regraft {}", ended.line);
        let errors = ended.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "regraft {}\nstderr: {}", ended.line, ended.stderr);
        ended
    }

    /// Requires exit code 2, that of bad usage, and that stderr says all of `words`.
    #[track_caller]
    pub fn refuses(self, words: &[&str]) -> Self {
        let ended = self.exits(2).says(words);
        assert_eq!(ended.stdout, "", "regraft {}", ended.line);
        ended
    }

    /// Requires all of `words` on stderr.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in what regraft {} said: {}", self.line, self.stderr);
        }
        self
    }

    /// Requires stdout to hold one JSON object a line and nothing else.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object);
        let object = |line| parse(line).unwrap_or_else(|| panic!("regraft {}: no JSON object: {line:?}", self.line));
        self.stdout.lines().map(object).collect()
    }

    /// Requires stdout to hold one JSON object and nothing else.
    #[track_caller]
    pub fn json(&self) -> Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1, "regraft {}\nstdout: {}", self.line, self.stdout);
        lines.remove(0)
    }
}

/// A running program, killed when dropped.
pub struct Running {
    line: String,
    child: Option<Child>,
}

impl Running {
    /// Waits until `file` satisfies `ready`.
    #[track_caller]
    pub fn wait_until(&mut self, file: &Path, ready: impl Fn(&[u8]) -> bool) {
        let started = Instant::now();
        while !fs::read(file).is_ok_and(|bytes| ready(&bytes)) {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "regraft {} ended too early: {}", self.line, ended.unwrap());
            assert!(started.elapsed() < Duration::from_secs(120), "regraft {}: nothing happens", self.line);
            sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal, such as `INT`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Kills it as a power cut would.
    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        Ended::new(&self.line, self.child.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
