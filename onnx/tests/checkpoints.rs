//! Checkpoints that cannot be exported, and what an export leaves on disk.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{Weights, bundled, case, copy_of};
use recaption_onnx::{ExportError, ModelError, ModelFolder, Precision, export};
use safetensors::Dtype;

const WEIGHTS: &str = "open_clip_model.safetensors";
const CONFIG: &str = "open_clip_config.json";

/// Exports a changed copy of a reference case; asserts that it fails with `want` in the error and leaves nothing behind.
fn expect_error(change: impl FnOnce(&Path), want: &[&str]) {
    expect_error_in(Precision::Fp32, change, want);
}

fn expect_error_in(precision: Precision, change: impl FnOnce(&Path), want: &[&str]) {
    let (dir, checkpoint) = copy_of(&case("square"));
    change(&checkpoint);
    let error =
        export(&checkpoint, &dir.path().join("model"), precision).expect_err("must not export").to_string();
    for part in want {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert_eq!(names(dir.path()), ["checkpoint"], "an export that failed left something behind");
}

/// [`expect_error`] with changed weights.
fn bad_weights(change: impl FnOnce(&mut Weights), want: &[&str]) {
    expect_error(
        |dir| {
            let mut weights = Weights::read(&dir.join(WEIGHTS));
            change(&mut weights);
            weights.write(&dir.join(WEIGHTS));
        },
        want,
    );
}

/// [`expect_error`] with changed bytes of the weights file.
fn bad_bytes(change: impl FnOnce(Vec<u8>) -> Vec<u8>, want: &[&str]) {
    expect_error(
        |dir| {
            let bytes = fs::read(dir.join(WEIGHTS)).expect("weights");
            fs::write(dir.join(WEIGHTS), change(bytes)).expect("written");
        },
        want,
    );
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("folder")
        .map(|e| e.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn missing_files_are_named() {
    expect_error(
        |dir| fs::remove_file(dir.join(CONFIG)).expect("removed"),
        &[CONFIG, "as open_clip publishes it"],
    );
    expect_error(
        |dir| fs::remove_file(dir.join(WEIGHTS)).expect("removed"),
        &[WEIGHTS, "as open_clip publishes it"],
    );
    let nowhere = export(Path::new("no/such/checkpoint"), Path::new("no/such/model"), Precision::Fp32);
    assert!(nowhere.expect_err("nothing there").to_string().contains("no/such/checkpoint"));
    for url in ["hf://org/model", "hf-hub:org/model"] {
        let hub = export(Path::new(url), Path::new("no/such/model"), Precision::Fp32);
        assert!(hub.expect_err("a URL").to_string().contains("recaption pull"), "{url}");
    }
    // A tokenizer may be absent, but not unreadable.
    expect_error(|dir| fs::create_dir(dir.join("tokenizer.json")).expect("folder"), &["tokenizer.json"]);
}

#[test]
fn tensors_that_contradict_the_configuration_are_named() {
    bad_weights(|w| drop(w.0.remove("text.ln_final.bias")), &["text.ln_final.bias", "is missing"]);
    bad_weights(
        |w| {
            let extra = w.0["text.ln_final.bias"].clone();
            w.0.insert("text.ln_extra.bias".into(), extra);
        },
        &["text.ln_extra.bias", "unknown"],
    );
    bad_weights(
        |w| {
            let tensor = w.0.get_mut("text.text_projection").expect("the tensor");
            tensor.1 = vec![tensor.1.iter().product()];
        },
        &["text.text_projection", "has shape", "implies"],
    );
}

#[test]
fn non_finite_values_are_named() {
    bad_weights(|w| w.convert(Dtype::I32), &["I32", "supported are F32, F16, BF16 and F64"]);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let want = format!("holds {value} at element 17");
        bad_weights(
            |w| w.poke("text.token_embedding.weight", 17, value),
            &["text.token_embedding.weight", &want],
        );
    }
}

#[test]
fn values_out_of_fp16_range_are_named() {
    let too_large = |dir: &Path| {
        let mut weights = Weights::read(&dir.join(WEIGHTS));
        weights.poke("text.ln_final.weight", 3, 70_000.0);
        weights.write(&dir.join(WEIGHTS));
    };
    expect_error_in(Precision::Fp16, too_large, &["text.ln_final.weight", "70000", "--precision fp32"]);
    let (dir, checkpoint) = copy_of(&case("square"));
    too_large(&checkpoint);
    export(&checkpoint, &dir.path().join("model"), Precision::Fp32).expect("fp32 holds it");
}

#[test]
fn other_files_are_not_read_as_safetensors() {
    bad_bytes(|_| Vec::new(), &["0 bytes"]);
    bad_bytes(|b| b[..7].to_vec(), &["7 bytes"]);
    bad_bytes(|b| b[..100].to_vec(), &["truncated"]);
    bad_bytes(|mut b| b.split_off(b.len() / 2), &[WEIGHTS]);
    for missing in [1, 1000] {
        bad_bytes(|b| b[..b.len() - missing].to_vec(), &["tensor `", "truncated"]);
    }
    // A directory that claims gigabytes is not allocated.
    for claim in [u64::MAX, u64::MAX - 7, 1 << 40, (64 << 20) + 1] {
        bad_bytes(|b| [&claim.to_le_bytes(), &b[8..]].concat(), &["directory of"]);
    }
    bad_bytes(|_| directory("{"), &["malformed directory"]);
    bad_bytes(|_| directory(&"[".repeat(100_000)), &["malformed directory"]);
    bad_bytes(
        |_| directory(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}"#),
        &["malformed"],
    );
    bad_bytes(
        |_| directory(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}"#),
        &["malformed"],
    );
    let huge = r#"{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 8]}}"#;
    bad_bytes(|_| directory(huge), &["malformed"]);
    let far =
        r#"{"a": {"dtype": "U8", "shape": [2305843009213693951], "data_offsets": [0, 2305843009213693951]}}"#;
    bad_bytes(|_| directory(far), &["tensor `a` ends at byte 2305843009213693951"]);
    bad_bytes(|_| directory("{}"), &["is missing"]);
}

/// A safetensors file with that directory and no data.
fn directory(json: &str) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()
}

#[test]
fn export_needs_an_empty_folder_or_an_older_export() {
    let (dir, checkpoint) = copy_of(&case("square"));
    let occupied = |out: &Path| match export(&checkpoint, out, Precision::Fp32) {
        Err(ExportError::Occupied(path)) => assert_eq!(path, out),
        other => panic!("{other:?}"),
    };
    let out = dir.path().join("out");
    fs::create_dir(&out).expect("folder");
    export(&checkpoint, &out, Precision::Fp32).expect("an empty folder is fine");
    fs::write(out.join("notes.txt"), "mine").expect("written");
    occupied(&out);
    assert_eq!(fs::read_to_string(out.join("notes.txt")).expect("still there"), "mine");

    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).expect("folder");
    fs::write(foreign.join("model.json"), r#"{"layers": 3}"#).expect("written");
    occupied(&foreign);
    assert_eq!(names(&foreign), ["model.json"]);

    let file = dir.path().join("file");
    fs::write(&file, "text").expect("written");
    occupied(&file);
    occupied(&checkpoint);
    assert_eq!(names(dir.path()), ["checkpoint", "file", "foreign", "out"]);
}

#[test]
fn failed_export_keeps_the_older_one() {
    let (dir, checkpoint) = copy_of(&case("square"));
    let out = dir.path().join("model");
    let before = export(&checkpoint, &out, Precision::Fp32).expect("export");
    let mut weights = Weights::read(&checkpoint.join(WEIGHTS));
    // One of the last tensors that the exporter reads.
    weights.0.remove("text_decoder.text_projection");
    weights.write(&checkpoint.join(WEIGHTS));
    export(&checkpoint, &out, Precision::Fp32).expect_err("a tensor is missing");
    assert_eq!(ModelFolder::open(&out).expect("untouched").digest, before.digest);
    assert_eq!(names(dir.path()), ["checkpoint", "model"]);
}

#[test]
fn export_replaces_one_of_another_kind() {
    let (dir, checkpoint) = copy_of(&case("square"));
    let out = dir.path().join("model");
    let first = export(&bundled(), &out, Precision::Fp32).expect("export");
    assert!(first.has_tokenizer());
    let second = export(&checkpoint, &out, Precision::Fp16).expect("export again");
    assert_ne!(first.digest, second.digest);
    assert!(!second.has_tokenizer() && !out.join("tokenizer.json").exists());
    assert_eq!(names(dir.path()), ["checkpoint", "model"]);
}

#[test]
fn exports_are_reproducible() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for precision in [Precision::Fp32, Precision::Fp16] {
        let exports: Vec<ModelFolder> = ["one", "two"]
            .iter()
            .map(|name| export(&bundled(), &dir.path().join(name), precision).expect("export"))
            .collect();
        assert_eq!(exports[0].digest, exports[1].digest);
        assert_eq!(names(&exports[0].dir), names(&exports[1].dir));
        for name in names(&exports[0].dir) {
            let [one, two] = [0, 1].map(|i| fs::read(exports[i].dir.join(&name)).expect("file"));
            assert!(one == two, "{precision}: {name} differs from export to export");
        }
    }
}

