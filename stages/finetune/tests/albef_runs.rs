//! Whole runs of the program with the objective `albef`: what they write, that they learn, and that they resume exactly.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use std::{fs, path::Path};

use common::{Call, Workspace, same_numbers};
use recaption_finetune::{
    albef_files::AlbefFiles,
    run::{MetricsLine, read_metrics},
};
use recaption_onnx::ModelFolder;
use serde_json::{Value, json};

/// Returns the configuration of an ALBEF of four patches, for the vocabulary of scenes.
fn small() -> Value {
    json!({
        "image_res": 64, "patch_size": 32, "vision_width": 32, "vision_depth": 2, "vision_heads": 2, "embed_dim": 16,
        "bert": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4,
            "fusion_layer": 2, "encoder_width": 32, "vocab_size": 160, "max_position_embeddings": 40,
            "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
        "special_ids": {"pad": 0, "cls": 2, "sep": 3, "mask": 4}
    })
}

/// A workspace with an ALBEF's configuration and vocabulary.
struct Albef(Workspace);

impl Albef {
    fn new() -> Self {
        let workspace = Workspace::new();
        workspace.write("albef/config.json", small().to_string());
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/scenes-albef");
        workspace.write("albef/vocab.txt", fs::read(recipes.join("vocab.txt")).expect("a vocabulary"));
        Self(workspace)
    }

    fn call(&self, out: &str, changes: &[&str]) -> Call {
        let checkpoint = format!("model.checkpoint={}", self.0.path("albef").display());
        let fixed = [
            checkpoint.as_str(),
            "model.init=random",
            "objective.kind=albef",
            "albef.queue_size=32",
            "albef.alpha_steps=4",
            "albef.max_tokens=31",
        ];
        self.0.call(out, &[&fixed, changes].concat())
    }

    fn weights(&self, out: &str) -> Vec<u8> {
        self.0.read(&format!("{out}/model/albef.safetensors"))
    }

    fn lines(&self, out: &str) -> usize {
        let text = fs::read(self.0.path(&format!("{out}/metrics.jsonl"))).unwrap_or_default();
        text.iter().filter(|b| **b == b'\n').count()
    }
}

#[test]
fn run_writes_a_checkpoint_that_training_reads() {
    let albef = Albef::new();
    let ended = albef.call("out", &[&albef.0.validated()]).ends(0);
    ended.prints("matching").prints("held out  8 samples");
    let files = AlbefFiles::read(&albef.0.path("out/model"), None, 0).expect("a trained model");
    assert!(files.values.iter().flatten().all(|v| v.is_finite()));
    assert_eq!((files.config.queue_size, files.config.alpha), (32, 0.4));
    assert_eq!(albef.0.read("out/model/vocab.txt"), albef.0.read("albef/vocab.txt"));
    let card = String::from_utf8(albef.0.read("out/model/README.md")).expect("text");
    for words in ["An ALBEF of", "matching loss", "| albef.safetensors |", "12 of 12 steps of 8 samples"] {
        assert!(card.contains(words), "the card lacks {words}:\n{card}");
    }
    // ONNX Runtime's outputs equal burn's.
    for output in ["image_features", "text_features", "itm_logits", "mlm_logits"] {
        assert!(card.contains(&format!("ok {output}: ")), "{output} was not compared:\n{card}");
    }
    ModelFolder::open(&albef.0.path("out/onnx")).expect("an export");
    let matching = |line: &MetricsLine| match line {
        MetricsLine::Train(line) => line.matching_loss,
        MetricsLine::Validation(line) => line.matching_loss,
    };
    let lines = read_metrics(&albef.0.path("out/metrics.jsonl"));
    assert_eq!(lines.len(), 15);
    assert!(lines.iter().all(|line| matching(line).is_some_and(f64::is_finite)));
    // Training goes on from it, with another queue.
    let checkpoint = format!("model.checkpoint={}", albef.0.path("out/model").display());
    albef
        .call("more", &["model.init=checkpoint", &checkpoint, "albef.queue_size=64", "optimizer.steps=2"])
        .ends(0);
}

