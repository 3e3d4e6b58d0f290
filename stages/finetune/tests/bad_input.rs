//! Bad recipes, models, data, numbers and disks: exit codes and error messages.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use std::fs;

use common::{Workspace, data, members, same_numbers, small, tar, write_model};

#[test]
fn invalid_recipes_name_their_key() {
    let workspace = Workspace::new();
    for (change, words) in [
        ("data.train=[]", "`data.train` is not set: give it in the file or as --set data.train=VALUE"),
        (
            "optimizer.lr=0",
            "--set optimizer.lr=0: `optimizer.lr` = 0 is not valid: expected a number above 0",
        ),
        ("optimizer.lr=-1e-3", "optimizer.lr"),
        ("optimizer.lr=nan", "optimizer.lr"),
        ("optimizer.lr=inf", "optimizer.lr"),
        ("optimizer.lr=fast", "lr"),
        ("optimizer.steps=0", "optimizer.steps"),
        ("optimizer.steps=-3", "steps"),
        ("optimizer.steps=2.5", "steps"),
        ("optimizer.final_ratio=1.5", "optimizer.final_ratio"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas"),
        ("optimizer.betas=[0.9]", "betas"),
        ("optimizer.epsilon=0", "optimizer.epsilon"),
        ("optimizer.weight_decay=-0.1", "optimizer.weight_decay"),
        ("optimizer.clip_norm=nan", "optimizer.clip_norm"),
        ("optimizer.layer_decay=0", "optimizer.layer_decay"),
        ("optimizer.layer_decay=1.1", "optimizer.layer_decay"),
        ("optimizer.ema_decay=1", "optimizer.ema_decay"),
        ("objective.contrastive=-1", "objective.contrastive"),
        ("objective.label_smoothing=1", "objective.label_smoothing"),
        ("run.batch_size=0", "run.batch_size"),
        ("run.batch_size=1", "`run.batch_size` of at least 2"),
        ("run.micro_batch=0", "run.micro_batch"),
        ("run.checkpoint_every=0", "run.checkpoint_every"),
        ("run.validate_every=0", "run.validate_every"),
        ("run.log_every=0", "run.log_every"),
        ("run.patience=2", "`run.patience` needs `data.validation`"),
        ("run.precision=fp8", "fp8"),
        ("data.shuffle_buffer=0", "data.shuffle_buffer"),
        ("data.format=csv", "csv"),
        (
            "data.caption=json.",
            "expected `text`, `original`, `json.KEY` or `itm>=0.5`: `json.` names no caption",
        ),
        ("data.caption=alt", "`alt`"),
        ("data.crop={scale=[0.0,1.0]}", "data.crop"),
        ("data.crop={scale=[0.9,0.5]}", "data.crop"),
        ("data.crop={scale=[0.5,1.0],ratio=[-1.0,1.0]}", "data.crop"),
        (
            "model.freeze=[\"imag\"]",
            "model.freeze: `imag`: expected image, pooler, text, decoder or temperature",
        ),
        ("model.freeze=[\"pooler:2\"]", "pooler has no layers"),
        ("model.freeze=[\"image:x\"]", "`x` is not a number of layers"),
        ("model.init=zeros", "zeros"),
        ("optimizer.learning_rate=1", "unknown key `optimizer.learning_rate`; did you mean `optimizer."),
        ("optimiser.lr=1", "did you mean `optimizer.lr`?"),
        ("data.crop={scale=[0.5,1.0],size=3}", "size"),
        ("lr=1", "unknown key `lr`; did you mean `optimizer.lr`?"),
        ("optimizer.lr", "expected section.key=value"),
    ] {
        assert_usage_error(&workspace, change, words);
    }
    assert!(!workspace.path("out/checkpoints").exists());
}

#[test]
fn keys_that_need_other_keys_say_which() {
    let workspace = Workspace::new();
    for (change, words) in [
        ("data.caption=itm>=2", "expected a number from 0 to 1 after itm>="),
        ("data.caption=itm>=0.5", "set `data.format` = \"output\""),
        ("model.image_encoder=model", "`model.image_encoder` is for `objective.kind = \"albef\"`"),
    ] {
        assert_usage_error(&workspace, change, words);
    }
}

#[test]
fn incomplete_broken_or_missing_recipe_is_an_error() {
    let workspace = Workspace::new();
    workspace.write("recipe.toml", "[model]\ncheckpoint = \"start\"\n");
    workspace.call("out", &[]).ends(2).warns("`data.train` is not set");
    workspace.write("recipe.toml", "[model\n");
    workspace.call("out", &[]).ends(2).warns("recipe.toml");
    fs::remove_file(workspace.path("recipe.toml")).expect("a file");
    workspace.call("out", &[]).ends(2).warns("recipe.toml").warns("No such file");
}

/// Asserts that a change of the recipe is a usage error with these words.
#[track_caller]
fn assert_usage_error(workspace: &Workspace, change: &str, words: &str) {
    let ended = workspace.call("out", &[change]).ends(2);
    ended.warns(words).warns("error: ");
}

#[test]
fn invalid_sections_name_their_key() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    workspace
        .call("out", &[&validations, "data.validation_samples=0"])
        .ends(2)
        .warns("data.validation_samples");
    for (change, words) in [
        ("optimizer.epsilon=inf", "optimizer.epsilon"),
        ("optimizer.weight_decay=inf", "optimizer.weight_decay"),
        ("run.device=tpu", "run.device = `tpu`: expected `auto`, `cpu`, `cuda` or `cuda:N`"),
        (
            "run.device=cuda",
            "--features cuda`, or train on the CPU with --set run.device=cpu --set run.precision=fp32",
        ),
        ("run.device=cuda:x", "cuda:N"),
    ] {
        assert_usage_error(&workspace, change, words);
    }
}

