//! What several tests need: reference cases, temporary copies of checkpoints, and safetensors files that can be edited.

#![allow(dead_code, reason = "each test program uses its own part")]

pub(crate) mod random;
pub(crate) mod reference;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// A reference case made by open_clip.
pub(crate) fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/coca").join(name)
}

/// A CLIP made by open_clip.
pub(crate) fn clip_case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/clip").join(name)
}

/// The bundled captioner's checkpoint.
pub(crate) fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/coca-scenes-base")
}

/// A temporary folder with a copy of a checkpoint in `checkpoint`.
pub(crate) fn copy_of(checkpoint: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let copy = dir.path().join("checkpoint");
    std::fs::create_dir(&copy).expect("folder");
    for name in ["open_clip_config.json", "open_clip_model.safetensors"] {
        std::fs::copy(checkpoint.join(name), copy.join(name)).expect("copy");
    }
    (dir, copy)
}

/// A temporary folder with a copy of all files of `checkpoint`.
pub(crate) fn copy_of_files(checkpoint: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let copy = dir.path().join("checkpoint");
    std::fs::create_dir(&copy).expect("folder");
    for entry in std::fs::read_dir(checkpoint).expect("the checkpoint") {
        let path = entry.expect("file").path();
        std::fs::copy(&path, copy.join(path.file_name().expect("name"))).expect("copied");
    }
    (dir, copy)
}

/// One tensor: dtype, shape and little-endian bytes.
pub(crate) type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// The tensors of a file, to be changed and written again.
pub(crate) struct Weights(pub BTreeMap<String, Tensor>);

impl Weights {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("readable");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let owned = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Self(file.iter().map(|(name, view)| (name.to_owned(), owned(view))).collect())
    }

    pub(crate) fn write(&self, path: &Path) {
        let views = self.0.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("consistent tensor"))
        });
        std::fs::write(path, safetensors::serialize(views, None).expect("serialised")).expect("written");
    }

    /// Writes `value` into element `at` of a tensor.
    pub(crate) fn poke(&mut self, name: &str, at: usize, value: f32) {
        let (dtype, _, bytes) = self.0.get_mut(name).expect("the tensor");
        assert_eq!(*dtype, Dtype::F32);
        bytes[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        let (dtype, _, bytes) = &self.0[name];
        assert_eq!(*dtype, Dtype::F32, "{name}");
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    pub(crate) fn i64(&self, name: &str) -> Vec<i64> {
        let (dtype, _, bytes) = &self.0[name];
        assert_eq!(*dtype, Dtype::I64, "{name}");
        bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }

    pub(crate) fn u8(&self, name: &str) -> &[u8] {
        assert_eq!(self.0[name].0, Dtype::U8, "{name}");
        &self.0[name].2
    }

    /// All tensors in another floating-point type.
    pub(crate) fn convert(&mut self, to: Dtype) {
        for (dtype, _, bytes) in self.0.values_mut() {
            assert_eq!(*dtype, Dtype::F32);
            let values = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            *bytes = match to {
                Dtype::F16 => values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
                Dtype::BF16 => values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
                Dtype::F64 => values.flat_map(|v| f64::from(v).to_le_bytes()).collect(),
                Dtype::I32 => values.flat_map(|v| (v as i32).to_le_bytes()).collect(),
                other => panic!("no conversion to {other:?}"),
            };
            *dtype = to;
        }
    }
}