#[test]
fn every_loss_falls_with_and_without_distillation() {
    let albef = Albef::new();
    for alpha in ["0.0", "0.4"] {
        let out = format!("out-{alpha}");
        let setting = format!("albef.alpha={alpha}");
        let changes =
            [setting.as_str(), "optimizer.steps=700", "optimizer.warmup_steps=10", "run.log_every=100"];
        albef.call(&out, &changes).ends(0);
        let lines = albef.0.train_lines(&out);
        let (first, last) = (&lines[0], &lines[lines.len() - 1]);
        for key in ["contrastive_loss", "matching_loss", "caption_loss"] {
            let (from, to) = (first[key].as_f64().expect("a number"), last[key].as_f64().expect("a number"));
            assert!(to < 0.97 * from, "alpha {alpha}, {key}: {from} to {to}");
        }
    }
    assert_ne!(albef.weights("out-0.0"), albef.weights("out-0.4"));
}

#[test]
fn killed_run_ends_bit_identical() {
    let albef = Albef::new();
    let validated = albef.0.validated();
    let changes = ["optimizer.steps=24", validated.as_str()];
    albef.call("calm", &changes).ends(0);
    let call = albef.call("shaken", &changes);
    let mut kills = 0;
    while kills < 20 {
        let until = albef.lines("shaken") + 5;
        let ended = call.signal("-KILL", || albef.lines("shaken") >= until);
        if ended.code.is_some() {
            ended.ends(0);
            break;
        }
        kills += 1;
    }
    assert!(kills >= 2, "it ended before it was killed");
    same_numbers(&albef.0.metrics("calm"), &albef.0.metrics("shaken"));
    assert!(albef.weights("calm") == albef.weights("shaken"), "the weights differ");
}

#[test]
fn parts_of_a_batch_share_the_queue() {
    let albef = Albef::new();
    albef.call("whole", &["optimizer.steps=1"]).ends(0);
    albef.call("parts", &["optimizer.steps=1", "run.micro_batch=4"]).ends(0);
    let read =
        |out: &str| AlbefFiles::read(&albef.0.path(&format!("{out}/model")), None, 0).expect("a model");
    let (whole, parts) = (read("whole"), read("parts"));
    for name in ["image_queue", "text_queue", "queue_ptr"] {
        let at = whole.list.iter().position(|p| p.name == name).expect(name);
        let apart = whole.values[at].iter().zip(&parts.values[at]).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) < 1e-5, "{name}: all features of the batch are enqueued");
    }
}

#[test]
fn without_its_weight_the_contrast_trains_nothing() {
    let albef = Albef::new();
    let read =
        |out: &str| AlbefFiles::read(&albef.0.path(&format!("{out}/model")), None, 0).expect("a model");
    let changes = ["optimizer.steps=1", "optimizer.weight_decay=0", "optimizer.warmup_steps=0"];
    albef.call("with", &changes).ends(0);
    albef.call("without", &[&changes[..], &["albef.contrastive_weight=0"]].concat()).ends(0);
    let (with, without) = (read("with"), read("without"));
    let start = AlbefFiles::initialise(&albef.0.path("albef"), None, 5).expect("random weights");
    // The projections serve the contrast alone.
    for (name, moves) in
        [("vision_proj.weight", false), ("text_proj.weight", false), ("itm_head.weight", true)]
    {
        let at = start.list.iter().position(|p| p.name == name).expect(name);
        assert_ne!(start.values[at], with.values[at], "{name} with it");
        assert_eq!(start.values[at] != without.values[at], moves, "{name} without it");
    }
}

#[test]
fn keys_that_contradict_albef_are_errors() {
    let albef = Albef::new();
    for (change, words) in [
        ("albef.queue_size=30", "`albef.queue_size` 30 is no multiple of `run.batch_size` 8"),
        ("run.micro_batch=3", "in parts of 3"),
        ("optimizer.ema_decay=0.9", "`optimizer.ema_decay` is not supported"),
        ("model.freeze=image", "`model.freeze` is not supported"),
        ("albef.alpha=1.5", "albef.alpha"),
        ("albef.contrastive_weight=-1", "albef.contrastive_weight"),
        ("data.group_similar=3", "`data.group_similar` 3 does not divide the batch, 8 samples"),
        ("data.group_similar=0", "data.group_similar"),
    ] {
        albef.call("out", &[change]).ends(2).warns(words);
    }
    albef.call("out", &["objective.kind=coca"]).ends(1).warns("open_clip_config.json");
    albef
        .0
        .write("albef/config.json", small().to_string().replace("\"fusion_layer\":2", "\"fusion_layer\":4"));
    albef.call("out", &[]).ends(1).warns("`bert.fusion_layer` 4");
}
