//! Published weights: fetched where they are wanted, kept, and explained where they cannot be had.
//!
//! The file is made here and published by an entry of the user's own; a server on this machine has it.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use regraft_graph::{init, zoo};
use regraft_testing::server::{Reply, Server};

use crate::common::{Ended, Place};

/// The file's name.
const NAME: &str = "squeezenet-of-chance.safetensors";

/// Where it is published.
const URL: &str = "http://weights.invalid/models/squeezenet-of-chance.safetensors";

/// A probe in a second.
const TRAIN: &str = "train photos --mode probe --backbone squeezenet1_1 --exist-ok --output-dir run";

/// Photos, and published weights that nobody has fetched yet.
struct Scene {
    place: Place,
    file: Vec<u8>,
    sha256: String,
}

impl Scene {
    fn new() -> Self {
        let place = Place::with_photos();
        let path = place.path("made.safetensors");
        let state = init::random(&zoo::build("squeezenet1_1", 1000).unwrap(), 7);
        regraft_weights::write_safetensors(&path, &state, &Default::default()).unwrap();
        let sha256 = regraft_io::sha256_file(&path).unwrap();
        let file = fs::read(&path).unwrap();
        fs::remove_file(path).unwrap();
        let entry = format!(
            "[[weights]]\nbackbone = 'squeezenet1_1'\nname = 'Chance'\ndefault = true\nurl = '{URL}'\n\
             sha256 = '{}'\nbytes = {}\nparameters = 1235496\nmetric = 'nothing'\naccuracy = 0.1\nlicence = 'CC0-1.0'\n\
             trained_on = 'nothing'\nmin_size = 17\nresize = 40\ncrop = 32\ninterpolation = 'bilinear'\n\
             mean = [0.5, 0.5, 0.25]\nstd = [0.5, 0.25, 0.5]\n",
            &sha256[..8],
            file.len()
        );
        place.write("cache/registry.toml", entry);
        Self { place, file, sha256 }
    }

    /// A good server that has the file.
    fn server(&self) -> Server {
        Server::of(self.file.clone())
    }

    /// Runs the program with these variables, and the network allowed.
    fn with(&self, variables: &[(&str, &str)], line: &str) -> Ended {
        let mut command = self.place.command(line);
        command.env_remove("REGRAFT_OFFLINE").envs(variables.iter().copied());
        Ended::new(line, command.output().unwrap())
    }

    /// Runs the program with `server` as the mirror.
    fn from(&self, server: &Server, line: &str) -> Ended {
        self.with(&[("REGRAFT_MIRROR", &server.url("mirror"))], line)
    }

    /// Puts the file where downloads are kept.
    fn put(&self) {
        self.place.write(&format!("cache/{NAME}"), &self.file);
    }

    /// Where downloads are kept.
    fn cached(&self) -> PathBuf {
        self.place.path(&format!("cache/{NAME}"))
    }

    /// The names there, without the entry of these weights.
    fn cache(&self) -> Vec<String> {
        let names = fs::read_dir(self.place.path("cache")).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "registry.toml");
        names.sort();
        names
    }

    fn about(&self, model: &str) -> serde_json::Value {
        self.place.run(&format!("info {model} --json")).done().json()
    }
}

#[test]
fn default_weights_are_downloaded_once_and_then_used_without_network() {
    let scene = Scene::new();
    let server = scene.server();
    let ended = scene.from(&server, TRAIN).done();
    let ended = ended.says(&["downloading", &server.url(&format!("mirror/{NAME}")), "licence: CC0-1.0", "cache"]);
    assert!(!ended.stderr.contains("random weights"), "{}", ended.stderr);
    assert_eq!(scene.cache(), [format!(".{NAME}.lock"), NAME.into()]);
    let model = scene.place.read("run/best.safetensors");
    // The same by name, without network, and as a file of one's own.
    for flags in ["--offline --weights CHANCE", "--offline --weights default", &format!("--weights cache/{NAME}")] {
        scene.from(&server, &format!("{TRAIN} {flags}")).done();
        assert!(scene.place.read("run/best.safetensors") == model, "{flags}");
    }
    assert_eq!(server.requests().len(), 1);
    let provenance = &scene.about("run/best.safetensors")["provenance"];
    assert_eq!(provenance["weights"]["name"], "Chance");
    assert_eq!(provenance["weights"]["url"], URL, "the publisher's, not the mirror's");
    assert_eq!(provenance["weights_sha256"], scene.sha256.as_str());
    let text = scene.place.run("info run/best.safetensors").done().stdout;
    assert!(text.contains(URL) && text.contains("Chance") && text.contains(&scene.sha256), "{text}");
    // Random ones are others.
    scene.place.run(&format!("{TRAIN} --imgsz 32 --weights random")).done().says(&["random weights"]);
    assert!(scene.place.read("run/best.safetensors") != model);
    assert!(scene.about("run/best.safetensors")["provenance"].get("weights").is_none());
}

