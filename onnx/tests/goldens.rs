//! Every reference case through export and `verify`, in fp32 and fp16.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

use std::path::{Path, PathBuf};

use recaption_onnx::{
    Precision, export,
    runtime::SessionOptions,
    verify::{Outcome, verify},
};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/coca").join(name)
}

fn check(name: &str, precision: Precision) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(&case(name), &dir.path().join("model"), precision).expect("export");
    let checks = verify(&model, &case(name).join("golden.safetensors"), &SessionOptions { threads: 1 })
        .expect("verify");
    for check in &checks {
        println!("{name} {precision}: {:?} {} {}", check.outcome, check.tensor, check.detail);
    }
    let passed: Vec<&str> = checks.iter().filter(|c| c.outcome == Outcome::Pass).map(|c| c.tensor).collect();
    assert!(checks.iter().all(|c| c.outcome != Outcome::Fail), "{name}: {checks:#?}");
    let must: &[&str] = match precision {
        Precision::Fp32 => &["image_features", "text_features", "logits", "greedy"],
        Precision::Fp16 => &["image_features", "text_features"],
    };
    assert!(must.iter().all(|tensor| passed.contains(tensor)), "{name}: {checks:#?}");
}

macro_rules! goldens {
    ($($test:ident: $name:literal,)*) => { $(
        mod $test {
            #[test]
            fn fp32_agrees_with_open_clip() { super::check($name, super::Precision::Fp32); }
            #[test]
            fn fp16_keeps_the_directions() { super::check($name, super::Precision::Fp16); }
        }
    )* };
}

goldens! {
    legacy_1: "legacy-1",
    legacy_2: "legacy-2",
    square: "square",
    quickgelu: "quickgelu",
    layerscale: "layerscale",
    nopool: "nopool",
}
