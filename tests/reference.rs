//! The bundled captioner through the whole pipeline against open_clip on the same 200 pictures.
//!
//! `onnx/models/coca-scenes-base/reference.json` holds what open_clip 3.3.0 generated and scored, from pixels that Pillow
//! decoded. Our JPEG decoder differs by a level here and there, so this is no bit-for-bit comparison. Measured on the
//! JPEGs: 197 captions equal, similarities within 2.9e-3. The bounds below leave room for another decoder.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

use std::{collections::BTreeMap, fs::File, path::Path, process::Command};

use arrow_array::{Array, Float32Array, RecordBatch, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

const MODEL: &str = "onnx/models/coca-scenes-base";
/// Samples of the reference.
const SAMPLES: usize = 200;
/// Share of captions that must be open_clip's, word for word.
const EQUAL_CAPTIONS: f64 = 0.97;
/// Largest difference of an image-text cosine where the texts are equal; the reference keeps five decimals.
const SIMILARITY_DIFFERENCE: f32 = 5e-3;

/// One row of the output.
struct Row {
    caption: String,
    similarity: f32,
    org_similarity: f32,
    meta: Value,
}

fn recaption(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_recaption"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the program starts");
    assert!(
        output.status.success(),
        "recaption {arguments:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Captions of the reference shard by key.
fn captions(dir: &Path) -> BTreeMap<String, Row> {
    let (model, output) = (dir.join("model"), dir.join("output"));
    let (model, output_url) = (model.display().to_string(), output.display().to_string());
    let shard = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL).join("reference-00000.tar");
    recaption(&["export", "--checkpoint", MODEL, "--out", &model]);
    recaption(&[
        "run",
        "--model",
        &model,
        "--input",
        &shard.display().to_string(),
        "--output",
        &output_url,
        // seq_len 36 and min_seq_len 2, which count the start token.
        "--set",
        "caption.max_tokens=35",
        "--set",
        "caption.min_tokens=1",
    ]);
    let mut rows = BTreeMap::new();
    for part in std::fs::read_dir(output.join("captions")).expect("captions") {
        let file = File::open(part.expect("a part").path()).expect("readable");
        for batch in
            ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet").build().expect("parquet")
        {
            rows.extend(rows_of(&batch.expect("a batch")));
        }
    }
    rows
}

fn rows_of(batch: &RecordBatch) -> Vec<(String, Row)> {
    let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    let text = |name: &str| column(name).as_any().downcast_ref::<StringArray>().expect("text").clone();
    let real = |name: &str| column(name).as_any().downcast_ref::<Float32Array>().expect("f32").clone();
    let (keys, captions, meta) = (text("key"), text("caption"), text("meta"));
    let (similarity, org_similarity) = (real("similarity"), real("org_similarity"));
    (0..batch.num_rows())
        .map(|i| {
            assert!(!org_similarity.is_null(i), "{} has no org_similarity", keys.value(i));
            let row = Row {
                caption: captions.value(i).to_owned(),
                similarity: similarity.value(i),
                org_similarity: org_similarity.value(i),
                meta: serde_json::from_str(meta.value(i)).expect("JSON"),
            };
            (keys.value(i).to_owned(), row)
        })
        .collect()
}

/// Whether the caption names an object of the scene by colour and shape, as the reference's evaluation counts it.
fn names_true_object(scene: &Value, caption: &str) -> bool {
    let word = |object: &Value, key: &str| object[key].as_str().expect("a word").to_owned();
    scene["objects"]
        .as_array()
        .expect("objects")
        .iter()
        .any(|o| caption.contains(&format!("{} {}", word(o, "colour"), word(o, "shape"))))
}

#[test]
fn captions_and_similarities_are_open_clips() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let got = captions(dir.path());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL).join("reference.json");
    let reference: Value = serde_json::from_slice(&std::fs::read(path).expect("reference")).expect("JSON");
    let want = reference["rows"].as_object().expect("rows");
    assert_eq!((got.len(), want.len()), (SAMPLES, SAMPLES));

    let (mut equal, mut named) = (0, 0);
    let (mut similarity, mut org_similarity) = (0.0_f32, 0.0_f32);
    for (key, row) in &got {
        let want = &want[key];
        let number = |name: &str| want[name].as_f64().expect("a number") as f32;
        named += usize::from(names_true_object(&row.meta, &row.caption));
        org_similarity = org_similarity.max((row.org_similarity - number("org_similarity")).abs());
        if row.caption == want["caption"].as_str().expect("text") {
            equal += 1;
            similarity = similarity.max((row.similarity - number("similarity")).abs());
        } else {
            println!(
                "{key}\n  here      {:.5} {}\n  open_clip {} {}",
                row.similarity, row.caption, want["similarity"], want["caption"]
            );
        }
    }
    let share = |n: usize| n as f64 / SAMPLES as f64;
    println!(
        "{} of {SAMPLES} captions equal; largest difference of similarity {similarity:.2e}, of org_similarity {org_similarity:.2e}; {:.3} name a true object",
        equal,
        share(named)
    );
    assert!(share(equal) >= EQUAL_CAPTIONS, "{equal} of {SAMPLES} captions are equal");
    assert!(similarity <= SIMILARITY_DIFFERENCE, "similarity differs by {similarity}");
    assert!(org_similarity <= SIMILARITY_DIFFERENCE, "org_similarity differs by {org_similarity}");
    let wanted = reference["total"]["names_true_object"].as_f64().expect("a number");
    assert!(
        (share(named) - wanted).abs() < 1e-9,
        "{} name a true object, {wanted} with open_clip",
        share(named)
    );
}