#[test]
fn photos_are_prepared_as_for_the_weights_unless_flags_say_otherwise() {
    let scene = Scene::new();
    scene.put();
    let prepared = |flags: &str| {
        scene.place.run(&format!("{TRAIN} {flags}")).done();
        let about = &scene.about("run/best.safetensors")["preprocessing"];
        assert_eq!(about["mean"], serde_json::json!([0.5, 0.5, 0.25]), "{flags}");
        assert_eq!(about["std"], serde_json::json!([0.5, 0.25, 0.5]), "{flags}");
        ["resize", "crop"].map(|side| about[side].as_u64().unwrap())
    };
    assert_eq!(prepared(""), [40, 32]);
    assert_eq!(prepared("--imgsz 48"), [60, 48]);
    assert_eq!(prepared("--val-resize-size 36"), [36, 32]);
    assert_eq!(prepared("--imgsz 48 --val-resize-size 50"), [50, 48]);
}

#[test]
fn a_file_that_is_published_is_recognised() {
    let scene = Scene::new();
    scene.place.write("mine.safetensors", &scene.file);
    let ended = scene.place.run(&format!("{TRAIN} --weights mine.safetensors")).done();
    ended.says(&["prepared as for squeezenet1_1 Chance", "resize 40, crop 32"]);
    assert_eq!(scene.about("run/best.safetensors")["provenance"]["weights"]["url"], URL);
    // By its name alone: weights of one's own that began as these.
    let other = scene.place.path(&format!("other/{NAME}"));
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    let state = regraft_weights::read(&scene.place.path("run/best.safetensors")).unwrap();
    regraft_weights::write_safetensors(&other, &state, &BTreeMap::new()).unwrap();
    let ended = scene.place.run(&format!("{TRAIN} --weights other/{NAME}")).done();
    ended.says(&["other content than the published file", "prepared as for squeezenet1_1 Chance"]);
    let about = scene.about("run/best.safetensors");
    assert!(about["provenance"].get("weights").is_none(), "{about}");
    assert_eq!(about["preprocessing"]["crop"], 32);
    // A name says less than what the file says itself, as a model does.
    fs::copy(scene.place.path("run/best.safetensors"), &other).unwrap();
    let ended = scene.place.run(&format!("{TRAIN} --weights other/{NAME}")).done();
    ended.says(&["other content than the published file", &format!("prepared as other/{NAME} says")]);
}

#[test]
fn without_network_the_message_says_what_can_be_done() {
    let scene = Scene::new();
    let path = scene.cached().display().to_string();
    let ways = [URL, &path, "by hand", "--weights FILE", "--weights random"];
    scene.with(&[], &format!("{TRAIN} --offline")).fails(&ways).says(&["--offline"]);
    scene.with(&[("REGRAFT_OFFLINE", "1")], TRAIN).fails(&ways).says(&["REGRAFT_OFFLINE"]);
    scene.with(&[], TRAIN).fails(&ways).says(&["is there a network?", "HTTPS_PROXY"]);
    assert!(!scene.place.path("run").exists(), "a run's folder was made");
    scene.put();
    scene.with(&[], &format!("{TRAIN} --offline")).done();
}

#[test]
fn a_server_without_the_file_is_quoted() {
    let scene = Scene::new();
    let server = Server::new(|_, _| Reply::status(404));
    let url = server.url(&format!("mirror/{NAME}"));
    scene.from(&server, TRAIN).fails(&["404", "not there", &url, "--weights random"]);
    let mut other = scene.file.clone();
    *other.last_mut().unwrap() ^= 1;
    scene.from(&Server::of(other), TRAIN).fails(&["not the published file", &scene.sha256[..8], "--weights FILE"]);
    scene.from(&Server::of(b"404, but nicely".to_vec()), TRAIN).fails(&["15 bytes", "the published one has"]);
    assert_eq!(scene.cache(), [format!(".{NAME}.lock")]);
    assert!(!scene.place.path("run").exists(), "a run's folder was made");
}

