//! A model folder that was changed after the export: rows would carry the digest of another model.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::fs;

use support::{Place, model, program::recaption};

#[test]
fn one_changed_byte_is_refused_before_anything_is_begun() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    let copy = place.path("model");
    fs::create_dir(&copy).expect("a folder");
    for entry in fs::read_dir(model()).expect("a model").flatten() {
        fs::copy(entry.path(), copy.join(entry.file_name())).expect("a copy");
    }
    let run = |output: &str| {
        let call = recaption().arg("run").arg("--model").arg(&copy).arg("--input").arg(&input);
        call.arg("--output").arg(place.path(output))
    };
    run("whole").ends(0);
    let mut weights = fs::read(copy.join("weights.bin")).expect("weights");
    let middle = weights.len() / 2;
    weights[middle] ^= 1;
    fs::write(copy.join("weights.bin"), weights).expect("written");
    run("changed").ends(1).warns("weights.bin has changed since the export");
    assert!(!place.path("changed").join("captions").exists());
    recaption().arg("inspect").arg(&copy).ends(1).prints("CHANGED since the export");
}