/// Both objectives are off, which takes two keys.
#[test]
fn recipe_without_objective_is_an_error() {
    let workspace = Workspace::new();
    workspace
        .call("out", &["objective.contrastive=0", "objective.caption=0"])
        .ends(2)
        .warns("nothing would be learnt");
}

#[test]
fn recipe_that_freezes_everything_is_an_error() {
    let workspace = Workspace::new();
    let all = r#"model.freeze=["image","pooler","text","decoder","temperature"]"#;
    // All, and all that has a part in what is asked for.
    let but_decoder = r#"model.freeze=["image","pooler","text","temperature"]"#;
    for changes in [vec![all], vec![but_decoder, "objective.caption=0"]] {
        let ended = workspace.call("out", &changes).ends(2);
        ended.warns("model.freeze").never_warns("panicked");
    }
}

#[test]
fn untrainable_models_are_errors() {
    let workspace = Workspace::new();
    let checkpoint = |path: &std::path::Path| format!("model.checkpoint={:?}", path.display().to_string());
    let missing = checkpoint(&workspace.path("nowhere"));
    for init in ["model.init=checkpoint", "model.init=random"] {
        workspace
            .call("out", &[&missing, init])
            .ends(1)
            .warns("nowhere/open_clip_config.json")
            .warns("No such file");
        workspace
            .call("out", &[&checkpoint(&data("clip/plain")), init])
            .ends(1)
            .warns("clip/plain")
            .warns("no decoder");
    }
    // No tokenizer.
    workspace.call("out", &[&checkpoint(&data("coca/odd"))]).ends(1).warns("coca/odd/tokenizer.json");
    // No weights.
    fs::remove_file(workspace.path("start/open_clip_model.safetensors")).expect("a file");
    workspace.call("out", &[]).ends(1).warns("start/open_clip_model.safetensors");
    // Weights of another configuration.
    write_model(&workspace.path("start"), &small(1));
    fs::write(workspace.path("start/open_clip_config.json"), small(2).to_string()).expect("a file");
    workspace.call("out", &[]).ends(1).warns("resblocks.1.");
}

#[test]
fn missing_data_is_an_error() {
    let workspace = Workspace::new();
    let nothing = workspace.shards("data.train", "none/*.tar");
    workspace.call("out", &[&nothing]).ends(1).warns("none/*.tar");
    let nothing = workspace.shards("data.validation", "none/*.tar");
    workspace.call("out", &[&nothing]).ends(1).warns("none/*.tar");
    let no_output = format!("data.train=[\"{}\"]", workspace.path("train").display());
    workspace.call("out", &[&no_output, "data.format=output"]).ends(1).warns("no commit records");
}

#[test]
fn missing_captions_are_counted_and_fatal() {
    let workspace = Workspace::new();
    let ended = workspace.call("out", &["data.caption=json.title"]).ends(1);
    ended.warns("not one usable sample in 3 shard(s)").warns("30 no_caption").warns("`json.title`");

    let mut members = members(4, 12);
    for (name, content) in &mut members {
        if name.ends_with(".txt") {
            *content = b" \n".to_vec();
        }
    }
    workspace.write("empty/00004.tar", tar(&members));
    let empty = workspace.shards("data.train", "empty/*.tar");
    workspace.call("out", &[&empty]).ends(1).warns("1 shard(s): 0 used, 12 no_caption");
    let held_out = workspace.shards("data.validation", "empty/*.tar");
    workspace.call("out", &[&held_out]).ends(1).warns("1 shard(s): 0 used, 12 no_caption");

    members.retain(|(name, _)| name.ends_with(".jpg"));
    workspace.write("empty/00004.tar", tar(&members));
    workspace.call("out", &[&empty]).ends(1).warns("12 no_caption");
    workspace.call("out", &[&empty, "data.caption=json.title"]).ends(1).warns("12 no_json");
    assert!(!workspace.path("out/checkpoints").exists());
}