#[test]
fn a_damaged_file_is_fetched_anew() {
    let scene = Scene::new();
    scene.place.write(&format!("cache/{NAME}"), "only the beginning");
    scene.from(&scene.server(), TRAIN).done().says(&["warning: ", NAME, "is damaged (it has 18 bytes", "downloading"]);
    assert!(fs::read(scene.cached()).unwrap() == scene.file);
}

#[test]
fn what_is_wrong_otherwise_is_said_before_anything_is_downloaded() {
    let (scene, server) = (Scene::new(), Server::new(|_, _| Reply::status(500)));
    scene.from(&server, &TRAIN.replace("photos", "nowhere")).fails(&["nowhere"]);
    scene.from(&server, &format!("{TRAIN} --freeze-until layer4")).refuses(&["--freeze-until"]);
    scene.from(&server, &format!("{TRAIN} --imgsz 4")).refuses(&["--imgsz is 4"]);
    scene.from(&server, &TRAIN.replace("probe", "finetune --freeze-until layer9")).refuses(&["layer9"]);
    scene.from(&server, &format!("{TRAIN} --weights imagenet1k_v9")).refuses(&[
        "imagenet1k_v9",
        "squeezenet1_1",
        "chance, imagenet1k_v1",
        "--weights random",
    ]);
    let line = TRAIN.replace("squeezenet1_1", "vgg11");
    scene
        .from(&server, &format!("{line} --weights chance"))
        .refuses(&["vgg11", "known are imagenet1k_v1 (and default)"]);
    assert!(server.requests().is_empty());
}

#[test]
fn a_word_is_a_file_where_there_is_one() {
    let scene = Scene::new();
    scene.place.write("chance", "no weights");
    scene.place.run(&format!("{TRAIN} --weights chance")).fails(&["chance is not a weight file"]);
    scene.place.write("random", "no weights");
    scene.place.run(&format!("{TRAIN} --imgsz 32 --weights random")).done();
    scene.place.run(&format!("{TRAIN} --weights ./random")).fails(&["random is not a weight file"]);
}

#[test]
fn a_proxy_is_asked_for_what_is_far_and_not_for_what_is_near() {
    let scene = Scene::new();
    let file = scene.file.clone();
    let proxy = Server::new(move |_, request| match request.method.as_str() {
        "CONNECT" => Reply::raw("HTTP/1.1 200 Connection established\r\n\r\n").go_on(),
        _ => Reply::file(request, &file, "\"it\""),
    });
    let address = proxy.url("");
    scene.with(&[("ALL_PROXY", &address)], TRAIN).done();
    let asked: Vec<_> = proxy.requests().iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    assert_eq!(asked, ["CONNECT weights.invalid:80".to_owned(), format!("GET /models/{NAME}")]);
    fs::remove_file(scene.cached()).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (server, dead) = (scene.server(), format!("http://{closed}"));
    let near =
        [("REGRAFT_MIRROR", server.url("mirror")), ("HTTP_PROXY", dead.clone()), ("NO_PROXY", "127.0.0.1".into())];
    scene.with(&near.each_ref().map(|(name, value)| (*name, value.as_str())), TRAIN).done();
    fs::remove_file(scene.cached()).unwrap();
    scene.with(&[("HTTP_PROXY", &dead)], TRAIN).fails(&["cannot be reached", "HTTPS_PROXY"]);
    let refusing = Server::new(|_, _| Reply::status(403));
    scene.with(&[("HTTP_PROXY", &refusing.url(""))], TRAIN).fails(&["the proxy refuses", "NO_PROXY"]);
}

