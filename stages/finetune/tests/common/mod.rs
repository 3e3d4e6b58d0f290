//! Helpers of the tests: a small model, shards of scenes drawn or built by hand, a recipe, and the program under test.
//!
//! Assertions on a call print command, exit code, stdout and stderr when they fail.

#![allow(dead_code, reason = "every test binary uses some of it")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use recaption::scenes::{TextKind, write_shard};
use recaption_finetune::open_clip::OpenClip;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Returns the bundled captioner's directory, whose tokenizer the tests use.
pub(crate) fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../onnx/models/coca-scenes-base")
}

/// Returns a path in the repository's `tests/data`.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

/// Returns the configuration of a CoCa of four patches and `layers` blocks per tower, for the bundled tokenizer; a step of eight
/// samples takes milliseconds.
pub(crate) fn small(layers: usize) -> Value {
    json!({
        "model_cfg": {
            "embed_dim": 32,
            "vision_cfg": {"image_size": 64, "patch_size": 32, "width": 32, "head_width": 16, "layers": layers,
                "attentional_pool": true, "attn_pooler_queries": 3, "attn_pooler_heads": 2, "output_tokens": true},
            "text_cfg": {"context_length": 36, "vocab_size": 512, "width": 32, "heads": 2, "layers": layers,
                "embed_cls": true, "output_tokens": true},
            "multimodal_cfg": {"context_length": 36, "width": 32, "heads": 2, "layers": layers}
        },
        "preprocess_cfg": {}
    })
}

/// Writes `config`, the bundled tokenizer and random weights into `dir`.
pub(crate) fn write_model(dir: &Path, config: &Value) {
    fs::create_dir_all(dir).expect("folders can be made");
    fs::write(dir.join("open_clip_config.json"), config.to_string()).expect("files can be written");
    fs::copy(bundled().join("tokenizer.json"), dir.join("tokenizer.json")).expect("a tokenizer");
    OpenClip::initialise(dir, 7).expect("a configuration").write(dir).expect("weights can be written");
}

/// A member of a shard built by hand: name and content.
pub(crate) type Member = (String, Vec<u8>);

/// Builds a tar of these members.
pub(crate) fn tar(members: &[Member]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_slice()).expect("a member");
    }
    tar.into_inner().expect("a tar")
}

/// Returns the members of shard `number` of scenes.
pub(crate) fn members(number: u32, samples: u32) -> Vec<Member> {
    let shard =
        write_shard(Vec::new(), 1, number, samples, TextKind::Descriptive).expect("scenes can be drawn");
    let mut archive = tar::Archive::new(shard.as_slice());
    let entries = archive.entries().expect("a tar").map(|entry| {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").display().to_string();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).expect("content");
        (name, content)
    });
    entries.collect()
}

/// A folder of one test, with a model, shards to train on, a held-out shard, and a recipe.
pub(crate) struct Workspace {
    dir: TempDir,
}

/// Number of samples in the shards to train on: 10 in each of three.
pub(crate) const SAMPLES: u32 = 30;

impl Workspace {
    /// Creates everything that a run needs: `start/`, `train/00000.tar` to `00002.tar`, `held-out/00009.tar`, `recipe.toml`.
    pub(crate) fn new() -> Self {
        let workspace = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        write_model(&workspace.path("start"), &small(2));
        for shard in 0..3 {
            workspace.draw("train", shard, SAMPLES / 3);
        }
        workspace.draw("held-out", 9, 8);
        workspace.write("recipe.toml", workspace.recipe());
        workspace
    }

    fn recipe(&self) -> String {
        let root = self.dir.path().display();
        format!(
            r#"
[model]
checkpoint = "{root}/start"

[data]
train = ["{root}/train/*.tar"]
shuffle_buffer = 12

[optimizer]
lr = 3e-3
steps = 12
warmup_steps = 3

[run]
out = "{root}/out"
batch_size = 8
seed = 5
checkpoint_every = 3
validate_every = 4
log_every = 1
"#
        )
    }

