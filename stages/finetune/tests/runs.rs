//! Whole runs of the program: their files, and what the same or another command does to them.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use common::{Call, SAMPLES, Workspace, bundled, same_numbers};
use recaption_finetune::{
    data::{Caption, Format, Inputs, Loader, LoaderSettings, Position},
    open_clip::OpenClip,
    run::{MetricsLine, read_metrics},
};
use recaption_onnx::{ModelFolder, Precision, export, model::SpecialIds, tokenizer::Tokenizer};
use recaption_schemas::sha256_hex;

#[test]
fn run_writes_model_export_metrics_and_card() {
    let workspace = Workspace::new();
    let ended = workspace.call("out", &[&workspace.validated()]).ends(0);
    ended
        .prints("model")
        .prints("(step")
        .prints("ok image_features")
        .prints("ok text_features")
        .prints("ok logits");
    ended.prints("held out  8 samples");
    let names = workspace.names("out");
    for name in ["best", "checkpoints", "metrics.csv", "metrics.jsonl", "model", "onnx"] {
        assert!(names.iter().any(|n| n == name), "{name} is missing: {names:?}");
    }
    assert!(names.iter().all(|n| !n.contains("partial")), "{names:?}");
    assert_eq!(
        workspace.names("out/checkpoints"),
        ["step-00000009.safetensors", "step-00000012.safetensors"]
    );

    // The model reads back, and came from the weights that it began with.
    let model = workspace.path("out/model");
    let back = OpenClip::read(&model).expect("a trained model");
    assert!(back.values.iter().flatten().all(|v| v.is_finite()));
    assert_eq!(
        workspace.read("out/model/open_clip_config.json"),
        workspace.read("start/open_clip_config.json")
    );
    assert_eq!(workspace.read("out/model/tokenizer.json"), workspace.read("start/tokenizer.json"));
    ModelFolder::open(&workspace.path("out/onnx")).expect("an export");

    // A line per step, three validations, and the same in the table.
    let lines = read_metrics(&workspace.path("out/metrics.jsonl"));
    let steps: Vec<u64> = lines
        .iter()
        .filter_map(|l| match l {
            MetricsLine::Train(l) => Some(l.step),
            MetricsLine::Validation(_) => None,
        })
        .collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    let validations: Vec<_> = lines
        .iter()
        .filter_map(|l| match l {
            MetricsLine::Validation(l) => Some((l.step, l.samples)),
            MetricsLine::Train(_) => None,
        })
        .collect();
    assert_eq!(validations, [(4, 8), (8, 8), (12, 8)]);
    let table = String::from_utf8(workspace.read("out/metrics.csv")).expect("text");
    let columns: BTreeSet<usize> = table.lines().map(|l| l.split(',').count()).collect();
    assert_eq!((table.lines().count(), columns), (16, BTreeSet::from([10])), "{table}");
    let losses = workspace.losses("out");
    assert!(losses[11][1] < losses[0][1], "it learns nothing: {losses:?}");
}

#[test]
fn card_describes_the_model_with_true_digests() {
    let workspace = Workspace::new();
    workspace.call("out", &[&workspace.validated()]).ends(0);
    let card = String::from_utf8(workspace.read("out/model/README.md")).expect("text");
    let mut checked = 0;
    for line in card.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells.get(2).is_none_or(|cell| cell.len() != 64) {
            continue;
        }
        let file = match cells[1] {
            "ONNX export (fp32), model.json" => "out/onnx/model.json".to_owned(),
            name => format!("out/model/{name}"),
        };
        assert_eq!(cells[2], sha256_hex(&workspace.read(&file)), "{file}");
        checked += 1;
    }
    assert_eq!(checked, 4, "{card}");
    for words in
        ["library_name: open_clip", "12 of 12 steps of 8 samples", "ok logits", "[optimizer]", "0.003"]
    {
        assert!(card.contains(words), "the card lacks {words}:\n{card}");
    }
}

#[test]
fn finished_run_is_not_trained_again() {
    let workspace = Workspace::new();
    let call = workspace.call("out", &[&workspace.validated()]);
    let first = call.ends(0);
    let (weights, metrics) = (workspace.weights("out"), workspace.metrics("out"));
    let second = call.ends(0);
    second.check(first.stdout == second.stdout, &format!("the earlier output was: {}", first.stdout));
    assert!(workspace.weights("out") == weights, "other weights");
    same_numbers(&workspace.metrics("out"), &metrics);
}

