//! `recaption_onnx::CaptionModel` captions images exactly as the program does.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::process::Command;

use recaption_onnx::{CaptionModel, CaptionOptions};
use support::{Place, model, shards::jpeg};

#[test]
fn library_captions_are_the_programs() {
    let place = Place::new();
    let files: Vec<Vec<u8>> = (0..12).map(jpeg).collect();
    let paths: Vec<_> = (0..files.len()).map(|i| place.path(&format!("{i:02}.jpg"))).collect();
    for (path, bytes) in paths.iter().zip(&files) {
        std::fs::write(path, bytes).expect("written");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_recaption"))
        .arg("caption")
        .arg(model())
        .args(&paths)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let options = CaptionOptions { similarity: true, ..CaptionOptions::default() };
    let mut library = CaptionModel::open_with(model(), &options).expect("a model");
    let captions = library.caption_batch(&files).expect("captions");
    let lines: Vec<String> = paths
        .iter()
        .zip(captions)
        .map(|(path, caption)| {
            format!("{}\t{:.4}\t{}\n", path.display(), caption.similarity.expect("scored"), caption.text)
        })
        .collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), lines.concat());
}