#[test]
fn a_run_whose_weights_have_gone_fetches_them_again() {
    let scene = Scene::new();
    let server = scene.server();
    scene.from(&server, TRAIN).done();
    let model = scene.place.read("run/best.safetensors");
    let config = scene.place.text("run/config.toml");
    assert!(config.contains(URL) && config.contains(NAME), "{config}");
    // As if it had been stopped: a probe begins again.
    fs::remove_file(scene.place.path("run/best.safetensors")).unwrap();
    fs::remove_file(scene.cached()).unwrap();
    scene.with(&[], "resume run --offline").fails(&["--offline", URL]);
    scene.from(&server, "resume run").done();
    assert!(scene.place.read("run/best.safetensors") == model);
    assert_eq!(server.requests().len(), 2);
}

#[cfg(unix)]
#[test]
fn a_download_that_is_stopped_goes_on_in_the_next_run() {
    let scene = Scene::new();
    let file = scene.file.clone();
    let server = Server::new(move |number, request| match number {
        0 => Reply::file(request, &file, "\"it\"").cut(1_000_000).stall(),
        _ => Reply::file(request, &file, "\"it\""),
    });
    let half = scene.file.len() - 1_000_000;
    let variables = [("REGRAFT_MIRROR", server.url("mirror")), ("REGRAFT_OFFLINE", "0".into())];
    let mut running = scene.place.start_saying(TRAIN, "stderr", &variables);
    running.wait_until(&scene.place.path(&format!("cache/{NAME}.part")), |part| part.len() == half);
    // The first asks for an orderly end, which comes with the next bytes; the second does not wait for them.
    running.signal("INT");
    running.wait_until(&scene.place.path("stderr"), |said| said.ends_with(b"to stop at once)\n"));
    running.signal("INT");
    running.end().exits(130);
    scene.from(&server, TRAIN).done();
    assert_eq!(server.requests()[1].start(), Some(half));
}

#[test]
fn backbones_are_listed_with_what_is_here() {
    let scene = Scene::new();
    let text = scene.place.run("backbones").done().stdout;
    let line = |text: &str, words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == words)
    };
    assert!(
        line(&text, "resnet18 imagenet1k_v1* 11.7M 1.81 224 69.76 ImageNet-1K top-1 45 MiB BSD-3-Clause"),
        "{text}"
    );
    assert!(line(&text, "resnet50 imagenet1k_v1 25.6M 4.09 224 76.13 ImageNet-1K top-1 98 MiB BSD-3-Clause"), "{text}");
    assert!(line(&text, "squeezenet1_1 chance* 1.2M 0.00 32 0.10 nothing 5 MiB CC0-1.0"), "{text}");
    assert!(text.contains(&scene.place.path("cache").display().to_string()), "{text}");
    scene.place.write(&format!("cache/{NAME}.part"), &scene.file[..scene.file.len() / 2]);
    let text = scene.place.run("backbones").done().stdout;
    assert!(line(&text, "squeezenet1_1 chance* 1.2M 0.00 32 0.10 nothing 5 MiB CC0-1.0 50%"), "{text}");
    scene.put();
    let about = scene.place.run("backbones --json").done().json();
    assert_eq!(about["cache"], scene.place.path("cache").display().to_string());
    let backbones = about["backbones"].as_array().unwrap();
    assert_eq!(backbones.len(), zoo::NAMES.len());
    let of = |name: &str| backbones.iter().find(|backbone| backbone["name"] == name).unwrap();
    let chance = &of("squeezenet1_1")["weights"][0];
    assert_eq!((&chance["cached"], &chance["default"], &chance["url"]), (&true.into(), &true.into(), &URL.into()));
    let v2 = &of("resnet50")["weights"][1];
    assert_eq!((&v2["name"], &v2["resize"], &v2["cached"]), (&"imagenet1k_v2".into(), &232.into(), &false.into()));
    assert_eq!(of("resnet50")["parameters"], 25_557_032);
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let scene = Scene::new();
    scene.with(&[("REGRAFT_MIRROR", "ftp://host")], TRAIN).refuses(&["REGRAFT_MIRROR", "ftp://host"]);
    scene.with(&[("REGRAFT_OFFLINE", "perhaps")], TRAIN).refuses(&["REGRAFT_OFFLINE", "perhaps"]);
    scene.with(&[("SSL_CERT_FILE", "nowhere.pem")], TRAIN).refuses(&["SSL_CERT_FILE", "nowhere.pem"]);
    scene.place.write("cache/registry.toml", "[[weights]]\nbackbone = 7\n");
    scene.place.run("backbones").refuses(&["registry.toml", "backbone"]);
}