#[test]
fn patience_stops_a_run_and_keeps_the_best() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    let ended = impatient(&workspace, &validations).ends(0);
    ended.warns("stopped early");
    let lines = read_metrics(&workspace.path("out/metrics.jsonl"));
    let validations: Vec<_> = lines
        .iter()
        .filter_map(|l| match l {
            MetricsLine::Validation(l) => Some(l.clone()),
            MetricsLine::Train(_) => None,
        })
        .collect();
    let last = validations.last().expect("validations");
    let loss = |l: &recaption_finetune::run::ValidationLine| l.contrastive_loss + l.caption_loss;
    let best = validations.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).expect("one");
    assert!(last.step < 40, "{validations:?}");
    assert_eq!(last.step, best.step + 4, "two validations without a better one: {validations:?}");
    ended.prints(&format!("(step {})", best.step));
    assert!(
        workspace.weights("out")
            == workspace.read(&format!("out/best/step-{:08}/open_clip_model.safetensors", best.step))
    );
}

/// Returns a run into `out` whose steps are so large that it soon runs out of patience.
fn impatient(workspace: &Workspace, validations: &str) -> Call {
    let wild = [
        "run.patience=2",
        "run.validate_every=2",
        "optimizer.steps=40",
        "optimizer.lr=0.3",
        "optimizer.warmup_steps=0",
    ];
    workspace.call("out", &[&wild[..], &[validations]].concat())
}

#[test]
fn run_out_of_patience_stays_stopped() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    let call = impatient(&workspace, &validations);
    call.ends(0);
    let (weights, metrics) = (workspace.weights("out"), workspace.metrics("out"));
    let again = call.ends(0);
    again.never_warns("training step=");
    same_numbers(&workspace.metrics("out"), &metrics);
    again.check(workspace.weights("out") == weights, "the same command changed the model");
}

#[test]
fn other_recipe_needs_overwrite() {
    let workspace = Workspace::new();
    workspace.call("out", &[]).ends(0);
    let before = (workspace.weights("out"), workspace.read("out/metrics.jsonl"));
    for (change, was) in [
        ("optimizer.lr=1e-3", "optimizer.lr was 0.003, is 0.001"),
        ("data.shuffle_buffer=13", "data.shuffle_buffer was 12, is 13"),
        ("model.freeze=[\"image\"]", "model.freeze was [], is [\"image\"]"),
        ("run.micro_batch=4", "run.micro_batch was null, is 4"),
        ("optimizer.steps=24", "a run cannot be extended; to train on, begin a run"),
        ("data.crop={scale=[0.9,1.0]}", "data.crop was null"),
    ] {
        let ended = workspace.call("out", &[change]).ends(2);
        ended.warns(was).warns("--overwrite").warns("run.out");
    }
    assert!(
        before == (workspace.weights("out"), workspace.read("out/metrics.jsonl")),
        "a refused run changed something"
    );
    // What changes no weight is no other recipe; nor is one that overwrites.
    workspace.call("out", &["run.checkpoint_every=5", "run.log_every=2", "data.cache_bytes=0"]).ends(0);
    let fresh = ["optimizer.lr=1e-3", "optimizer.steps=5"];
    workspace.call("out", &fresh).arg("--overwrite").ends(0);
    workspace.call("fresh", &fresh).ends(0);
    assert_eq!(workspace.metrics("fresh"), workspace.metrics("out"));
    assert!(workspace.weights("fresh") == workspace.weights("out"), "--overwrite gave another model");
}

/// The overwriting run is shorter than the old one and is stopped: its own checkpoints must be kept.
#[test]
fn overwriting_run_can_be_stopped_and_continued() {
    let workspace = Workspace::new();
    workspace.call("out", &[]).ends(0);
    let fresh = ["optimizer.lr=1e-3", "optimizer.steps=10", "run.checkpoint_every=2"];
    let call = workspace.call("out", &fresh);
    let lines = || workspace.read("out/metrics.jsonl").iter().filter(|b| **b == b'\n').count();
    call.clone().arg("--overwrite").signal("-TERM", || lines() < 9 && lines() >= 3).ends(1);
    let ended = call.ends(0);
    ended.warns("continuing from a checkpoint");
    workspace.call("calm", &fresh).ends(0);
    same_numbers(&workspace.metrics("calm"), &workspace.metrics("out"));
    assert!(
        workspace.weights("calm") == workspace.weights("out"),
        "--overwrite and a stop gave another model"
    );
    assert_eq!(workspace.names("calm/checkpoints"), workspace.names("out/checkpoints"));
}

