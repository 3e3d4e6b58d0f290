//! Runs that are killed or stopped continue bit-identically with the same command.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{Call, Workspace, members, same_numbers, small, tar, write_model};
use recaption_finetune::random::Random;

/// Counts the lines of a run's `metrics.jsonl` so far.
fn lines(workspace: &Workspace, out: &str) -> usize {
    let text = fs::read(workspace.path(&format!("{out}/metrics.jsonl"))).unwrap_or_default();
    text.iter().filter(|b| **b == b'\n').count()
}

/// Asserts that metrics and weights of two runs are the same.
#[track_caller]
fn alike(workspace: &Workspace, one: &str, other: &str) {
    same_numbers(&workspace.metrics(one), &workspace.metrics(other));
    assert!(workspace.weights(one) == workspace.weights(other), "weights of {one} and of {other} differ");
}

/// Kills the call whenever it has written some more lines, until it ends by itself; returns the number of kills.
fn kill_again_and_again(workspace: &Workspace, call: &Call, out: &str, random: &mut Random) -> usize {
    for kills in 0..40 {
        let from = lines(workspace, out);
        let more = from + 1 + random.below(6);
        let patience = Duration::from_millis(random.below(20) as u64);
        let mut seen = None;
        let moment = std::cell::RefCell::new(&mut seen);
        let ended = call.signal("-KILL", || {
            let mut seen = moment.borrow_mut();
            // What the run before left is cut back first.
            if lines(workspace, out) >= more && seen.is_none() {
                **seen = Some(Instant::now());
            }
            seen.is_some_and(|since| since.elapsed() >= patience)
        });
        match ended.code {
            None => {}
            Some(code) => {
                ended.check(code == 0, "it was not killed, and failed");
                return kills;
            }
        }
    }
    panic!("no end after forty kills, at line {}", lines(workspace, out));
}

