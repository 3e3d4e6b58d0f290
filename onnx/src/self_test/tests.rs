//! The device is emulated on the CPU: its memory, graphs and bindings, with a model folder that has something wrong.

use std::time::Duration;

use super::*;
use crate::{
    Precision,
    corrupt_models::{
        Constant, Exported, constants, edit_graph, lengthen_rows, rescale_attention, swap_cross,
    },
    export,
    model::{DECODER_FILE, IMAGE_ENCODER_FILE, TEXT_ENCODER_FILE},
};

const DEVICE: SessionOptions = SessionOptions { emulate_device: true, ..SessionOptions::on_cpu(1) };

/// A CLIP, exported into a temporary folder.
fn clip() -> (tempfile::TempDir, ModelFolder) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let checkpoint = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/clip/plain");
    let model = export(&checkpoint, &dir.path().join("clip"), Precision::Fp16).expect("export");
    (dir, model)
}

#[test]
fn correct_device_passes_in_every_precision_and_shape() {
    let (_dir, scorer) = clip();
    for name in ["square", "nopool", "odd", "legacy-2"] {
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
            let exported = Exported::new(name, precision);
            let report = self_test(&exported.model, None, &DEVICE).expect("equal");
            println!("{name} {precision}: {report}");
            let graphs: Vec<Graph> = report.results.iter().map(|result| result.graph).collect();
            let captioner = [Graph::ImageEncoder, Graph::Decoder, Graph::ImageEncoder, Graph::TokenSelection];
            assert_eq!(graphs[..4], captioner);
            assert_eq!(graphs[4..], [Graph::ScorerTextEncoder]);
            assert!(report.results[1].rows > 20 && report.results[3].rows == 3, "{report}");
        }
    }
    let exported = Exported::new("square", Precision::Fp16);
    let report = self_test(&exported.model, Some(&scorer), &DEVICE).expect("equal");
    let graphs: Vec<Graph> = report.results.iter().map(|result| result.graph).collect();
    assert_eq!(graphs[4..], [Graph::ScorerImageEncoder, Graph::ScorerTextEncoder]);
}

#[test]
fn matching_heads_are_compared_as_a_run_uses_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let checkpoint = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/blip/retrieval");
    let scorer = export(&checkpoint, &dir.path().join("scorer"), Precision::Fp32).expect("export");
    let exported = Exported::new("square", Precision::Fp32);
    let report = self_test(&exported.model, Some(&scorer), &DEVICE).expect("equal");
    let graphs: Vec<Graph> = report.results.iter().map(|result| result.graph).collect();
    assert_eq!(graphs[4..], [Graph::ScorerImageEncoder, Graph::ScorerTextEncoder, Graph::ScorerFusion]);
    assert_eq!(report.results[6].rows, 9, "every image with every text: {report}");
}

