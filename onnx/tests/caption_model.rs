//! [`CaptionModel`] from image files and pixels to captions, against what open_clip generated for the same images.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use std::{collections::BTreeMap, fs::File, io::Cursor, io::Read, path::PathBuf};

use common::{bundled, case, clip_case};
use image::{ImageFormat, Rgb, RgbImage};
use recaption_onnx::{
    CaptionError, CaptionModel, CaptionOptions, ImageInput, ModelError, Precision,
    caption::{BeamSettings, SampleSettings, Strategy},
    export,
    runtime::Provider,
};
use serde_json::Value;

/// Images of the reference that are captioned.
const IMAGES: usize = 100;

fn exported() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(&bundled(), &dir.path().join("model"), Precision::Fp32).expect("export");
    (dir, model.dir)
}

fn options() -> CaptionOptions {
    CaptionOptions {
        provider: Provider::Cpu,
        threads: Some(2),
        similarity: true,
        ..CaptionOptions::default()
    }
}

/// JPEG files of the reference shard by key.
fn reference_images() -> BTreeMap<String, Vec<u8>> {
    let mut shard = tar::Archive::new(File::open(bundled().join("reference-00000.tar")).expect("a shard"));
    let mut images = BTreeMap::new();
    for entry in shard.entries().expect("a tar") {
        let mut entry = entry.expect("a member");
        let path = entry.path().expect("a path").into_owned();
        if path.extension().is_some_and(|suffix| suffix == "jpg") && images.len() < IMAGES {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("readable");
            let key = path.file_stem().expect("a key").to_str().expect("UTF-8").to_owned();
            images.insert(key, bytes);
        }
    }
    images
}

/// A square on a background.
fn drawing(colour: [u8; 3], side: u32) -> RgbImage {
    RgbImage::from_fn(120, 90, |x, y| {
        let inside = (20..20 + side).contains(&x) && (15..15 + side).contains(&y);
        Rgb(if inside { colour } else { [230, 230, 230] })
    })
}

fn drawings() -> Vec<RgbImage> {
    vec![drawing([210, 30, 30], 40), drawing([20, 60, 200], 25), drawing([20, 160, 60], 60)]
}

/// The bounds are those of the same comparison through the pipeline (`tests/reference.rs`).
#[test]
fn captions_are_open_clips() {
    let (_dir, folder) = exported();
    let reference: Value =
        serde_json::from_slice(&std::fs::read(bundled().join("reference.json")).expect("json"))
            .expect("a reference");
    let images = reference_images();
    assert_eq!(images.len(), IMAGES);
    let options = CaptionOptions { max_tokens: Some(35), ..options() };
    let mut model = CaptionModel::open_with(folder, &options).expect("a model");
    let captions = model.caption_batch(images.values()).expect("captions");
    let mut equal = 0;
    for (key, caption) in images.keys().zip(captions) {
        let row = &reference["rows"][key];
        if row["caption"] == caption.text.as_str() {
            equal += 1;
            let want = row["similarity"].as_f64().expect("a similarity");
            let got = f64::from(caption.similarity.expect("scored"));
            assert!((got - want).abs() < 5e-3, "{key}: {got} and {want}");
        }
        assert!(caption.log_probability < 0.0 && caption.tokens > 1, "{key}: {caption:?}");
    }
    println!("{equal} of {IMAGES} captions equal");
    assert!(equal * 100 >= IMAGES * 97, "{equal} of {IMAGES}");
}

#[test]
fn files_and_pixels_yield_equal_captions() {
    let (_dir, folder) = exported();
    let mut model = CaptionModel::open_with(folder, &options()).expect("a model");
    let drawings = drawings();
    let batch = model.caption_batch(&drawings).expect("captions");
    for (drawing, want) in drawings.iter().zip(&batch) {
        let mut png = Cursor::new(Vec::new());
        drawing.write_to(&mut png, ImageFormat::Png).expect("encoded");
        assert_eq!(&model.caption(&png.into_inner()).expect("a caption"), want);
        assert_eq!(&model.caption(drawing).expect("a caption"), want);
    }
    assert!(batch[0].text != batch[1].text || batch[1].text != batch[2].text, "{batch:?}");
    let none: [&RgbImage; 0] = [];
    assert!(model.caption_batch(none).expect("nothing").is_empty());
}

#[test]
fn sampled_candidates_do_not_depend_on_the_batch() {
    let (_dir, folder) = exported();
    let sample = SampleSettings { temperature: 1.5, ..SampleSettings::default() };
    let options = CaptionOptions { strategy: Strategy::Sample(sample), candidates: 4, ..options() };
    let mut model = CaptionModel::open_with(&folder, &options).expect("a model");
    let drawings = drawings();
    let batch = model.candidates_batch(&drawings).expect("candidates");
    let alone = model.candidates(&drawings[2]).expect("candidates");
    assert_eq!(batch[2], alone);
    assert_eq!(alone.len(), 4);
    assert!(alone.is_sorted_by(|a, b| a.similarity >= b.similarity), "{alone:?}");
    let options = CaptionOptions { seed: 1, ..options };
    let other = CaptionModel::open_with(&folder, &options).expect("a model").candidates(&drawings[2]);
    assert_ne!(other.expect("candidates"), alone, "another seed");
}

#[test]
fn beams_and_prompts_are_options() {
    let (_dir, folder) = exported();
    let beam = Strategy::Beam(BeamSettings { beams: 3, ..BeamSettings::default() });
    let options = CaptionOptions {
        strategy: beam,
        candidates: 2,
        prompt: "a large".into(),
        keep_prompt: true,
        similarity: false,
        ..options()
    };
    let mut model = CaptionModel::open_with(&folder, &options).expect("a model");
    let candidates = model.candidates(&drawings()[0]).expect("candidates");
    assert_eq!(candidates.len(), 2);
    for caption in &candidates {
        assert!(caption.text.starts_with("a large"), "{caption:?}");
        assert!(caption.similarity.is_none() && caption.mean_log_probability() >= caption.log_probability);
    }
    let long = CaptionOptions { max_tokens: Some(100_000), ..options };
    let error = CaptionModel::open_with(&folder, &long).expect_err("too long").to_string();
    assert!(error.contains("max_tokens is 100000"), "{error}");
}

#[test]
fn unusable_images_are_named_and_others_still_work() {
    let (_dir, folder) = exported();
    let mut model = CaptionModel::open_with(folder, &options()).expect("a model");
    let drawing = drawings().remove(0);
    let text: &[u8] = b"not an image";
    let images: [ImageInput<'_>; 2] = [(&drawing).into(), text.into()];
    let error = model.caption_batch(images).expect_err("text");
    assert!(matches!(error, CaptionError::Image { index: 1, .. }), "{error}");
    let short = ImageInput::Rgb { width: 10, height: 10, data: vec![0; 299].into() };
    let error = model.caption(short).expect_err("a byte is missing").to_string();
    assert!(error.contains("299 bytes are not RGB pixels of 10 x 10"), "{error}");
    model.caption(&drawing).expect("a caption");
}

#[test]
fn models_that_cannot_caption_are_errors() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let missing = CaptionModel::open(dir.path()).expect_err("no model");
    assert!(matches!(missing, CaptionError::Model(ModelError::Io { .. })), "{missing}");
    for (checkpoint, want) in [(clip_case("plain"), "no tokenizer"), (case("square"), "no tokenizer")] {
        let model = export(&checkpoint, &dir.path().join("model"), Precision::Fp32).expect("export");
        let error = CaptionModel::open(&model.dir).expect_err("no tokenizer").to_string();
        assert!(error.contains(want), "{error}");
    }
}
