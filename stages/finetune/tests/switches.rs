//! Settings of a recipe, by their effect on the weights.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use std::{collections::BTreeSet, path::Path};

use common::Workspace;
use recaption_finetune::open_clip::OpenClip;

/// Returns the names of the tensors that training changed, and of those that it did not.
fn moved(workspace: &Workspace, out: &str) -> [BTreeSet<String>; 2] {
    let before = OpenClip::read(&workspace.path("start")).expect("a checkpoint");
    let after = OpenClip::read(&workspace.path(&format!("{out}/model"))).expect("a trained model");
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let mut names = [BTreeSet::new(), BTreeSet::new()];
    for ((parameter, a), b) in before.list.iter().zip(&before.values).zip(&after.values) {
        names[usize::from(bits(a) == bits(b))].insert(parameter.name.clone());
    }
    names
}

/// Returns the largest change of a tensor.
fn change(workspace: &Workspace, out: &str, name: &str) -> f32 {
    let read = |dir: &Path| {
        let model = OpenClip::read(dir).expect("a checkpoint");
        let at = model.list.iter().position(|p| p.name == name).expect("the tensor");
        model.values[at].clone()
    };
    let (a, b) = (read(&workspace.path("start")), read(&workspace.path(&format!("{out}/model"))));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[track_caller]
fn close(a: &[[f64; 2]], b: &[[f64; 2]], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "lines");
    for (step, (a, b)) in a.iter().zip(b).enumerate() {
        let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart <= tolerance, "line {}: {a:?} and {b:?} are {apart:e} apart", step + 1);
    }
}

#[test]
fn micro_batches_give_the_losses_of_the_whole() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    workspace.call("whole", &[&validations]).ends(0);
    for (out, part) in
        [("threes", "run.micro_batch=3"), ("ones", "run.micro_batch=1"), ("more", "run.micro_batch=9")]
    {
        workspace.call(out, &[&validations, part]).ends(0);
        close(&workspace.losses("whole"), &workspace.losses(out), 1e-5);
    }
    assert_eq!(workspace.metrics("whole"), workspace.metrics("more"));
}

#[test]
fn frozen_parameters_stay_bit_identical() {
    frozen_stays("optimizer.ema_decay=0");
}

#[test]
fn frozen_parameters_stay_in_an_average() {
    frozen_stays("optimizer.ema_decay=0.9");
}

/// A run's folder, what its recipe freezes, and a predicate of the frozen parameters.
type Frozen<'a> = (&'a str, &'a str, &'a dyn Fn(&str) -> bool);