    /// Returns a path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, with the folders above it.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("folders can be made");
        fs::write(&path, bytes).expect("files can be written");
        path
    }

    /// Draws shard `number` of scenes into the folder `name`.
    pub(crate) fn draw(&self, name: &str, number: u32, samples: u32) {
        let shard =
            write_shard(Vec::new(), 1, number, samples, TextKind::Descriptive).expect("scenes can be drawn");
        self.write(&format!("{name}/{number:05}.tar"), shard);
    }

    /// Returns `--set`'s value for shards below this folder.
    pub(crate) fn shards(&self, key: &str, pattern: &str) -> String {
        format!("{key}=[\"{}\"]", self.path(pattern).display())
    }

    /// Returns the setting that makes a run validate.
    pub(crate) fn validated(&self) -> String {
        self.shards("data.validation", "held-out/*.tar")
    }

    /// Returns a call of the program with the recipe, writing into the folder `out`.
    pub(crate) fn call(&self, out: &str, changes: &[&str]) -> Call {
        let mut words = vec![self.path("recipe.toml").display().to_string()];
        words.extend(["--out".into(), self.path(out).display().to_string()]);
        words.extend(changes.iter().flat_map(|change| ["--set".to_owned(), (*change).to_owned()]));
        Call { words, limit: None }
    }

    /// Reads a file of the folder.
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Reads `metrics.jsonl` without the values that depend on the clock.
    pub(crate) fn metrics(&self, out: &str) -> String {
        let text = String::from_utf8(self.read(&format!("{out}/metrics.jsonl"))).expect("text");
        let timeless = |line: &str| match line.split_once("\"samples_per_second\":") {
            Some((before, rest)) => format!("{before}{}\n", rest.split_once(',').map_or("", |(_, r)| r)),
            None => format!("{line}\n"),
        };
        text.lines().map(timeless).collect()
    }

    /// Reads the training lines of `metrics.jsonl`.
    pub(crate) fn train_lines(&self, out: &str) -> Vec<Value> {
        let text = String::from_utf8(self.read(&format!("{out}/metrics.jsonl"))).expect("text");
        let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
        lines.filter_map(|mut line| line.get_mut("train").map(Value::take)).collect()
    }

    /// Reads contrastive and caption losses by line.
    pub(crate) fn losses(&self, out: &str) -> Vec<[f64; 2]> {
        let number = |line: &Value, key: &str| line[key].as_f64().expect("a number");
        let lines = self.train_lines(out);
        lines.iter().map(|l| [number(l, "contrastive_loss"), number(l, "caption_loss")]).collect()
    }

    /// Lists the names in a folder, sorted.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Reads the weights of a finished run.
    pub(crate) fn weights(&self, out: &str) -> Vec<u8> {
        self.read(&format!("{out}/model/open_clip_model.safetensors"))
    }
}

/// Asserts that two runs wrote the same lines, to the last digit.
#[track_caller]
pub(crate) fn same_numbers(one: &str, other: &str) {
    for (one, other) in one.lines().zip(other.lines()) {
        assert!(one == other, "two runs, two lines:\n{one}\n{other}");
    }
    assert_eq!(one.lines().count(), other.lines().count(), "lines of metrics.jsonl");
}

/// A call of the program that is not started yet.
#[derive(Clone)]
pub(crate) struct Call {
    words: Vec<String>,
    limit: Option<u64>,
}

impl Call {
    /// Adds an argument.
    #[must_use]
    pub(crate) fn arg(mut self, word: &str) -> Self {
        self.words.push(word.to_owned());
        self
    }

    /// Limits every file to this many blocks of 1024 bytes, as on a full disk.
    #[must_use]
    pub(crate) fn limit(mut self, blocks: u64) -> Self {
        self.limit = Some(blocks);
        self
    }

    fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_recaption-finetune");
        let mut command = match self.limit {
            Some(blocks) => {
                let mut bash = Command::new("bash");
                let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
                bash.args(["-c", &script, "bash", program]);
                bash
            }
            None => Command::new(program),
        };
        command.args(&self.words).stdin(Stdio::null());
        command
    }

    /// Runs the program and asserts its exit code.
    #[track_caller]
    pub(crate) fn ends(&self, code: i32) -> Ended {
        let output = self.command().output().expect("the program starts");
        Ended::of(&self.words, &output).ends(code)
    }

    /// Starts the program and sends `signal` once `moment` returns true.
    pub(crate) fn signal(&self, signal: &str, moment: impl Fn() -> bool) -> Ended {
        let mut command = self.command();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        while child.try_wait().expect("a child").is_none() && !moment() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = child.id().to_string();
        // The program may have ended by itself.
        let _ = Command::new("kill").args([signal, &pid]).stderr(Stdio::null()).status();
        let output = child.wait_with_output().expect("a child");
        Ended::of(&self.words, &output)
    }
}

/// Exit code and output of a call.
#[derive(Debug)]
pub(crate) struct Ended {
    words: Vec<String>,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    fn of(words: &[String], output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            words: words.to_vec(),
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Fails with command and output unless `right`.
    #[track_caller]
    pub(crate) fn check(&self, right: bool, what: &str) {
        assert!(
            right,
            "{what}\n$ recaption-finetune {}\ncode {:?}\nstdout:\n{}\nstderr:\n{}",
            self.words.join(" "),
            self.code,
            self.stdout,
            self.stderr
        );
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        self.check(self.code == Some(code), &format!("expected exit code {code}"));
        self
    }

    /// Asserts that stderr holds `words`.
    #[track_caller]
    pub(crate) fn warns(&self, words: &str) -> &Self {
        self.check(self.stderr.contains(words), &format!("expected on stderr: {words}"));
        self
    }

    /// Asserts that stderr lacks `words`.
    #[track_caller]
    pub(crate) fn never_warns(&self, words: &str) -> &Self {
        self.check(!self.stderr.contains(words), &format!("not expected on stderr: {words}"));
        self
    }

    /// Asserts that stdout holds `words`.
    #[track_caller]
    pub(crate) fn prints(&self, words: &str) -> &Self {
        self.check(self.stdout.contains(words), &format!("expected on stdout: {words}"));
        self
    }
}
