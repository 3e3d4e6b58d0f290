//! Compares the list of a model's parameters with open_clip's files and with the exporter, which fails on missing, mis-shaped
//! and unknown tensors.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use common::{
    bundled, case, clip_case,
    random::{WIRINGS, config, write_checkpoint},
};
use recaption_onnx::{
    Precision,
    checkpoint::{Checkpoint, Dtype, Init},
    export,
};
use serde_json::json;

const CASES: [&str; 7] = ["legacy-1", "legacy-2", "square", "quickgelu", "layerscale", "nopool", "odd"];

/// Asserts that the table and the file have the same names and shapes, and that names are unique.
fn check_names(dir: &Path) {
    let checkpoint = Checkpoint::open(dir).expect("a checkpoint");
    let table = checkpoint.config.parameters();
    let wanted: BTreeMap<&str, &[usize]> =
        table.iter().map(|p| (p.name.as_str(), p.shape.as_slice())).collect();
    assert_eq!(wanted.len(), table.len(), "a name occurs twice");
    let tensors = &checkpoint.tensors;
    let found: BTreeMap<&str, &[usize]> =
        tensors.names().map(|name| (name, tensors.shape(name).expect("the tensor"))).collect();
    assert_eq!(found, wanted, "{}", dir.display());
    let count: usize = table.iter().map(recaption_onnx::checkpoint::Parameter::count).sum();
    assert_eq!(count as u64, tensors.parameters());
}

fn check(dir: &Path) {
    check_names(dir);
    let out = tempfile::tempdir().expect("temporary folder");
    export(dir, &out.path().join("model"), Precision::Fp32).expect("export");
}

#[test]
fn open_clips_files_match_the_list() {
    CASES.iter().for_each(|name| check(&case(name)));
    ["odd", "plain", "quickgelu"].iter().for_each(|name| check(&clip_case(name)));
    let siglips = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/siglip");
    let names = std::fs::read_dir(&siglips).expect("cases").map(|entry| entry.expect("an entry").path());
    let cases: Vec<std::path::PathBuf> = names.filter(|path| path.is_dir()).collect();
    assert_eq!(cases.len(), 12);
    cases.iter().for_each(|case| check(case));
    check(&bundled());
}

/// With and without packed projections, LayerScale and `ln_pre`, for every pooler and wiring.
#[test]
fn exporter_reads_what_the_list_has() {
    for wiring in WIRINGS {
        for (width, layer_scale, no_ln_pre) in [(24, None, false), (16, Some(0.5), true)] {
            let mut config = config(wiring, width);
            for section in ["vision_cfg", "text_cfg", "multimodal_cfg"] {
                config["model_cfg"][section]["ls_init_value"] = json!(layer_scale);
            }
            config["model_cfg"]["vision_cfg"]["no_ln_pre"] = json!(no_ln_pre);
            let dir = tempfile::tempdir().expect("temporary folder");
            write_checkpoint(dir.path(), &config, 3);
            check(dir.path());
            let c = Checkpoint::open(dir.path()).expect("a checkpoint").config;
            let gammas = c.parameters().into_iter().filter(|p| p.name.ends_with(".gamma"));
            let inits: BTreeSet<String> = gammas.map(|p| format!("{:?}", p.init)).collect();
            let wanted = layer_scale.map(|v| format!("{:?}", Init::Constant(v)));
            assert_eq!(inits, wanted.into_iter().collect());
        }
    }
}

#[test]
fn temperature_starts_as_configured() {
    let mut config = config(WIRINGS[0], 24);
    let scale = |config: &serde_json::Value| {
        let dir = tempfile::tempdir().expect("temporary folder");
        write_checkpoint(dir.path(), config, 3);
        check(dir.path());
        let table = Checkpoint::open(dir.path()).expect("a checkpoint").config.parameters();
        let starts = |p: &&recaption_onnx::checkpoint::Parameter| p.name.starts_with("logit_");
        table.iter().filter(starts).map(|p| (p.name.clone(), p.shape.clone(), p.init)).collect::<Vec<_>>()
    };
    let own = |name: &str, value| (name.to_owned(), Vec::new(), Init::Constant(value));
    assert_eq!(scale(&config), [own("logit_scale", (1.0 / 0.07_f64).ln() as f32)]);
    config["model_cfg"]["init_logit_scale"] = 2.25.into();
    config["model_cfg"]["init_logit_bias"] = (-10).into();
    assert_eq!(scale(&config), [own("logit_scale", 2.25), own("logit_bias", -10.0)]);
}

/// CLIP's rules, on sizes where they all differ.
#[test]
fn initial_values_are_clips() {
    let c = Checkpoint::open(&case("legacy-1")).expect("a checkpoint").config;
    let table: BTreeMap<String, Init> = c.parameters().into_iter().map(|p| (p.name, p.init)).collect();
    let is = |name: &str, std: f64| match table[name] {
        Init::Normal(got) => assert!((f64::from(got) / std - 1.0).abs() < 1e-6, "{name}: {got}, not {std}"),
        other => panic!("{name}: {other:?}"),
    };
    let power = |n: usize| (n as f64).powf(-0.5);
    let (vision, text, pixels) = (128, 64, 3 * 14 * 14);
    is("visual.class_embedding", 0.5);
    is("visual.positional_embedding", 0.5);
    is("visual.conv1.weight", power(pixels));
    is("visual.transformer.resblocks.2.attn.in_proj_weight", power(vision));
    is("visual.transformer.resblocks.2.attn.out_proj.weight", power(vision) * power(2 * 3));
    is("visual.transformer.resblocks.2.mlp.c_fc.weight", power(2 * vision));
    is("visual.transformer.resblocks.2.mlp.c_proj.weight", power(vision) * power(2 * 3));
    is("visual.attn_pool.query", 1.0);
    is("visual.attn_pool.attn.q_proj_weight", power(text));
    is("visual.attn_pool.attn.k_proj_weight", power(vision));
    is("visual.attn_pool.attn.out_proj.weight", power(text));
    is("visual.proj", power(text));
    is("text.token_embedding.weight", 0.02);
    is("text.positional_embedding", 0.01);
    is("text.cls_emb", 0.01);
    is("text.transformer.resblocks.0.attn.out_proj.weight", power(text) * power(2 * 2));
    is("text_decoder.cross_attn.0.attn.out_proj.weight", power(text) * power(2 * 3));
    is("text.text_projection", power(text));
    is("text_decoder.text_projection", power(text));
    assert_eq!(table["text.ln_final.weight"], Init::Ones);
    assert_eq!(table["visual.attn_pool.attn.in_proj_bias"], Init::Zeros);
}

/// A trainer needs these to save a file as it was.
#[test]
fn file_has_types_and_metadata() {
    let checkpoint = Checkpoint::open(&case("odd")).expect("a checkpoint");
    let tensors = &checkpoint.tensors;
    assert!(tensors.names().is_sorted());
    assert_eq!(tensors.dtype("text.cls_emb"), Some(Dtype::F16));
    assert_eq!(tensors.shape("logit_scale"), Some(&[][..]));
    assert_eq!((tensors.dtype("nothing"), tensors.shape("nothing")), (None, None));
    assert_eq!(tensors.metadata(), None);

    let dir = tempfile::tempdir().expect("temporary folder");
    write_checkpoint(dir.path(), &config(WIRINGS[0], 24), 3);
    let checkpoint = Checkpoint::open(dir.path()).expect("a checkpoint");
    let metadata = checkpoint.tensors.metadata().expect("metadata");
    assert_eq!(metadata.iter().collect::<Vec<_>>(), [(&"format".to_owned(), &"pt".to_owned())]);
}