/// What is wrong on the device, and the graph that the error names.
type Fault = (&'static str, Graph, Box<dyn Fn(&ModelFolder)>);

fn faults() -> Vec<Fault> {
    let corrupt = |graph: &'static str, name: &'static str| -> Box<dyn Fn(&ModelFolder)> {
        Box::new(move |model| {
            let all = constants(model, graph);
            let constant: &Constant = all.iter().find(|c| c.name.starts_with(name)).expect("the constant");
            constant.corrupt(model, constant.needed_row(model));
        })
    };
    let edit = |change: fn(&mut crate::proto::GraphProto)| -> Box<dyn Fn(&ModelFolder)> {
        Box::new(move |model| edit_graph(model, DECODER_FILE, change))
    };
    vec![
        ("scale, image", Graph::ImageEncoder, corrupt(IMAGE_ENCODER_FILE, "visual.ln_post.weight")),
        ("scale, decoder", Graph::Decoder, corrupt(DECODER_FILE, "text_decoder.ln_final.weight")),
        ("bias, text", Graph::ScorerTextEncoder, corrupt(TEXT_ENCODER_FILE, "text.ln_final.weight")),
        ("keys and values", Graph::Decoder, edit(swap_cross)),
        ("attention's scale", Graph::Decoder, edit(|graph| rescale_attention(graph, 8.0))),
        // The fault that a CUDA kernel had: correct if all rows are at the same position.
        ("rows at unlike positions", Graph::Decoder, edit(lengthen_rows)),
    ]
}

#[test]
fn wrong_device_fails_with_all_details() {
    for precision in [Precision::Fp32, Precision::Fp16] {
        let exported = Exported::new("square", precision);
        let right = Models { captioner: &exported.model, scorer: None };
        for (what, graph, fault) in faults() {
            let wrong = exported.changed(&*fault);
            let place = TestEnvironment::of(&wrong, None, &DEVICE).expect("ONNX Runtime").place(&DEVICE);
            let models = Models { captioner: &wrong, scorer: None };
            let error = compare_sides(right, models, &DEVICE, &place).expect_err(what);
            println!("{precision}, {what}: {error}");
            let SelfTestError::Differs { graph: named, .. } = &error else { panic!("{what}: {error}") };
            assert_eq!(*named, graph, "{precision}, {what}: {error}");
            let text = error.to_string();
            let folder = wrong.dir.display().to_string();
            for word in
                ["self-test failed", "cpu as a device", "ONNX Runtime 1.", &folder, &graph.to_string()]
            {
                assert!(text.contains(word), "{word}: {text}");
            }
            assert!(!text.contains('\n'));
        }
    }
}

#[test]
fn wrong_scorer_is_named() {
    let (dir, scorer) = clip();
    let exported = Exported::new("square", Precision::Fp16);
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("folder");
    for file in std::fs::read_dir(&scorer.dir).expect("folder") {
        let file = file.expect("file");
        std::fs::copy(file.path(), other.join(file.file_name())).expect("copied");
    }
    let wrong = ModelFolder::open(&other).expect("a model");
    let all = constants(&wrong, IMAGE_ENCODER_FILE);
    all.iter().find(|c| c.name.ends_with("ln_post.weight")).expect("a scale").corrupt(&wrong, 0);
    let models = |scorer| Models { captioner: &exported.model, scorer: Some(scorer) };
    let error = compare_sides(models(&scorer), models(&wrong), &DEVICE, "a device").expect_err("wrong");
    let text = error.to_string();
    assert!(text.contains("(scorer)") && text.contains("other") && text.contains("a device"), "{text}");
}

#[test]
fn graph_that_does_not_load_is_named() {
    let exported = Exported::new("square", Precision::Fp16);
    let broken = exported.changed(&|model| {
        std::fs::write(model.path(TEXT_ENCODER_FILE), b"no graph").expect("written");
    });
    let models = |captioner| Models { captioner, scorer: None };
    let error =
        compare_sides(models(&exported.model), models(&broken), &DEVICE, "a device").expect_err("broken");
    assert!(matches!(error, SelfTestError::Fails { graph: Graph::ScorerTextEncoder, .. }), "{error}");
}

#[test]
fn only_devices_need_a_self_test() {
    assert!(is_needed(&DEVICE) && !is_needed(&SessionOptions::on_cpu(4)));
}

#[test]
fn pass_is_cached_for_the_same_models_only() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let cache = SelfTestCache::at(dir.path());
    let exported = Exported::new("square", Precision::Fp16);
    let other = Exported::new("odd", Precision::Fp16);
    let test = |model: &Exported, cache: &SelfTestCache| {
        cached_self_test(&model.model, None, &DEVICE, cache).expect("equal")
    };
    assert_eq!(test(&exported, &cache), Passed::Now);
    assert_eq!(test(&exported, &cache), Passed::Earlier);
    assert_eq!(test(&other, &cache), Passed::Now);
    // Files with other contents are ignored.
    for entry in std::fs::read_dir(dir.path().join("self-test")).expect("folder") {
        std::fs::write(entry.expect("file").path(), b"{}").expect("written");
    }
    assert_eq!(test(&exported, &cache), Passed::Now);
    assert_eq!(test(&exported, &cache), Passed::Earlier);
    // Without a cache folder the test is repeated.
    let file = dir.path().join("file");
    std::fs::write(&file, b"").expect("written");
    let unwritable = SelfTestCache::at(&file);
    assert_eq!(test(&exported, &unwritable), Passed::Now);
    assert_eq!(test(&exported, &unwritable), Passed::Now);
}

#[test]
fn failure_is_not_cached() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let exported = Exported::new("square", Precision::Fp16);
    let broken = exported.changed(&|model| {
        std::fs::write(model.path(DECODER_FILE), b"no graph").expect("written");
    });
    let cache = SelfTestCache::at(dir.path());
    assert!(cached_self_test(&broken, None, &DEVICE, &cache).is_err());
    assert!(!dir.path().join("self-test").exists());
}

#[test]
fn every_change_of_environment_counts() {
    let exported = Exported::new("square", Precision::Fp16);
    let dir = tempfile::tempdir().expect("temporary folder");
    let cache = SelfTestCache::at(dir.path());
    let of =
        |options: &SessionOptions| TestEnvironment::of(&exported.model, None, options).expect("ONNX Runtime");
    let known = TestEnvironment {
        provider: "cuda".into(),
        driver: Some("580.95.05".into()),
        gpu: Some("NVIDIA H100".into()),
        ..of(&DEVICE)
    };
    cache.store(&known, &SelfTestReport { results: Vec::new(), duration: Duration::ZERO });
    assert!(cache.contains(&known));
    let text = |value: &str| Some(value.to_owned());
    for changed in [
        TestEnvironment { models: vec!["other".into()], ..known.clone() },
        TestEnvironment { version: "0.0.1".into(), ..known.clone() },
        TestEnvironment { provider: "tensorrt".into(), ..known.clone() },
        TestEnvironment { cuda_graphs: !known.cuda_graphs, ..known.clone() },
        TestEnvironment { runtime: text("1.32.0"), ..known.clone() },
        TestEnvironment { runtime_build: "another commit".into(), ..known.clone() },
        TestEnvironment { driver: text("590.10"), ..known.clone() },
        TestEnvironment { gpu: text("NVIDIA A10G"), ..known.clone() },
    ] {
        assert!(!cache.contains(&changed), "{changed:?}");
    }
    // Nothing is cached for a GPU of unknown model or driver.
    let gpu = SessionOptions { execution: crate::runtime::Execution::Cuda { device: 1 }, ..DEVICE };
    assert!(known.is_known(&gpu) && !TestEnvironment { gpu: None, ..known.clone() }.is_known(&gpu));
    assert!(!TestEnvironment { driver: None, ..known.clone() }.is_known(&gpu));
    let place = known.place(&gpu);
    assert!(place.starts_with("cuda (GPU 1, NVIDIA H100, driver 580.95.05, ONNX Runtime "), "{place}");
}