#[test]
fn bad_images_are_counted_and_skipped() {
    let workspace = Workspace::new();
    let mut members = members(4, 10);
    for (name, content) in &mut members {
        match name.as_str() {
            "00004000001.jpg" => content.truncate(900),
            "00004000004.jpg" => *content = b"no picture".to_vec(),
            "00004000006.txt" => content.clear(),
            _ => {}
        }
    }
    members.retain(|(name, _)| name != "00004000008.jpg");
    workspace.write("train/00004.tar", tar(&members));
    let validations = workspace.validated();
    workspace
        .call("out", &[&validations, "optimizer.steps=5", "run.batch_size=6", "data.shuffle_buffer=100"])
        .ends(0);
    // Five batches of six fit into the 36 good samples of the first epoch.
    let lines = workspace.train_lines("out");
    let counts = &lines.last().expect("a line")["data"];
    assert_eq!(counts["used"], 30, "{counts}");
    assert_eq!(counts["bad"]["no_caption"], 1, "{counts}");
    assert_eq!(counts["bad"]["missing_image"], 1, "{counts}");
    let images =
        ["corrupt_image", "unsupported_format"].map(|reason| counts["bad"][reason].as_u64().unwrap_or(0));
    assert!(images.iter().sum::<u64>() <= 2, "{counts}");
    // All of two epochs.
    workspace.call("long", &["optimizer.steps=12", "run.batch_size=6", "data.shuffle_buffer=100"]).ends(0);
    let lines = workspace.train_lines("long");
    let counts = &lines.last().expect("a line")["data"];
    assert_eq!(counts["used"], 72, "{counts}");
    let images: u64 =
        ["corrupt_image", "unsupported_format"].iter().filter_map(|r| counts["bad"][r].as_u64()).sum();
    // The last of a window may be a bad one, which nobody has asked for yet.
    assert!((2..=4).contains(&images), "{counts}");
    assert_eq!((&counts["bad"]["no_caption"], &counts["failed_shards"]), (&2.into(), &0.into()), "{counts}");
}

/// Writes shards of truncated images; returns the setting of `data.train`.
fn all_bad(workspace: &Workspace) -> String {
    for shard in 0..3 {
        let mut members = members(shard, 10);
        members
            .iter_mut()
            .filter(|(n, _)| n.ends_with(".jpg"))
            .for_each(|(_, content)| content.truncate(300));
        workspace.write(&format!("bad/{shard:05}.tar"), tar(&members));
    }
    workspace.shards("data.train", "bad/*.tar")
}

#[test]
fn only_bad_images_are_fatal() {
    let workspace = Workspace::new();
    let bad = all_bad(&workspace);
    ends_soon(&workspace, &["data.shuffle_buffer=100", bad.as_str()]);
}

#[test]
fn only_bad_images_are_fatal_in_small_windows() {
    let workspace = Workspace::new();
    let bad = all_bad(&workspace);
    for buffer in ["data.shuffle_buffer=10", "data.shuffle_buffer=4"] {
        ends_soon(&workspace, &[buffer, bad.as_str()]);
    }
}

#[track_caller]
fn ends_soon(workspace: &Workspace, changes: &[&str]) {
    // Left alone it might read for ever.
    let begun = std::time::Instant::now();
    let ended = workspace.call("out", changes).signal("-KILL", || begun.elapsed().as_secs() >= 5);
    ended.check(ended.code == Some(1), "expected exit code 1 within five seconds");
    ended.warns("not one usable sample in 3 shard(s): 0 used, 30 corrupt_image");
}

#[test]
fn truncated_shard_gives_its_whole_samples() {
    let workspace = Workspace::new();
    let mut cut = tar(&members(4, 10));
    cut.truncate(cut.len() / 2);
    workspace.write("train/00004.tar", cut);
    let ended = workspace.call("out", &["optimizer.steps=12"]).ends(0);
    ended.warns("train/00004.tar: byte ").warns("training goes on without the rest of it");
    let lines = workspace.train_lines("out");
    let counts = &lines.last().expect("a line")["data"];
    assert!(counts["failed_shards"].as_u64() >= Some(2), "{counts}");
    assert_eq!(counts["used"], 96, "{counts}");
}

