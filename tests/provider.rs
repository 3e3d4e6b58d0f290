//! What computes, as users meet it: with the ONNX Runtime that `make test` fetches, a CPU build, on any machine.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod support;

use recaption::{
    config::{Layers, RunConfig},
    run::{RunModel, SelfTest, self_test_with},
};
use recaption_onnx::{Bundled, Precision, export, runtime::SessionOptions, self_test::SelfTestCache};
use serde_json::json;
use support::{Place, data, model, program::recaption};

/// What is missing and how to get it, before anything is begun.
#[test]
fn a_provider_that_is_not_there_is_an_error_that_says_what_to_do() {
    let place = Place::new();
    let input = place.draw("in", 1, 3);
    for (provider, target) in
        [("cuda", "`make onnxruntime-gpu`"), ("tensorrt", "`make onnxruntime-gpu TENSORRT=1`")]
    {
        let said = place.run(&input, "out").args(["--provider", provider]).ends(1);
        said.warns(&format!("execution provider {provider} cannot be used"));
        said.warns("CPU build").warns(target).warns("ORT_DYLIB_PATH");
        assert!(!place.path("out").join("captions").exists());
        let image = data("preprocess").join("astronaut_420.jpg");
        let caption = recaption().arg("caption").arg(model()).arg(image).args(["--provider", provider]);
        caption.ends(1).warns(target);
        let golden = data("coca/square/golden.safetensors");
        recaption()
            .arg("verify")
            .arg(model())
            .arg(golden)
            .args(["--provider", provider])
            .ends(1)
            .warns(target);
    }
    place.run(&input, "out").args(["--provider", "gpu"]).ends(2).warns("one of auto, cpu, cuda, tensorrt");
}

/// The record names the provider; the keys that decide whether an output is continued do not.
#[test]
fn auto_and_cpu_are_the_same_output() {
    let place = Place::new();
    let input = place.draw("in", 1, 3);
    let first = place.run(&input, "out").args(["--provider", "auto"]).ends(0).report();
    assert_eq!((&first["provider"], &first["device"]), (&json!("cpu"), &json!(null)));
    // There is nothing to compare the CPU with.
    assert_eq!(first["self_test"], json!(null));
    let second = place.run(&input, "out").args(["--provider", "cpu", "--device", "2"]).ends(0).report();
    assert_eq!((&second["shards_skipped"], &second["shards_done"]), (&json!(1), &json!(0)));
    // Nothing was to be done, so nothing computed.
    assert_eq!(second["provider"], json!(null));
}

/// A GPU that was named is never replaced by the CPU in silence.
#[test]
fn named_gpu_that_is_not_there_is_an_error() {
    let place = Place::new();
    let input = place.draw("in", 1, 1);
    let words = "`model.device` = 0 asks for a GPU, and no GPU can be used here";
    place.run(&input, "out").args(["--device", "0"]).ends(2).warns("--device: ").warns(words);
    place
        .run(&input, "out")
        .env("RECAPTION_MODEL__DEVICE", "0")
        .ends(2)
        .warns(words)
        .warns("--provider cuda");
    // Where the CPU is asked for, a GPU's number means nothing.
    place.run(&input, "out").args(["--provider", "cpu", "--device", "0"]).ends(0);
}

/// Which provider runs each graph is logged at debug on the CPU.
#[test]
fn graphs_log_their_provider_once() {
    let place = Place::new();
    let input = place.draw("in", 1, 1);
    let said = place.run(&input, "out").args(["--log-level", "debug"]).ends(0);
    let chosen = said.log().into_iter().filter_map(|l| l["message"].as_str().map(str::to_owned));
    assert_eq!(chosen.filter(|m| m.starts_with("provider auto: using the CPU")).count(), 1);
    for graph in ["image_encoder", "text_encoder", "decoder"] {
        // Once, however many copies of the model there are.
        let mut lines =
            said.log().into_iter().filter(|l| l["message"] == "graph loaded" && l["graph"] == graph);
        let line = lines.next().expect(graph);
        assert_eq!(lines.count(), 0);
        assert_eq!(line["provider"], "CPU", "{line}");
        assert!(line["nodes"].as_u64().is_some_and(|nodes| nodes > 20), "{line}");
    }
}

/// The CPU stands in for a GPU: its memory, graphs and bindings.
#[test]
fn a_run_tests_its_device_once() {
    let place = Place::new();
    let checkpoint = place.path("checkpoint");
    Bundled::Base.write_checkpoint(&checkpoint).expect("the bundled checkpoint");
    let captioner = place.path("captioner");
    export(&checkpoint, &captioner, Precision::Fp16).expect("an export");
    let mut layers = Layers::default();
    for (key, value) in [
        ("model.captioner", captioner.display().to_string()),
        ("model.scorer", model().display().to_string()),
        ("input.shards", "-".into()),
        ("output.url", "-".into()),
    ] {
        layers.set(key, value, "the test").expect("a known key");
    }
    let config = RunConfig::build(&layers).expect("a configuration");
    assert!(config.resources.self_test);
    let models = RunModel::open(&config).expect("models");
    assert!(models.scorer.is_some());
    let cpu = SessionOptions::on_cpu(2);
    let device = SessionOptions { emulate_device: true, ..cpu };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let test = |is_on, options| {
        let cache = SelfTestCache::at(&place.path("cache"));
        runtime.block_on(self_test_with(is_on, &models, options, cache)).expect("equal results")
    };
    assert_eq!(test(true, cpu), None);
    assert_eq!(test(false, device), Some(SelfTest::Off));
    assert_eq!(test(true, device), Some(SelfTest::Passed));
    assert_eq!(test(true, device), Some(SelfTest::Remembered));
    let written = [SelfTest::Passed, SelfTest::Remembered, SelfTest::Off].map(|state| json!(state));
    assert_eq!(written, [json!("passed"), json!("remembered"), json!("off")]);
}

/// Whether it is on changes no row: the output is continued.
#[test]
fn the_self_test_can_be_switched_off() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    place.run(&input, "out").ends(0);
    let again = place.run(&input, "out").set("run.self_test=false").ends(0).report();
    assert_eq!(again["shards_skipped"], json!(1));
    place.run(&input, "out").set("run.self_test=maybe").ends(2).warns("run.self_test");
}
