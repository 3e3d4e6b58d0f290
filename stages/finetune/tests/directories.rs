//! open_clip directories: bit-identical round trips, and errors of models that cannot be trained or written.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use std::{fs, path::Path};

use common::{bundled, data, small, write_model};
use recaption_finetune::open_clip::OpenClip;
use safetensors::Dtype;

const FILES: [&str; 3] = ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"];

fn assert_round_trip(dir: &Path) {
    let out = tempfile::tempdir().expect("a temporary folder");
    OpenClip::read(dir).expect("a checkpoint").write(out.path()).expect("it can be written");
    for name in FILES {
        let (was, is) = (fs::read(dir.join(name)).ok(), fs::read(out.path().join(name)).ok());
        let lengths = [&was, &is].map(|bytes| bytes.as_ref().map(Vec::len));
        assert!(was == is, "{}: {name}: {lengths:?} bytes before and after", dir.display());
    }
    let mut written: Vec<_> = fs::read_dir(out.path())
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    written.sort();
    let wanted: Vec<&str> = FILES.into_iter().filter(|name| dir.join(name).exists()).collect();
    assert_eq!(written, wanted, "{}", dir.display());
}

#[test]
fn checkpoints_round_trip_bit_identically() {
    let cases = fs::read_dir(data("coca")).expect("a folder").map(|e| e.expect("an entry").path());
    let cases: Vec<_> = cases.filter(|path| path.is_dir()).collect();
    assert_eq!(cases.len(), 7, "{cases:?}");
    cases.iter().for_each(|dir| assert_round_trip(dir));
    assert_round_trip(&bundled());
}

#[test]
fn new_model_round_trips_and_depends_on_its_seed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write_model(dir.path(), &small(1));
    assert_round_trip(dir.path());
    let [a, b, other] = [3, 3, 4].map(|seed| OpenClip::initialise(dir.path(), seed).expect("a model").values);
    assert!(a == b, "one seed, two models");
    let moved = a.iter().zip(&other).filter(|(a, b)| a != b).count();
    assert!(moved > a.len() / 3, "another seed moved {moved} of {} tensors", a.len());
}

#[test]
fn clip_is_an_error() {
    for case in ["odd", "plain", "quickgelu"] {
        let dir = data("clip").join(case);
        for error in [OpenClip::read(&dir).err(), OpenClip::initialise(&dir, 0).err()] {
            let error = error.map(|e| e.to_string()).unwrap_or_default();
            for words in [dir.to_str().expect("text"), "CLIP", "no decoder", "multimodal_cfg"] {
                assert!(error.contains(words), "{case}: {error:?} lacks {words}");
            }
        }
    }
}

/// 65520 is the smallest number that rounds to infinity in half precision.
#[test]
fn overflow_in_half_precision_names_the_tensor() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write_model(dir.path(), &small(1));
    let mut model = OpenClip::read(dir.path()).expect("a checkpoint");
    model.save_as(Some(Dtype::F16));
    let out = dir.path().join("half");
    model.write(&out).expect("random weights fit");
    let at = model.list.iter().position(|p| p.name == "visual.proj").expect("a projection");

    model.values[at][1] = 65519.0;
    model.write(&out).expect("the largest that fits");
    let before = fs::read(out.join(FILES[1])).expect("weights");

    model.values[at][1] = 65520.0;
    let error = model.write(&out).expect_err("it does not fit").to_string();
    for words in ["visual.proj", "65520", "F16", "model.save_as"] {
        assert!(error.contains(words), "{error:?} lacks {words}");
    }
    assert!(fs::read(out.join(FILES[1])).expect("weights") == before, "the earlier weights were touched");

    // Its own infinities are no overflow: they are written, and reading is what refuses them.
    model.values[at][1] = f32::INFINITY;
    model.write(&out).expect("infinity fits");
    let error = OpenClip::read(&out).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("`visual.proj` holds inf at element 1"), "{error:?}");
}

#[test]
fn half_precision_rounds_weights_only() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write_model(dir.path(), &small(1));
    let mut model = OpenClip::read(dir.path()).expect("a checkpoint");
    for (dtype, round) in [
        (Dtype::F16, (|v| half::f16::from_f32(v).to_f32()) as fn(f32) -> f32),
        (Dtype::BF16, |v| half::bf16::from_f32(v).to_f32()),
        (Dtype::F32, |v| v),
    ] {
        model.save_as(Some(dtype));
        let out = dir.path().join(format!("{dtype:?}"));
        model.write(&out).expect("it fits");
        let back = OpenClip::read(&out).expect("a checkpoint");
        for ((parameter, was), is) in model.list.iter().zip(&model.values).zip(&back.values) {
            let wanted: Vec<f32> = was.iter().copied().map(round).collect();
            assert!(*is == wanted, "{}, {dtype:?}", parameter.name);
        }
        assert!(back.dtypes.iter().all(|d| *d == dtype), "{dtype:?}");
    }
}