fn frozen_stays(average: &str) {
    let workspace = Workspace::new();
    let all = OpenClip::read(&workspace.path("start")).expect("a checkpoint").list;
    let is_pooler =
        |n: &str| ["visual.attn_pool", "visual.ln_post", "visual.proj"].iter().any(|p| n.starts_with(p));
    let frozen: [Frozen<'_>; 4] = [
        ("image", r#"["image"]"#, &|n| n.starts_with("visual.") && !is_pooler(n)),
        ("lower", r#"["image:1","text:1"]"#, &|n| {
            let below = ["conv1", "ln_pre", "class_embedding", "positional_embedding", "resblocks.0."];
            let text = ["token_embedding", "cls_emb", "positional_embedding", "resblocks.0."];
            n.starts_with("visual.") && !is_pooler(n) && below.iter().any(|p| n.contains(p))
                || n.starts_with("text.") && text.iter().any(|p| n.contains(p))
        }),
        ("heads", r#"["pooler","temperature"]"#, &|n| is_pooler(n) || n == "logit_scale"),
        ("words", r#"["text","decoder"]"#, &|n| n.starts_with("text")),
    ];
    for (out, freeze, is_frozen) in frozen {
        let freeze = format!("model.freeze={freeze}");
        workspace.call(out, &[&freeze, average, "optimizer.steps=6"]).ends(0);
        let [changed, same] = moved(&workspace, out);
        let wanted: BTreeSet<String> = all.iter().map(|p| p.name.clone()).filter(|n| is_frozen(n)).collect();
        let thawed: Vec<_> = wanted.difference(&same).collect();
        assert!(thawed.is_empty(), "{freeze}, {average}: these are frozen and changed: {thawed:?}");
        let stuck: Vec<_> = same.difference(&wanted).collect();
        assert!(stuck.is_empty(), "{freeze}, {average}: these learnt nothing: {stuck:?}");
        assert_eq!(changed.len() + same.len(), all.len());
    }
}

#[test]
fn layer_decay_slows_early_layers() {
    let workspace = Workspace::new();
    let one_step = [
        "optimizer.steps=1",
        "optimizer.warmup_steps=0",
        "optimizer.weight_decay=0",
        "optimizer.clip_norm=0",
    ];
    workspace.call("even", &one_step).ends(0);
    workspace.call("decayed", &[&one_step[..], &["optimizer.layer_decay=0.5"]].concat()).ends(0);
    // AdamW's first step is the learning rate for every weight whose gradient is not tiny.
    for (name, halvings) in [
        ("visual.conv1.weight", 3),
        ("visual.transformer.resblocks.0.attn.in_proj_weight", 2),
        ("visual.transformer.resblocks.1.mlp.c_fc.weight", 1),
        ("visual.attn_pool.attn.out_proj.weight", 0),
        ("visual.proj", 0),
        ("text.token_embedding.weight", 3),
        ("text.transformer.resblocks.1.mlp.c_fc.weight", 1),
        ("text.text_projection", 0),
        ("text_decoder.resblocks.0.attn.in_proj_weight", 2),
        ("text_decoder.cross_attn.1.attn.in_proj_weight", 1),
        ("text_decoder.text_projection", 0),
        ("logit_scale", 0),
    ] {
        let (even, decayed) = (change(&workspace, "even", name), change(&workspace, "decayed", name));
        let ratio = even / decayed;
        let wanted = 2_f32.powi(halvings);
        assert!(
            (ratio / wanted - 1.0).abs() < 0.01,
            "{name}: {even} and {decayed}, a ratio of {ratio}, not {wanted}"
        );
    }
}

#[test]
fn average_is_validated_and_saved_only() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    let changes = [validations.as_str(), "optimizer.steps=6"];
    workspace.call("plain", &changes).ends(0);
    workspace.call("averaged", &[&changes[..], &["optimizer.ema_decay=0.9"]].concat()).ends(0);
    assert_eq!(workspace.losses("plain"), workspace.losses("averaged"), "training saw the average");
    let far = change(&workspace, "plain", "visual.proj");
    let near = change(&workspace, "averaged", "visual.proj");
    assert!(near > 0.0 && near < 0.7 * far, "the average moved by {near}, the weights by {far}");
}

#[test]
fn half_precision_is_saved_and_exported() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    workspace.call("full", &[&validations]).ends(0);
    workspace.call("half", &[&validations, "model.save_as=fp16"]).ends(0).prints("ok logits");
    assert_eq!(workspace.losses("full"), workspace.losses("half"));
    let (full, half) = (workspace.weights("full").len(), workspace.weights("half").len());
    assert!(half < full * 6 / 10, "{half} of {full} bytes");
}

/// The saved type changes no weight in training, so the recipe's fingerprint excludes it.
#[test]
fn saved_type_can_change_after_training() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    workspace.call("half", &[&validations, "model.save_as=fp16"]).ends(0);
    workspace.call("full", &[&validations]).ends(0);
    workspace.call("full", &[&validations, "model.save_as=fp16"]).ends(0);
    assert!(workspace.weights("full") == workspace.weights("half"), "the type was not taken");
}

#[test]
fn single_objective_trains_its_parameters_only() {
    let workspace = Workspace::new();
    workspace.call("contrast", &["objective.caption=0", "optimizer.steps=4"]).ends(0);
    let [_, same] = moved(&workspace, "contrast");
    let decoder: Vec<_> = same.iter().filter(|n| !n.starts_with("text_decoder.")).collect();
    assert!(decoder.iter().all(|n| n.starts_with("visual.")), "{decoder:?}");
    assert!(same.iter().any(|n| n.starts_with("text_decoder.")), "{same:?}");
    assert!(workspace.losses("contrast").iter().all(|[con, cap]| *con > 0.0 && *cap == 0.0));

    workspace.call("caption", &["objective.contrastive=0", "optimizer.steps=4", "run.micro_batch=3"]).ends(0);
    let [changed, same] = moved(&workspace, "caption");
    assert!(same.contains("logit_scale") && same.contains("text.text_projection"), "{same:?}");
    assert!(changed.contains("visual.conv1.weight") && changed.contains("text_decoder.text_projection"));
    assert!(workspace.losses("caption").iter().all(|[con, cap]| *con == 0.0 && *cap > 0.0));
}

#[test]
fn temperature_can_be_trained_alone() {
    temperature_alone("run.micro_batch=8");
}

#[test]
fn temperature_can_be_trained_in_micro_batches() {
    temperature_alone("run.micro_batch=3");
}

fn temperature_alone(part: &str) {
    let workspace = Workspace::new();
    let frozen = r#"model.freeze=["image","pooler","text"]"#;
    let changes = [frozen, "objective.caption=0", "optimizer.steps=3", part];
    workspace.call("out", &changes).ends(0);
    let [changed, _] = moved(&workspace, "out");
    assert_eq!(changed, BTreeSet::from(["logit_scale".to_owned()]));
}
