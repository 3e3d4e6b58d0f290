//! The contract of a model folder: files, and every graph's inputs and outputs by name, type and shape.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use prost::Message;

use super::*;
use crate::{
    Bundled,
    checkpoint::{Checkpoint, ModelConfig},
    model::{DECODER_FILE, IMAGE_ENCODER_FILE, TEXT_ENCODER_FILE},
    proto::{
        ModelProto, ValueInfoProto, tensor_proto::DataLocation, tensor_shape_proto::dimension, type_proto,
    },
};

struct Exported {
    _dir: tempfile::TempDir,
    config: ModelConfig,
    model: ModelFolder,
    graphs: BTreeMap<String, ModelProto>,
}

fn exported(precision: Precision) -> Exported {
    let dir = tempfile::tempdir().expect("temporary folder");
    let checkpoint = dir.path().join("checkpoint");
    Bundled::Base.write_checkpoint(&checkpoint).expect("written");
    let model = export(&checkpoint, &dir.path().join("model"), precision).expect("export");
    let graphs = [IMAGE_ENCODER_FILE, TEXT_ENCODER_FILE, DECODER_FILE]
        .iter()
        .map(|name| {
            let bytes = std::fs::read(model.path(name)).expect("graph");
            ((*name).to_owned(), ModelProto::decode(bytes.as_slice()).expect("a model"))
        })
        .collect();
    let config = Checkpoint::open(&checkpoint).expect("a checkpoint").config;
    Exported { _dir: dir, config, model, graphs }
}

/// `name: type[dimensions]`.
fn describe_value(value: &ValueInfoProto) -> String {
    let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        panic!("{value:?} is no tensor")
    };
    let kind = match tensor.elem_type {
        Some(1) => "f32",
        Some(2) => "u8",
        Some(7) => "i64",
        Some(10) => "f16",
        other => panic!("type {other:?}"),
    };
    let dims = tensor.shape.iter().flat_map(|s| &s.dim).map(|d| match &d.value {
        Some(dimension::Value::DimValue(n)) => n.to_string(),
        Some(dimension::Value::DimParam(name)) => name.clone(),
        None => "?".into(),
    });
    format!("{}: {kind}[{}]", value.name(), dims.collect::<Vec<_>>().join(", "))
}

fn check(precision: Precision, real: &str) {
    let exported = exported(precision);
    let expect = |file: &str, inputs: Vec<String>, outputs: Vec<String>| {
        let graph = exported.graphs[file].graph.as_ref().expect("a graph");
        assert_eq!(graph.input.iter().map(describe_value).collect::<Vec<_>>(), inputs, "{file}");
        let set = |values: Vec<String>| values.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(set(graph.output.iter().map(describe_value).collect()), set(outputs), "{file}");
        let opsets: Vec<_> =
            exported.graphs[file].opset_import.iter().map(|o| (o.domain(), o.version())).collect();
        assert!(opsets.contains(&("", 23)), "{opsets:?}");
    };
    let c = &exported.config;
    let (side, embedding, vocabulary) = (c.vision.image_size, c.embed_dim, c.text.vocab_size);
    let (tokens, decoder) = (c.image_tokens(), c.decoder.expect("a CoCa"));
    let (width, heads) = (decoder.width, decoder.heads);
    let both = |name: &str, i: usize, shape: &str| {
        ["key", "value"].map(|what| format!("{name}_{what}_{i}: {real}[{shape}]"))
    };
    let cross_shape = format!("images, {tokens}, {width}");
    let cross: Vec<String> = (0..decoder.layers).flat_map(|i| both("cross", i, &cross_shape)).collect();
    // Text tower and decoder are of one width and have as many heads.
    let cache_shape = format!("rows, {heads}, cache, {}", width / heads);
    let cached = c.text.layers + decoder.layers;
    let caches =
        |time: &str| -> Vec<String> { (0..cached).flat_map(|i| both(time, i, &cache_shape)).collect() };
    let one = |text: &str| vec![text.to_owned()];
    expect(
        "image_encoder.onnx",
        one(&format!("pixels: u8[images, {side}, {side}, 3]")),
        [one(&format!("image_features: f32[images, {embedding}]")), cross.clone()].concat(),
    );
    expect(
        "text_encoder.onnx",
        one("ids: i64[images, tokens]"),
        one(&format!("text_features: f32[images, {embedding}]")),
    );
    expect(
        "decoder.onnx",
        [one("ids: i64[rows, 1]"), one("positions: i64[rows, 1]"), cross, caches("past")].concat(),
        [one(&format!("logits: f32[rows, {vocabulary}]")), caches("present")].concat(),
    );
}