#[test]
fn non_finite_loss_ends_the_run() {
    let workspace = Workspace::new();
    let wild =
        ["optimizer.lr=1e30", "optimizer.clip_norm=0", "optimizer.warmup_steps=0", "run.checkpoint_every=1"];
    let ended = workspace.call("out", &wild).ends(1);
    ended
        .warns("error: step ")
        .warns("not a number")
        .warns("optimizer.lr")
        .warns("optimizer.clip_norm")
        .warns("0000");
    // The very first step goes wrong: there is nothing good to keep, and nothing bad was kept.
    for folder in ["out/checkpoints", "out/best", "out/model"] {
        assert!(!workspace.path(folder).exists(), "{folder}: weights that are no numbers were saved");
    }
}

/// After the last step no loss follows that would show it.
#[test]
fn non_finite_validation_ends_the_run() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    let wild =
        ["optimizer.lr=1e20", "optimizer.clip_norm=0", "optimizer.warmup_steps=0", "run.validate_every=1"];
    let call = workspace.call("out", &[&wild[..], &[&validations, "run.checkpoint_every=1"]].concat());
    for _ in 0..2 {
        let ended = call.ends(1);
        ended.warns("error: step ").warns("not a number").never_warns("invalid type: null");
        assert!(!workspace.path("out/best").exists(), "a model of no numbers is the best");
    }
}

#[test]
fn non_finite_weights_are_never_saved() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    let wild =
        ["optimizer.lr=1e38", "optimizer.clip_norm=0", "optimizer.warmup_steps=0", "run.validate_every=1"];
    for (steps, validation) in [
        ("optimizer.steps=1", None),
        ("optimizer.steps=1", Some(&validations)),
        ("optimizer.steps=4", Some(&validations)),
    ] {
        let mut changes = wild.to_vec();
        changes.push(steps);
        changes.extend(validation.map(String::as_str));
        let out = format!("out-{steps}-{}", validation.is_some());
        let ended = workspace.call(&out, &changes).ends(1);
        ended.warns("not a number");
        assert!(!workspace.path(&format!("{out}/model")).exists(), "a useless model was saved");
    }
}

#[test]
fn full_disk_keeps_the_previous_checkpoint() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    // A checkpoint grows by nothing but the moments, which the first one lacks; so the limit lies below all of them, and
    // above everything else that a run writes before it.
    let changes = [validations.as_str(), "optimizer.steps=12"];
    workspace.call("calm", &changes).ends(0);
    let size = workspace.read("calm/checkpoints/step-00000012.safetensors").len() as u64;

    let call = workspace.call("out", &changes);
    call.signal("-KILL", || workspace.path("out/checkpoints/step-00000003.safetensors").exists());
    let kept = workspace.names("out/checkpoints");
    let kept: Vec<String> = kept.into_iter().filter(|n| n.starts_with("step-")).collect();
    let newest = format!("out/checkpoints/{}", kept.last().expect("a checkpoint"));
    let before = workspace.read(&newest);
    let ended = call.clone().limit(size / 1024 * 3 / 4).ends(1);
    ended
        .warns("error: step ")
        .warns("no checkpoint was written; the previous one stays")
        .warns("out/checkpoints/step-");
    ended.warns("File too large");
    assert!(workspace.read(&newest) == before, "the checkpoint before was touched");
    let names = workspace.names("out/checkpoints");
    assert_eq!(
        names.iter().filter(|n| n.starts_with("step-")).collect::<Vec<_>>(),
        kept.iter().collect::<Vec<_>>()
    );

    call.ends(0);
    same_numbers(&workspace.metrics("calm"), &workspace.metrics("out"));
    assert!(workspace.weights("calm") == workspace.weights("out"));
    // Nothing half-written is left, neither by the kill nor by the disk.
    let left: Vec<String> =
        workspace.names("out/checkpoints").into_iter().filter(|n| !n.starts_with("step-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn full_disk_at_the_end_can_be_retried() {
    let workspace = Workspace::new();
    workspace.call("calm", &[]).ends(0);
    let size = workspace.weights("calm").len() as u64;
    workspace.call("out", &[]).ends(0);
    fs::remove_dir_all(workspace.path("out/model")).expect("a folder");
    fs::remove_dir_all(workspace.path("out/onnx")).expect("a folder");
    let ended = workspace.call("out", &[]).limit(size / 1024 / 2).ends(1);
    ended.warns("error: cannot write").warns("out/model/").warns("File too large");
    workspace.call("out", &[]).ends(0);
    assert!(workspace.weights("calm") == workspace.weights("out"));
}

#[test]
fn output_that_is_a_file_is_an_error() {
    let workspace = Workspace::new();
    workspace.write("out", "years of work");
    workspace.call("out", &[]).ends(1).warns("cannot create").warns("/out");
    assert_eq!(workspace.read("out"), b"years of work");
}
