//! What computes, as users meet it: with the ONNX Runtime that `make test` fetches, a CPU build, on any machine.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod support;

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

/// The record tells what computed; the keys that decide whether an output is continued do not.
#[test]
fn auto_and_cpu_are_the_same_output() {
    let place = Place::new();
    let input = place.draw("in", 1, 3);
    let first = place.run(&input, "out").args(["--provider", "auto"]).ends(0).report();
    assert_eq!((&first["provider"], &first["device"]), (&json!("cpu"), &json!(null)));
    let second = place.run(&input, "out").args(["--provider", "cpu", "--device", "2"]).ends(0).report();
    assert_eq!((&second["shards_skipped"], &second["shards_done"]), (&json!(1), &json!(0)));
    // Nothing was to be done, so nothing computed.
    assert_eq!(second["provider"], json!(null));
}

/// Every graph tells who took it.
#[test]
fn graphs_tell_their_provider() {
    let place = Place::new();
    let input = place.draw("in", 1, 1);
    let said = place.run(&input, "out").args(["--log-level", "debug"]).ends(0);
    for graph in ["image_encoder", "text_encoder", "decoder"] {
        let told = said.log().into_iter().find(|line| line["graph"] == graph).expect(graph);
        assert_eq!(told["provider"], "CPU", "{told}");
        assert!(told["nodes"].as_u64().is_some_and(|nodes| nodes > 20), "{told}");
    }
}
