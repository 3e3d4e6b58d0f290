//! What the stories in `tests/` share: a model made once per test program, shards drawn or built by hand, the program
//! under test, and readers of what it leaves behind.
//!
//! Nothing here decides whether a story ends well, but for [`program`], which fails with everything it knows about a call
//! that ended with another exit code than the story wants.

#![allow(dead_code, reason = "every story takes what it needs")]

pub(crate) mod bucket;
pub(crate) mod documents;
pub(crate) mod flaky;
pub(crate) mod gcs;
pub(crate) mod hub;
pub(crate) mod output;
pub(crate) mod program;
pub(crate) mod server;
pub(crate) mod services;
pub(crate) mod shards;
pub(crate) mod torch_zip;
pub(crate) mod worker;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::SystemTime,
};

use recaption_onnx::{Bundled, Precision, export};
use tempfile::TempDir;

use self::program::{Call, recaption};

/// The bundled captioner as a checkpoint and as a model folder, written once per test program.
///
/// They lie in cargo's folder for tests' files, where the next run of the same tests replaces them.
fn captioner() -> &'static (PathBuf, PathBuf) {
    static CAPTIONER: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    CAPTIONER.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
        let (checkpoint, model) = (place.join("checkpoint"), place.join("model"));
        Bundled::Base.write_checkpoint(&checkpoint).expect("the bundled checkpoint can be written");
        export(&checkpoint, &model, Precision::Fp32).expect("the bundled checkpoint can be exported");
        (checkpoint, model)
    })
}

/// The bundled captioner as open_clip would publish it.
pub(crate) fn checkpoint() -> &'static Path {
    &captioner().0
}

/// The bundled captioner, exported.
pub(crate) fn model() -> &'static Path {
    &captioner().1
}

/// A file of `tests/data`.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A folder of one story's own, gone when the story ends.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
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

    /// Draws `shards` shards of `scenes` scenes each into the folder `name`.
    pub(crate) fn draw(&self, name: &str, shards: u32, scenes: u32) -> PathBuf {
        for shard in 0..shards {
            self.write(&format!("{name}/{shard:05}.tar"), shards::scenes(shard, scenes));
        }
        self.path(name)
    }

    /// `recaption run` with the bundled captioner over `input`, into `output` below this folder.
    pub(crate) fn run(&self, input: impl AsRef<Path>, output: &str) -> Call {
        self.run_all(&[input], output)
    }

    /// As [`Self::run`], over several inputs.
    pub(crate) fn run_all(&self, inputs: &[impl AsRef<Path>], output: &str) -> Call {
        let mut call = recaption().dir(self.root()).arg("run").arg("--model").arg(model());
        for input in inputs {
            call = call.arg("--input").arg(input.as_ref());
        }
        call.arg("--output").arg(self.path(output))
    }

    /// `recaption worker` with the bundled captioner, into `output` below this folder.
    pub(crate) fn worker(&self, output: &str) -> Call {
        let call = recaption().dir(self.root()).arg("worker").arg("--model").arg(model());
        call.arg("--output").arg(self.path(output))
    }
}

/// Every file below `root`, by its path from there, with the time of its last change.
pub(crate) fn files_below(root: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let entry = entry.expect("a folder's entry");
            let meta = entry.metadata().expect("an entry's metadata");
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(root).expect("below the root").to_owned();
                found.insert(name, meta.modified().expect("a time of change"));
            }
        }
    }
    found
}

/// The story's dice: the same seed throws the same numbers (SplitMix64).
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice that begin with `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A fraction, 0 to 1, without 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.throw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `length` bytes of noise.
    pub(crate) fn noise(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.throw() as u8).collect()
    }
}
