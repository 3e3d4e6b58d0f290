//! The device is emulated on the CPU: its memory, graphs and bindings, with a model folder that has something wrong.

use super::*;
use crate::{
    Bundled, Precision,
    corrupt_models::{Exported, constants, edit_graph, lengthen_rows, rescale_attention, swap_cross},
    model::{DECODER_FILE, IMAGE_ENCODER_FILE},
    runtime::SessionOptions,
};

const IMAGES: usize = 40;
const HOST: SessionOptions = SessionOptions::on_cpu(1);
const DEVICE: SessionOptions = SessionOptions { emulate_device: true, ..HOST };

fn bundled(precision: Precision) -> Exported {
    let dir = tempfile::tempdir().expect("temporary folder");
    Bundled::Base.write_checkpoint(dir.path()).expect("written");
    Exported::of(dir.path(), precision)
}

/// Images of one or two squares on a background, u8 RGB `[count, size, size, 3]`.
fn pictures(count: usize, size: usize) -> Vec<u8> {
    let mut state = 5_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut pixels = Vec::new();
    for _ in 0..count {
        let mut picture = [0; 3].map(|_: u8| random(256) as u8).repeat(size * size);
        for _ in 0..1 + random(2) {
            let (colour, side) = ([0; 3].map(|_: u8| random(256) as u8), size / 5 + random(size / 4));
            let [top, left] = [0; 2].map(|_: usize| random(size - side));
            for y in top..top + side {
                for x in left..left + side {
                    picture[3 * (y * size + x)..][..3].copy_from_slice(&colour);
                }
            }
        }
        pixels.extend(picture);
    }
    pixels
}

fn compare(reference: &ModelFolder, device: &ModelFolder, options: &SessionOptions) -> CaptionComparison {
    let settings = CaptionSettings::greedy(reference.spec.dimensions.context_length - 1, 1, 16);
    let pixels = pictures(IMAGES, reference.spec.image_size as usize);
    let reference = Side { model: reference, options: &HOST };
    let found = compare_captions(reference, Side { model: device, options }, &settings, &pixels);
    let found = found.expect("a comparison");
    println!(
        "{} of {} equal, {} explained, tolerance {:.4}, largest gap {:.4}, logits' deviation {:.4}, cosine {:.6}",
        found.equal,
        found.images,
        found.explained(),
        found.tolerance,
        found.max_gap(),
        found.logit_deviation,
        found.logit_cosine
    );
    assert_eq!((found.images, found.equal + found.differences.len()), (IMAGES, IMAGES));
    found
}

#[test]
fn fp32_captions_of_the_device_path_are_equal() {
    let exported = bundled(Precision::Fp32);
    let found = compare(&exported.model, &exported.model, &DEVICE);
    assert!(found.passes() && found.equal == IMAGES, "{found:?}");
    assert!(found.logit_rows > IMAGES && found.logit_deviation < 1e-3, "{found:?}");
}

#[test]
fn fp16_captions_of_the_device_path_are_equal_or_explained() {
    let exported = bundled(Precision::Fp16);
    let found = compare(&exported.model, &exported.model, &DEVICE);
    assert!(found.passes(), "{found:?}");
}

/// fp16 and int8 against fp32 round differently, like a CPU and a GPU.
#[test]
fn differences_of_rounding_are_explained_by_close_logits() {
    let full = bundled(Precision::Fp32);
    for (precision, most) in [(Precision::Fp16, 0.05), (Precision::Int8, 0.25)] {
        let rounded = bundled(precision);
        let found = compare(&full.model, &rounded.model, &DEVICE);
        assert!(found.broken_bounds.is_empty() && found.unexplained() == 0, "{precision}: {found:?}");
        assert!(found.tolerance > 0.0 && found.tolerance <= most, "{precision}: {found:?}");
        assert!(found.max_gap() <= found.tolerance, "{precision}: {found:?}");
        // Between precisions more captions may differ than between providers; 8 bits make some differ.
        let differ = found.differences.len();
        assert!(
            differ <= IMAGES / 4 && (differ > 0 || precision == Precision::Fp16),
            "{precision}: {found:?}"
        );
    }
}

/// Even a constant that changes few captions is detected.
#[test]
fn one_wrong_constant_on_the_device_fails() {
    let corrupt = |graph: &'static str, name: &'static str| -> Box<dyn Fn(&ModelFolder)> {
        Box::new(move |model| {
            let all = constants(model, graph);
            let constant = all.iter().find(|c| c.name.starts_with(name)).expect("the constant");
            constant.corrupt(model, constant.needed_row(model));
        })
    };
    let edit = |change: fn(&mut crate::proto::GraphProto)| -> Box<dyn Fn(&ModelFolder)> {
        Box::new(move |model| edit_graph(model, DECODER_FILE, change))
    };
    for precision in [Precision::Fp32, Precision::Fp16] {
        let exported = bundled(precision);
        let faults = [
            ("scale, image", corrupt(IMAGE_ENCODER_FILE, "visual.ln_post.weight")),
            ("bias, decoder", corrupt(DECODER_FILE, "text_decoder.ln_final.bias")),
            ("embedding of the start token", corrupt(DECODER_FILE, "text.token_embedding.weight")),
            ("weight row, decoder", corrupt(DECODER_FILE, "text_decoder.cross_attn.0.mlp.c_fc.weight")),
            ("keys and values", edit(swap_cross)),
            ("attention's scale", edit(|graph| rescale_attention(graph, 2.0))),
        ];
        for (what, fault) in faults {
            let wrong = exported.changed(&*fault);
            let found = compare(&exported.model, &wrong, &DEVICE);
            assert!(!found.passes(), "{precision}, {what}: {found:?}");
            assert!(!found.broken_bounds.is_empty(), "{precision}, {what}: {found:?}");
        }
    }
}

/// Correct if all rows are at the same position, as in teacher forcing: only the captions can show the fault.
#[test]
fn wrong_rows_at_different_positions_fail() {
    let exported = bundled(Precision::Fp16);
    let wrong = exported.changed(&|model| edit_graph(model, DECODER_FILE, lengthen_rows));
    let found = compare(&exported.model, &wrong, &DEVICE);
    assert!(!found.passes() && found.unexplained() > 0, "{found:?}");
}

#[test]
fn unusable_inputs_are_named() {
    let exported = bundled(Precision::Fp32);
    let model = &exported.model;
    let run = |settings: &CaptionSettings, pixels: &[u8]| {
        let side = Side { model, options: &HOST };
        compare_captions(side, side, settings, pixels).expect_err("unusable").to_string()
    };
    let greedy = CaptionSettings::greedy(20, 1, 4);
    assert!(run(&greedy, &[0; 1000]).contains("u8 RGB [N, 96, 96, 3]"));
    assert!(run(&greedy, &[]).contains("not a whole number of images"));
    let sampled = CaptionSettings { strategy: Strategy::Sample(Default::default()), ..greedy };
    assert!(run(&sampled, &pictures(1, 96)).contains("greedy"));
}

#[test]
fn captions_diverge_at_their_first_unequal_token() {
    assert_eq!(difference(3, &[5, 6, 7], &[5, 6, 7]), None);
    let found = difference(3, &[5, 6, 7], &[5, 8, 7]).expect("a difference");
    assert_eq!((found.image, found.position), (3, 1));
    assert_eq!((found.reference_id, found.device_id), (Some(6), Some(8)));
    let found = difference(0, &[5, 6], &[5]).expect("a difference");
    assert_eq!((found.position, found.reference_id, found.device_id), (1, Some(6), None));
}
