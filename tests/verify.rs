//! `recaption verify`, as users meet it: a verdict for everything, and an exit code that means it.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod support;

use std::{fs, path::Path};

use support::{
    Place, data,
    program::{Said, recaption},
};

const CHECKED: [&str; 6] = ["image_features", "text_features", "logits", "greedy", "beam", "beam_score"];
const PRECISIONS: [&str; 3] = ["fp32", "fp16", "int8"];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folders can be made");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("a file").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("files can be copied");
    }
}

/// Changes the bytes of a tensor of a safetensors file.
fn change_tensor(path: &Path, tensor: &str, change: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(path).expect("a safetensors file");
    let header =
        usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))).expect("a length");
    let described: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let offset = |i: usize| described[tensor]["data_offsets"][i].as_u64().expect("the tensor") as usize;
    let (from, to) = (8 + header + offset(0), 8 + header + offset(1));
    change(&mut bytes[from..to]);
    fs::write(path, bytes).expect("files can be written");
}

fn export(checkpoint: &Path, place: &Place, precision: &str) {
    let call = recaption().arg("export").arg("--checkpoint").arg(checkpoint);
    call.arg("--out").arg(place.path("model")).args(["--precision", precision]).ends(0);
}

fn verify(place: &Place, golden: &Path, code: i32) -> Said {
    recaption().arg("verify").arg(place.path("model")).arg(golden.join("golden.safetensors")).ends(code)
}

/// The tensors whose lines begin with this word.
fn with(said: &Said, word: &str) -> Vec<String> {
    let lines = said.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|words| words[0] == word).map(|words| words[1].to_owned()).collect()
}

#[test]
fn every_precision_has_a_verdict_for_every_tensor() {
    let place = Place::new();
    for precision in PRECISIONS {
        for case in ["square", "odd"] {
            let golden = data("coca").join(case);
            export(&golden, &place, precision);
            let said = verify(&place, &golden, 0);
            assert_eq!(with(&said, "ok"), CHECKED, "{precision}: {}", said.stdout);
            assert_eq!(with(&said, "unchecked"), ["image_tokens"], "{precision}: {}", said.stdout);
        }
        let golden = data("clip/plain");
        export(&golden, &place, precision);
        assert_eq!(with(&verify(&place, &golden, 0), "ok"), CHECKED[..2], "{precision}");
    }
}

/// One tensor of the checkpoint is not what the golden was computed from.
#[test]
fn a_model_with_a_wrong_constant_fails_in_every_precision() {
    let place = Place::new();
    let golden = data("coca/square");
    let negate = |bytes: &mut [u8]| bytes.chunks_exact_mut(4).for_each(|value| value[3] ^= 0x80);
    for (tensor, fails) in [
        ("visual.ln_post.weight", "image_features"),
        ("text.ln_final.bias", "text_features"),
        ("text_decoder.cross_attn.0.ln_2.weight", "logits"),
    ] {
        let wrong = place.path("wrong");
        copy(&golden, &wrong);
        change_tensor(&wrong.join("open_clip_model.safetensors"), tensor, negate);
        for precision in PRECISIONS {
            export(&wrong, &place, precision);
            let said = verify(&place, &golden, 1);
            let failed = with(&said, "FAIL");
            assert!(failed.iter().any(|name| name == fails), "{precision}, {tensor}: {}", said.stdout);
        }
    }
}

#[test]
fn a_golden_that_differs_fails() {
    let place = Place::new();
    let golden = data("coca/square");
    export(&golden, &place, "fp32");
    let tampered = place.path("tampered");
    copy(&golden, &tampered);
    change_tensor(&tampered.join("golden.safetensors"), "logits", |bytes| bytes[3] ^= 0x40);
    assert_eq!(with(&verify(&place, &tampered, 1), "FAIL"), ["logits"]);
    // Not a number is no match, whose ever it is.
    copy(&golden, &tampered);
    change_tensor(&tampered.join("golden.safetensors"), "image_features", |bytes| {
        bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert_eq!(with(&verify(&place, &tampered, 1), "FAIL"), ["image_features"]);
}

#[test]
fn an_unusable_golden_is_an_error_that_names_it() {
    let place = Place::new();
    export(&data("coca/square"), &place, "fp32");
    verify(&place, &place.path("nowhere"), 1).warns("nowhere");
    // Of another model: other sizes, and so other special ids.
    verify(&place, &data("coca/odd"), 1).warns("special ids");
    let other = place.path("other");
    copy(&data("coca/square"), &other);
    change_tensor(&other.join("golden.safetensors"), "greedy", |bytes| {
        bytes[8..16].copy_from_slice(&4_000_i64.to_le_bytes());
    });
    verify(&place, &other, 1).warns("greedy").warns("4000");
}