#[test]
fn changed_model_folders_are_rejected() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let out = dir.path().join("model");
    let model = export(&case("square"), &out, Precision::Fp32).expect("export");
    let spec = fs::read_to_string(out.join("model.json")).expect("model.json");
    let open = || ModelFolder::open(&out).map(|m| m.digest).map_err(|e| e.to_string());
    for file in &model.spec.files {
        let path = out.join(&file.name);
        let whole = fs::read(&path).expect("file");
        fs::write(&path, &whole[..whole.len() - 1]).expect("cut");
        assert!(open().expect_err("cut").contains(&file.name));
        fs::write(&path, [&whole[..], b"x"].concat()).expect("longer");
        assert!(open().expect_err("longer").contains(&file.name));
        fs::remove_file(&path).expect("removed");
        assert!(open().expect_err("gone").contains(&file.name));
        fs::write(&path, whole).expect("restored");
    }
    assert_eq!(open(), Ok(model.digest.clone()));
    for (from, to, want) in [
        ("\"format_version\": 1", "\"format_version\": 99", "format_version is 99"),
        ("\"format_version\": 1", "\"version\": 1", "format_version is missing"),
        ("\"image_size\": ", "\"image_size\": 2147483648, \"was\": ", "image_size is 2147483648 pixels"),
        ("\"name\": \"weights.bin\"", "\"name\": \"../weights.bin\"", "is outside the folder"),
        ("\"opset\"", "\"opera\"", "malformed"),
        ("{", "", "not valid JSON"),
    ] {
        let changed = spec.replacen(from, to, 1);
        assert_ne!(changed, spec, "{from}");
        fs::write(out.join("model.json"), changed).expect("written");
        let message = open().expect_err(want);
        assert!(message.contains(want), "{message}");
    }
    fs::remove_file(out.join("model.json")).expect("removed");
    assert!(matches!(ModelFolder::open(&out), Err(ModelError::Io { .. })));
    let missing: PathBuf = dir.path().join("nothing");
    assert!(ModelFolder::open(&missing).expect_err("nothing").to_string().contains("recaption export"));
}
