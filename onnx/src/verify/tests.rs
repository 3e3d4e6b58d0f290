//! A correct export passes; one with a single wrong constant fails, in every precision.

use super::*;
use crate::{
    Precision,
    corrupt_models::{Constant, Exported, case, constants, edit_graph, rescale_attention, swap_cross},
    model::{DECODER_FILE, IMAGE_ENCODER_FILE, TEXT_ENCODER_FILE},
};

const CASE: &str = "square";
const PRECISIONS: [Precision; 3] = [Precision::Fp32, Precision::Fp16, Precision::Int8];

fn checks(model: &ModelFolder) -> Vec<Check> {
    verify(model, &case(CASE).join("golden.safetensors"), &SessionOptions::on_cpu(1)).expect("a comparison")
}

fn failed(checks: &[Check]) -> Vec<&'static str> {
    checks.iter().filter(|c| c.status == CheckStatus::Fail).map(|c| c.tensor).collect()
}

/// The first constant whose name begins so.
fn constant(model: &ModelFolder, graph: &str, name: &str) -> Constant {
    let found = constants(model, graph).into_iter().find(|c| c.name.starts_with(name));
    found.unwrap_or_else(|| panic!("{graph} has no {name}"))
}

/// The rows `of` a matrix the other way round.
fn reverse_rows(model: &ModelFolder, constant: &Constant, of: std::ops::Range<usize>) {
    let width = constant.dims[constant.dims.len() - 1];
    constant.edit(model, |values| {
        let rows: Vec<f32> =
            of.clone().rev().flat_map(|row| values[row * width..][..width].to_vec()).collect();
        values[of.start * width..of.end * width].copy_from_slice(&rows);
    });
}

/// What is wrong, and how it is made wrong.
type Fault = (&'static str, Box<dyn Fn(&ModelFolder)>);

fn faults() -> Vec<Fault> {
    let corrupt = |graph: &'static str, name: &'static str| -> Box<dyn Fn(&ModelFolder)> {
        Box::new(move |model| {
            let constant = constant(model, graph, name);
            constant.corrupt(model, constant.needed_row(model));
        })
    };
    let reverse = |graph: &'static str,
                   name: &'static str,
                   rows: std::ops::Range<usize>|
     -> Box<dyn Fn(&ModelFolder)> {
        Box::new(move |model| reverse_rows(model, &constant(model, graph, name), rows.clone()))
    };
    vec![
        ("weight row, image", corrupt(IMAGE_ENCODER_FILE, "visual.transformer.resblocks.0.attn.v_weight")),
        ("weight row, decoder", corrupt(DECODER_FILE, "text_decoder.cross_attn.0.mlp.c_fc.weight")),
        ("scale, image", corrupt(IMAGE_ENCODER_FILE, "visual.ln_post.weight")),
        ("scale, decoder", corrupt(DECODER_FILE, "text_decoder.ln_final.weight")),
        ("bias, image", corrupt(IMAGE_ENCODER_FILE, "visual.ln_post.bias")),
        ("bias, text", corrupt(TEXT_ENCODER_FILE, "text.ln_final.bias")),
        ("bias, decoder", corrupt(DECODER_FILE, "text_decoder.ln_final.bias")),
        ("embedding of one word", corrupt(DECODER_FILE, "text.token_embedding.weight")),
        ("positions, image", reverse(IMAGE_ENCODER_FILE, "visual.patch_positions", 0..16)),
        ("positions, text", reverse(DECODER_FILE, "text.positional_embedding", 1..3)),
        ("keys and values", Box::new(|model| edit_graph(model, DECODER_FILE, swap_cross))),
        (
            "attention's scale",
            Box::new(|model| edit_graph(model, DECODER_FILE, |g| rescale_attention(g, 2.0))),
        ),
    ]
}

#[test]
fn one_wrong_constant_fails_in_every_precision() {
    for precision in PRECISIONS {
        let exported = Exported::new(CASE, precision);
        let report = checks(&exported.model);
        assert!(passed(&report) && failed(&report).is_empty(), "{precision}: {report:#?}");
        for (what, fault) in faults() {
            let report = checks(&exported.changed(&*fault));
            println!("{precision}, {what}: {:?}", failed(&report));
            assert!(!passed(&report) && !failed(&report).is_empty(), "{precision}, {what}: {report:#?}");
        }
    }
}

/// int8 has constants of its own.
#[test]
fn wrong_scale_of_quantised_weights_fails() {
    let exported = Exported::new(CASE, Precision::Int8);
    let name = "text_decoder.cross_attn.0.mlp.c_proj.weight.scale";
    let report = checks(&exported.changed(&|model| constant(model, DECODER_FILE, name).corrupt(model, 0)));
    assert!(failed(&report).contains(&"logits"), "{report:#?}");
}

/// Every third constant of all graphs, one row or vector wrong at a time. Keys' biases shift all of a query's scores alike,
/// which softmax does not see, and `no_shift` is zero.
#[test]
fn fp16_detects_wrong_constants_everywhere() {
    let exported = Exported::new(CASE, Precision::Fp16);
    let no_effect = |name: &str| {
        name.ends_with("k_bias") || name.starts_with("cross_key_0.bias") || name.ends_with("no_shift")
    };
    let all = [IMAGE_ENCODER_FILE, TEXT_ENCODER_FILE, DECODER_FILE];
    let all = all.iter().flat_map(|graph| constants(&exported.model, graph));
    let some: Vec<Constant> = all.filter(|c| !no_effect(&c.name)).step_by(3).collect();
    assert!(some.len() > 30, "{}", some.len());
    let undetected = some.iter().filter(|constant| {
        let wrong = exported.changed(&|model| constant.corrupt(model, constant.needed_row(model)));
        passed(&checks(&wrong))
    });
    assert_eq!(undetected.map(|c| c.name.as_str()).collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn nan_fails_every_tensor_it_reaches() {
    for precision in [Precision::Fp32, Precision::Fp16] {
        let exported = Exported::new(CASE, precision);
        let nan = |graph: &'static str, name: &'static str, at: usize| {
            let change =
                move |model: &ModelFolder| constant(model, graph, name).edit(model, |v| v[at] = f32::NAN);
            failed(&checks(&exported.changed(&change)))
        };
        let image = nan(IMAGE_ENCODER_FILE, "visual.ln_pre.weight", 5);
        assert_eq!(image, ["image_features", "logits", "greedy", "beam", "beam_score"], "{precision}");
        let text = nan(TEXT_ENCODER_FILE, "text.text_projection", 5);
        assert_eq!(text, ["text_features"], "{precision}");
        // One column of the vocabulary.
        let logits = nan(DECODER_FILE, "text_decoder.text_projection", 5);
        assert_eq!(logits, ["logits", "greedy", "beam", "beam_score"], "{precision}");
    }
}

#[test]
fn comparing_nothing_does_not_pass() {
    assert!(!passed(&[]));
    assert!(!passed(&[Check::unchecked("greedy", "not in the golden")]));
}