#[test]
fn graphs_in_single_precision_keep_the_contract() {
    check(Precision::Fp32, "f32");
}

#[test]
fn graphs_in_half_precision_keep_the_contract() {
    check(Precision::Fp16, "f16");
}

#[test]
fn graphs_in_8_bits_keep_the_contract() {
    check(Precision::Int8, "f32");
}

#[test]
fn the_folder_describes_itself() {
    let exported = exported(Precision::Fp32);
    let spec = &exported.model.spec;
    let mut names: Vec<&str> = spec.files.iter().map(|f| f.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, [DECODER_FILE, IMAGE_ENCODER_FILE, TEXT_ENCODER_FILE, TOKENIZER_FILE, WEIGHTS_FILE]);
    for file in &spec.files {
        let bytes = std::fs::read(exported.model.path(&file.name)).expect("file");
        assert_eq!((file.size, &file.sha256), (bytes.len() as u64, &sha256_hex(&bytes)), "{}", file.name);
    }
    assert_eq!((spec.architecture.as_str(), spec.opset, spec.image_size), ("coca", 23, 96));
    assert_eq!((spec.special_ids.pad, spec.special_ids.start, spec.special_ids.end), (0, 510, 511));
    let weights =
        std::fs::read(exported._dir.path().join("checkpoint").join(Checkpoint::WEIGHTS)).expect("weights");
    assert_eq!(spec.source_sha256, sha256_hex(&weights));
}

/// What the graphs refer to in the weights file: offset and length by tensor name.
fn stored(exported: &Exported) -> BTreeMap<String, Vec<(String, u64, u64)>> {
    let mut found: BTreeMap<String, Vec<(String, u64, u64)>> = BTreeMap::new();
    for (file, model) in &exported.graphs {
        for tensor in &model.graph.as_ref().expect("a graph").initializer {
            if tensor.data_location() != DataLocation::External {
                continue;
            }
            let entry = |key: &str| {
                tensor
                    .external_data
                    .iter()
                    .find(|e| e.key() == key)
                    .map(|e| e.value().to_owned())
                    .expect("an entry")
            };
            assert_eq!(entry("location"), WEIGHTS_FILE);
            let number = |key: &str| entry(key).parse::<u64>().expect("a number");
            let element = match tensor.data_type() {
                3 => 1,
                10 => 2,
                _ => 4,
            };
            assert_eq!(
                number("length"),
                element * tensor.dims.iter().product::<i64>() as u64,
                "{}",
                tensor.name()
            );
            assert_eq!(number("offset") % 16, 0, "{} is not aligned", tensor.name());
            found.entry(tensor.name().to_owned()).or_default().push((
                file.clone(),
                number("offset"),
                number("length"),
            ));
        }
    }
    found
}

#[test]
fn weights_are_stored_once() {
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
        let exported = exported(precision);
        let stored = stored(&exported);
        let size = std::fs::metadata(exported.model.path(WEIGHTS_FILE)).expect("weights").len();
        for (name, places) in &stored {
            for (file, offset, length) in places {
                assert!(offset + length <= size, "{file}: {name} ends outside");
                assert_eq!((offset, length), (&places[0].1, &places[0].2), "{name} is stored twice");
            }
        }
        // The text tower serves two graphs.
        let linear = if precision == Precision::Int8 { ".int8" } else { "" };
        for name in ["text.token_embedding.weight", "text.transformer.resblocks.0.mlp.c_fc.weight"] {
            let linear = if name.contains("mlp") { linear } else { "" };
            let files: Vec<&str> = stored[&format!("{name}{linear}")].iter().map(|p| p.0.as_str()).collect();
            assert_eq!(files, [DECODER_FILE, TEXT_ENCODER_FILE], "{name}");
        }
        // Nothing unused, nothing twice: the bytes referred to are the file, but for alignment.
        let mut ranges: Vec<(u64, u64)> = stored.values().flatten().map(|p| (p.1, p.1 + p.2)).collect();
        ranges.sort_unstable();
        let mut end = 0;
        let mut referred = 0;
        for (from, to) in ranges {
            assert!(from < end || from - end < 64, "{} bytes at {end} belong to nothing", from - end);
            referred += to.max(end) - from.max(end);
            end = to.max(end);
        }
        assert_eq!(end, size);
        // Cross keys and values, folded normalisation and projected queries replace tensors of like size.
        let source = match precision {
            Precision::Fp32 => exported.model.spec.parameters * 4,
            Precision::Fp16 => exported.model.spec.parameters * 2,
            // Embeddings, scales, the small projections and the patch embedding stay single.
            Precision::Int8 => {
                let vision = &exported.config.vision;
                let patch = (vision.width * 3 * vision.patch_size * vision.patch_size) as u64;
                (exported.model.spec.parameters - patch) * 3 / 2 + 4 * patch
            }
        };
        println!("{precision}: {referred} bytes referred to, {size} stored, {source} in the checkpoint");
        assert!(size < source + source / 20, "{size} bytes for {source} of parameters");
    }
}