/// Killed before its first checkpoint, the overwriting run must not be taken for the old, finished one.
#[test]
fn killed_overwriting_run_is_not_the_old_one() {
    let workspace = Workspace::new();
    let call = workspace.call("out", &["optimizer.steps=200", "run.checkpoint_every=50"]);
    call.ends(0);
    let lines = || workspace.read("out/metrics.jsonl").iter().filter(|b| **b == b'\n').count();
    let killed = call.clone().arg("--overwrite").signal("-KILL", || (10..40).contains(&lines()));
    killed.check(killed.code.is_none(), "it was not killed");
    let ended = call.ends(0);
    ended.warns("training step=1 ");
    assert_eq!(lines(), 200, "lines of metrics.jsonl after all");
}

/// A recipe is compared with its JSON in the checkpoint.
#[test]
fn recipe_numbers_round_trip_exactly() {
    let workspace = Workspace::new();
    let call = workspace.call("out", &["optimizer.lr=0.00017142857142857143", "optimizer.steps=2"]);
    call.ends(0);
    call.ends(0);
}

/// Captions the shards with the bundled captioner by the library, images embedded.
fn caption_with_images(workspace: &Workspace, output: &str) {
    let model = workspace.path("captioner");
    export(&bundled(), &model, Precision::Fp32).expect("an export");
    let mut layers = recaption::config::Layers::default();
    let text = |path: &Path| path.display().to_string();
    for (key, value) in [
        ("model.captioner", text(&model)),
        ("input.shards", text(&workspace.path("train/*.tar"))),
        ("output.url", text(&workspace.path(output))),
        ("output.images", "embed".into()),
    ] {
        layers.set(key, value, "test").expect("a key");
    }
    let config = recaption::config::RunConfig::build(&layers).expect("a configuration");
    let options = recaption::run::RunOptions::default();
    let stop = Arc::new(recaption::run::Stop::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let run = recaption::run::run(&config, options, &stop, &recaption::run::Reporter::Silent);
    runtime.block_on(run).expect("captions");
}

/// Loads batches of the inputs: keys, ids and pixels.
fn batches(
    pattern: &Path,
    format: Format,
    caption: Caption,
    count: usize,
) -> Vec<recaption_finetune::batch::Batch> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let pattern = [pattern.display().to_string()];
    let inputs = runtime.block_on(Inputs::list(&pattern, format, caption)).expect("inputs");
    let model = OpenClip::read(&bundled()).expect("a checkpoint");
    let special = SpecialIds { pad: 0, start: 510, end: 511 };
    let tokenizer =
        Tokenizer::from_file(&bundled().join("tokenizer.json"), special, 36, 512).expect("a tokenizer");
    let settings = LoaderSettings {
        batch_size: 10,
        window: 15,
        group_similar: 1,
        seed: 2,
        preprocess: model.config.preprocess,
        decode: recaption_image::DecodeOptions::default(),
        crop: None,
        cache_bytes: 0,
    };
    let loader = Loader::start(Arc::new(inputs), Arc::new(tokenizer), settings, Position::default())
        .expect("a loader");
    (0..count).map(|_| loader.next().expect("a batch").batch).collect()
}

#[test]
fn outputs_of_recaption_run_are_training_data() {
    let workspace = Workspace::new();
    caption_with_images(&workspace, "captioned");
    let (tars, output) = (workspace.path("train/*.tar"), workspace.path("captioned"));
    let shards = batches(&tars, Format::Shards, Caption::Text, 3);
    let original = batches(&output, Format::Output, Caption::Original, 3);
    assert!(
        shards == original,
        "the same samples in another order: {:?} and {:?}",
        shards[0].keys,
        original[0].keys
    );
    let synthetic = batches(&output, Format::Output, Caption::Text, 3);
    for (a, b) in original.iter().zip(&synthetic) {
        assert!(a.keys == b.keys && a.pixels == b.pixels && a.ids != b.ids, "{:?} {:?}", a.keys, b.keys);
    }
    let keys: BTreeSet<&String> = synthetic.iter().flat_map(|b| &b.keys).collect();
    assert_eq!(keys.len(), SAMPLES as usize);

    let from_output = format!("data.train=[\"{}\"]", output.display());
    workspace.call("shards", &[]).ends(0);
    let changes = [from_output.as_str(), "data.format=output", "data.caption=original"];
    workspace.call("output", &changes).ends(0);
    assert_eq!(workspace.metrics("shards"), workspace.metrics("output"));
    workspace.call("synthetic", &[&from_output, "data.format=output"]).ends(0);
    assert_ne!(workspace.losses("shards"), workspace.losses("synthetic"));
}