#[test]
fn run_killed_repeatedly_ends_bit_identical() {
    let workspace = Workspace::new();
    let validations = workspace.validated();
    // Everything that has a state: average, best model, windows that end inside a batch, epochs that do.
    let changes = ["optimizer.steps=30", "optimizer.ema_decay=0.7", validations.as_str()];
    workspace.call("calm", &changes).ends(0);
    let kills = kill_again_and_again(
        &workspace,
        &workspace.call("shaken", &changes),
        "shaken",
        &mut Random::new(1, &[]),
    );
    assert!(kills >= 4, "only {kills} kills: the run is too short for this workspace");
    println!("{kills} kills");
    alike(&workspace, "calm", "shaken");
    let card =
        |out: &str| String::from_utf8(workspace.read(&format!("{out}/model/README.md"))).expect("text");
    let digests = |card: String| {
        card.lines().filter(|l| l.contains(".safetensors |")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(digests(card("calm")), digests(card("shaken")));
}

#[test]
fn sigterm_writes_a_checkpoint_to_continue_from() {
    let workspace = Workspace::new();
    let changes = ["optimizer.steps=40", "run.checkpoint_every=1000"];
    workspace.call("calm", &changes).ends(0);
    let call = workspace.call("stopped", &changes);
    for signal in ["-TERM", "-INT"] {
        let from = lines(&workspace, "stopped");
        let ended = call.signal(signal, || lines(&workspace, "stopped") >= from + 5).ends(1);
        let step = lines(&workspace, "stopped");
        ended.prints(&format!("stopped after step {step}; the same command continues"));
        let newest = workspace.names("stopped/checkpoints").pop();
        assert_eq!(newest.as_deref(), Some(format!("step-{step:08}.safetensors").as_str()), "{ended:?}");
        assert!(!workspace.path("stopped/model").exists(), "a model before the end: {ended:?}");
    }
    call.ends(0).warns("continuing from a checkpoint");
    alike(&workspace, "calm", "stopped");
}

/// A checkpoint is three times the model: partial ones would fill a disk.
#[test]
fn partial_files_of_a_killed_run_are_deleted() {
    let workspace = Workspace::new();
    let call = workspace.call("out", &[]);
    let left = "out/checkpoints/.step-00000003.safetensors.partial-99999999";
    workspace.write(left, "half of a checkpoint");
    call.ends(0);
    assert!(!workspace.path(left).exists(), "{:?}", workspace.names("out/checkpoints"));
}

/// Metrics round-trip to the last digit.
#[test]
fn earlier_metrics_lines_stay_unchanged() {
    let workspace = Workspace::new();
    let call = workspace.call("out", &[]);
    call.ends(0);
    let before = workspace.metrics("out");
    call.ends(0);
    assert_eq!(before, workspace.metrics("out"));
}

/// Unusable samples are counted once, wherever a run is stopped.
#[test]
fn unusable_samples_are_counted_once() {
    let workspace = Workspace::new();
    let mut members = members(4, 12);
    for (name, content) in &mut members {
        match name.as_str() {
            "00004000002.jpg" | "00004000005.jpg" => content.truncate(100),
            "00004000003.txt" | "00004000009.txt" => content.clear(),
            _ => {}
        }
    }
    workspace.write("train/00004.tar", tar(&members));
    workspace.write("train/00005.tar", {
        let mut cut = tar(&members);
        cut.truncate(cut.len() / 2);
        cut
    });
    let changes =
        ["run.checkpoint_every=1", "data.shuffle_buffer=50", "optimizer.steps=14", "run.batch_size=4"];
    workspace.call("calm", &changes).ends(0);
    let call = workspace.call("shaken", &changes);
    for _ in 0..3 {
        let from = lines(&workspace, "shaken");
        call.signal("-TERM", || lines(&workspace, "shaken") >= from + 2).ends(1);
    }
    call.ends(0);
    alike(&workspace, "calm", "shaken");
}

/// Kills the call once the checkpoint of `step` exists, and deletes later ones.
fn kill_behind(workspace: &Workspace, call: &Call, out: &str, step: u64) {
    let wanted = format!("step-{step:08}.safetensors");
    call.signal("-KILL", || workspace.path(&format!("{out}/checkpoints/{wanted}")).exists());
    for name in workspace.names(&format!("{out}/checkpoints")) {
        if name != wanted {
            fs::remove_file(workspace.path(&format!("{out}/checkpoints/{name}"))).expect("a file");
        }
    }
    assert_eq!(workspace.names(&format!("{out}/checkpoints")), [wanted], "too fast for this workspace");
}

/// A checkpoint may lie after the last sample of an epoch.
#[test]
fn run_continues_from_the_end_of_an_epoch() {
    let workspace = Workspace::new();
    // Two batches of eight are all of the one shard; the window ends with it, and the end is not known yet.
    workspace.draw("one", 0, 16);
    let data = workspace.shards("data.train", "one/*.tar");
    for buffer in [8, 16, 17] {
        let out = format!("out-{buffer}");
        let buffer = format!("data.shuffle_buffer={buffer}");
        let changes = [data.as_str(), buffer.as_str(), "run.checkpoint_every=2", "optimizer.steps=200"];
        let call = workspace.call(&out, &changes);
        kill_behind(&workspace, &call, &out, 2);
        let ended = call.signal("-TERM", || lines(&workspace, &out) >= 8);
        ended.check(ended.code == Some(1), &format!("{buffer}: it should go on until it is stopped"));
        ended.prints("the same command continues").warns("continuing from a checkpoint");
    }
}

#[test]
fn metrics_lines_average_over_the_same_steps() {
    let workspace = Workspace::new();
    let changes = ["run.log_every=4", "run.checkpoint_every=6", "optimizer.steps=16"];
    workspace.call("calm", &changes).ends(0);
    let call = workspace.call("shaken", &changes);
    kill_behind(&workspace, &call, "shaken", 6);
    call.ends(0);
    alike(&workspace, "calm", "shaken");
}

#[test]
fn damaged_checkpoint_is_skipped_for_the_previous() {
    let workspace = Workspace::new();
    workspace.call("calm", &[]).ends(0);
    let call = workspace.call("hurt", &[]);
    call.ends(0);
    fs::remove_dir_all(workspace.path("hurt/model")).expect("a folder");
    assert_eq!(
        workspace.names("hurt/checkpoints"),
        ["step-00000009.safetensors", "step-00000012.safetensors"]
    );

    let newest = "hurt/checkpoints/step-00000012.safetensors";
    let whole = workspace.read(newest);
    for damage in ["cut", "emptied", "overwritten"] {
        let mut bytes = whole.clone();
        match damage {
            "cut" => bytes.truncate(whole.len() / 2),
            "emptied" => bytes.clear(),
            _ => bytes[..64].fill(0xff),
        }
        workspace.write(newest, bytes);
        call.ends(0)
            .warns("step-00000012.safetensors")
            .warns("trying the previous checkpoint")
            .warns("step=9");
        alike(&workspace, "calm", "hurt");
    }

    // None is whole: nothing is trained again silently.
    for name in workspace.names("hurt/checkpoints") {
        workspace.write(&format!("hurt/checkpoints/{name}"), "years of work");
    }
    let ended = call.ends(1);
    ended.warns("error: checkpoint").warns("step-00000012.safetensors");
}

#[test]
fn checkpoints_of_other_architecture_are_errors() {
    let workspace = Workspace::new();
    let changes = ["model.init=random"];
    let call = workspace.call("out", &changes);
    call.ends(0);
    let kept = workspace.names("out/checkpoints");
    let mut wider = small(2);
    wider["model_cfg"]["vision_cfg"]["width"] = 64.into();
    for (what, config) in [("a wider tower", wider), ("a layer more", small(3))] {
        refused(&workspace, &call, what, &config);
    }
    assert_eq!(workspace.names("out/checkpoints"), kept);
}

#[test]
fn checkpoints_of_larger_model_are_errors() {
    let workspace = Workspace::new();
    let call = workspace.call("out", &["model.init=random"]);
    call.ends(0);
    refused(&workspace, &call, "a layer less", &small(1));
}

/// Replaces the model and asserts that the checkpoints are an error.
#[track_caller]
fn refused(workspace: &Workspace, call: &Call, what: &str, config: &serde_json::Value) {
    write_model(&workspace.path("start"), config);
    let ended = call.ends(1);
    ended.check(
        ended.stderr.contains("it belongs to another architecture"),
        &format!("{what}: a checkpoint of another model was taken"),
    );
    ended.warns("out/checkpoints/step-");
}

/// A position in the data is valid for one list of shards.
#[test]
fn other_list_of_shards_is_an_error() {
    let workspace = Workspace::new();
    let call = workspace.call("out", &[]);
    call.ends(0);
    let kept = workspace.names("out/checkpoints");
    workspace.draw("train", 3, 10);
    call.ends(2).warns("data.train names other shards").warns("--overwrite");
    assert_eq!(workspace.names("out/checkpoints"), kept);
    call.clone().arg("--overwrite").ends(0);
}