/// Operators of a graph and how many there are of each.
fn operators(exported: &Exported, file: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in &exported.graphs[file].graph.as_ref().expect("a graph").node {
        *counts.entry(node.op_type().to_owned()).or_default() += 1;
    }
    counts
}

/// Read from the files, by their own bytes: every graph in every precision keeps host and device apart.
#[test]
fn written_graphs_keep_host_and_device_apart() {
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
        let mut exported = exported(precision);
        for (file, model) in &exported.graphs {
            let graph = model.graph.as_ref().expect("a graph");
            host_inputs::check(graph, &HashSet::new()).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        // As it was when captions were wrong on a GPU.
        let decoder =
            exported.graphs.get_mut(DECODER_FILE).expect("a decoder").graph.as_mut().expect("a graph");
        let total =
            decoder.node.iter().find(|n| n.op_type() == "GroupQueryAttention").expect("one").input[6].clone();
        let node = decoder.node.iter_mut().find(|n| n.output.contains(&total)).expect("its source");
        node.input = vec!["positions".into()];
        let error = host_inputs::check(decoder, &HashSet::new()).expect_err("device data").to_string();
        assert!(error.contains("GroupQueryAttention") && error.contains("input 6"), "{error}");
    }
}

#[test]
fn half_precision_is_built_of_fused_operators() {
    let (fp32, fp16) = (exported(Precision::Fp32), exported(Precision::Fp16));
    let c = &fp16.config;
    let decoder_layers = c.decoder.expect("a CoCa").layers;
    let decoder_blocks = c.text.layers + 2 * decoder_layers;
    for (file, blocks, attention) in [
        (IMAGE_ENCODER_FILE, c.vision.layers, c.vision.layers),
        (DECODER_FILE, decoder_blocks, decoder_layers),
    ] {
        let (plain, fused) = (operators(&fp32, file), operators(&fp16, file));
        println!(
            "{file}: {} nodes in fp32, {} in fp16",
            plain.values().sum::<usize>(),
            fused.values().sum::<usize>()
        );
        let count = |operator: &str| fused.get(operator).copied().unwrap_or(0);
        for gone in ["Gemm", "Gelu", "Attention"] {
            assert!(plain.contains_key(gone), "{file} has {gone} in fp32: {plain:?}");
            assert_eq!(count(gone), 0, "{file}: {gone}");
        }
        assert_eq!(count("BiasGelu"), blocks, "{file}");
        assert_eq!(count("MultiHeadAttention"), attention, "{file}");
        // Every residual but the first is added where it is normalised: two to a block, the last by the final norm.
        assert_eq!(count("SkipLayerNormalization"), 2 * blocks, "{file}");
    }
    // Queries alone keep their bias: keys' is without effect, values' is part of the output's.
    let biases = operators(&fp16, IMAGE_ENCODER_FILE)["Add"];
    assert!(biases <= c.vision.layers + 2, "{biases} additions");
}

/// The reference case of many tokens is one of the other operator, in every precision.
#[test]
fn attention_follows_the_number_of_tokens() {
    for (case, fused) in [("tied", false), ("many-tokens", true)] {
        for precision in [Precision::Fp32, Precision::Int8] {
            let dir = tempfile::tempdir().expect("temporary folder");
            let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/blip").join(case);
            let model = export(&checkpoint, &dir.path().join("model"), precision).expect("export");
            let bytes = std::fs::read(model.path(IMAGE_ENCODER_FILE)).expect("graph");
            let graph = ModelProto::decode(bytes.as_slice()).expect("a model").graph.expect("a graph");
            let count = |operator: &str| graph.node.iter().filter(|node| node.op_type() == operator).count();
            let want = if fused { (0, 2) } else { (2, 0) };
            assert_eq!((count("Attention"), count("MultiHeadAttention")), want, "{case} {precision}");
        }
    }
}
