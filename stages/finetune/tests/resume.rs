//! A run that was killed or stopped goes on with the same command, as if nothing had been.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{Call, Story, members, same_numbers, small, tar, write_model};
use recaption_finetune::random::Random;

/// Lines of a run's `metrics.jsonl` so far.
fn lines(story: &Story, out: &str) -> usize {
    let text = fs::read(story.path(&format!("{out}/metrics.jsonl"))).unwrap_or_default();
    text.iter().filter(|b| **b == b'\n').count()
}

/// Numbers, weights and the card's own digests of two runs are the same.
#[track_caller]
fn alike(story: &Story, one: &str, other: &str) {
    same_numbers(&story.metrics(one), &story.metrics(other));
    assert!(story.weights(one) == story.weights(other), "weights of {one} and of {other} differ");
}

/// Kills the call whenever a run has written some more lines, until it ends by itself; how often that was.
fn kill_again_and_again(story: &Story, call: &Call, out: &str, random: &mut Random) -> usize {
    for kills in 0..40 {
        let from = lines(story, out);
        let more = from + 1 + random.below(6);
        let patience = Duration::from_millis(random.below(20) as u64);
        let mut seen = None;
        let moment = std::cell::RefCell::new(&mut seen);
        let said = call.signal("-KILL", || {
            let mut seen = moment.borrow_mut();
            // What the run before left is cut back first.
            if lines(story, out) >= more && seen.is_none() {
                **seen = Some(Instant::now());
            }
            seen.is_some_and(|since| since.elapsed() >= patience)
        });
        match said.code {
            None => {}
            Some(code) => {
                said.check(code == 0, "it was not killed, and failed");
                return kills;
            }
        }
    }
    panic!("no end after forty kills, at line {}", lines(story, out));
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been() {
    let story = Story::new();
    let judged = story.judged();
    // Everything that has a state: average, best model, windows that end inside a batch, epochs that do.
    let changes = ["optimizer.steps=30", "optimizer.ema_decay=0.7", judged.as_str()];
    story.call("calm", &changes).ends(0);
    let kills =
        kill_again_and_again(&story, &story.call("shaken", &changes), "shaken", &mut Random::new(1, &[]));
    assert!(kills >= 4, "only {kills} kills: the run is too short for this story");
    println!("{kills} kills");
    alike(&story, "calm", "shaken");
    let card = |out: &str| String::from_utf8(story.read(&format!("{out}/model/README.md"))).expect("text");
    let digests = |card: String| {
        card.lines().filter(|l| l.contains(".safetensors |")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(digests(card("calm")), digests(card("shaken")));
}

#[test]
fn sigterm_ends_with_a_checkpoint_and_the_same_command_goes_on() {
    let story = Story::new();
    let changes = ["optimizer.steps=40", "run.checkpoint_every=1000"];
    story.call("calm", &changes).ends(0);
    let call = story.call("stopped", &changes);
    for signal in ["-TERM", "-INT"] {
        let from = lines(&story, "stopped");
        let said = call.signal(signal, || lines(&story, "stopped") >= from + 5).ends(1);
        let step = lines(&story, "stopped");
        said.prints(&format!("stopped behind step {step}; the same command goes on"));
        let newest = story.names("stopped/checkpoints").pop();
        assert_eq!(newest.as_deref(), Some(format!("step-{step:08}.safetensors").as_str()), "{said:?}");
        assert!(!story.path("stopped/model").exists(), "a model before the end: {said:?}");
    }
    call.ends(0).warns("going on from a checkpoint");
    alike(&story, "calm", "stopped");
}

/// A checkpoint is three times the model: those that a kill left half-written would fill a disk.
#[test]
fn what_a_kill_left_half_written_is_cleared_away() {
    let story = Story::new();
    let call = story.call("out", &[]);
    let left = "out/checkpoints/.step-00000003.safetensors.partial-99999999";
    story.write(left, "half of a checkpoint");
    call.ends(0);
    assert!(!story.path(left).exists(), "{:?}", story.names("out/checkpoints"));
}

/// What was written once stays as it was, to the last digit.
#[test]
fn lines_from_before_stay_as_they_were() {
    let story = Story::new();
    let call = story.call("out", &[]);
    call.ends(0);
    let before = story.metrics("out");
    call.ends(0);
    assert_eq!(before, story.metrics("out"));
}

/// Unusable samples are counted once, wherever the run was stopped.
#[test]
fn what_cannot_be_used_is_counted_once() {
    let story = Story::new();
    let mut members = members(4, 12);
    for (name, content) in &mut members {
        match name.as_str() {
            "00004000002.jpg" | "00004000005.jpg" => content.truncate(100),
            "00004000003.txt" | "00004000009.txt" => content.clear(),
            _ => {}
        }
    }
    story.write("train/00004.tar", tar(&members));
    story.write("train/00005.tar", {
        let mut cut = tar(&members);
        cut.truncate(cut.len() / 2);
        cut
    });
    let changes =
        ["run.checkpoint_every=1", "data.shuffle_buffer=50", "optimizer.steps=14", "run.batch_size=4"];
    story.call("calm", &changes).ends(0);
    let call = story.call("shaken", &changes);
    for _ in 0..3 {
        let from = lines(&story, "shaken");
        call.signal("-TERM", || lines(&story, "shaken") >= from + 2).ends(1);
    }
    call.ends(0);
    alike(&story, "calm", "shaken");
}

/// Kills the call when the checkpoint of this step is there, and leaves that one alone: the run may have come further.
fn kill_behind(story: &Story, call: &Call, out: &str, step: u64) {
    let wanted = format!("step-{step:08}.safetensors");
    call.signal("-KILL", || story.path(&format!("{out}/checkpoints/{wanted}")).exists());
    for name in story.names(&format!("{out}/checkpoints")) {
        if name != wanted {
            fs::remove_file(story.path(&format!("{out}/checkpoints/{name}"))).expect("a file");
        }
    }
    assert_eq!(story.names(&format!("{out}/checkpoints")), [wanted], "too fast for this story");
}

/// A checkpoint may stand where a shard was read to its last sample, and none is left of the epoch.
#[test]
fn a_run_goes_on_from_the_very_end_of_its_data() {
    let story = Story::new();
    // Two batches of eight are all of the one shard; the window ends with it, and the end is not known yet.
    story.draw("one", 0, 16);
    let data = story.shards("data.train", "one/*.tar");
    for buffer in [8, 16, 17] {
        let out = format!("out-{buffer}");
        let buffer = format!("data.shuffle_buffer={buffer}");
        let changes = [data.as_str(), buffer.as_str(), "run.checkpoint_every=2", "optimizer.steps=200"];
        let call = story.call(&out, &changes);
        kill_behind(&story, &call, &out, 2);
        let said = call.signal("-TERM", || lines(&story, &out) >= 8);
        said.check(said.code == Some(1), &format!("{buffer}: it should go on until it is stopped"));
        said.prints("the same command goes on").warns("going on from a checkpoint");
    }
}

#[test]
fn lines_of_the_log_are_means_over_the_same_steps() {
    let story = Story::new();
    let changes = ["run.log_every=4", "run.checkpoint_every=6", "optimizer.steps=16"];
    story.call("calm", &changes).ends(0);
    let call = story.call("shaken", &changes);
    kill_behind(&story, &call, "shaken", 6);
    call.ends(0);
    alike(&story, "calm", "shaken");
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let story = Story::new();
    story.call("calm", &[]).ends(0);
    let call = story.call("hurt", &[]);
    call.ends(0);
    fs::remove_dir_all(story.path("hurt/model")).expect("a folder");
    assert_eq!(story.names("hurt/checkpoints"), ["step-00000009.safetensors", "step-00000012.safetensors"]);

    let newest = "hurt/checkpoints/step-00000012.safetensors";
    let whole = story.read(newest);
    for damage in ["cut", "emptied", "overwritten"] {
        let mut bytes = whole.clone();
        match damage {
            "cut" => bytes.truncate(whole.len() / 2),
            "emptied" => bytes.clear(),
            _ => bytes[..64].fill(0xff),
        }
        story.write(newest, bytes);
        call.ends(0).warns("step-00000012.safetensors").warns("the one before is tried").warns("step=9");
        alike(&story, "calm", "hurt");
    }

    // None is whole: nothing is trained anew behind the user's back.
    for name in story.names("hurt/checkpoints") {
        story.write(&format!("hurt/checkpoints/{name}"), "years of work");
    }
    let said = call.ends(1);
    said.warns("error: checkpoint").warns("step-00000012.safetensors");
}

#[test]
fn checkpoints_of_another_architecture_are_refused() {
    let story = Story::new();
    let changes = ["model.init=random"];
    let call = story.call("out", &changes);
    call.ends(0);
    let kept = story.names("out/checkpoints");
    let mut wider = small(2);
    wider["model_cfg"]["vision_cfg"]["width"] = 64.into();
    for (what, config) in [("a wider tower", wider), ("a layer more", small(3))] {
        refused(&story, &call, what, &config);
    }
    assert_eq!(story.names("out/checkpoints"), kept);
}

#[test]
fn so_are_those_of_a_larger_one() {
    let story = Story::new();
    let call = story.call("out", &["model.init=random"]);
    call.ends(0);
    refused(&story, &call, "a layer less", &small(1));
}

/// Another model where the recipe points.
#[track_caller]
fn refused(story: &Story, call: &Call, what: &str, config: &serde_json::Value) {
    write_model(&story.path("start"), config);
    let said = call.ends(1);
    said.check(
        said.stderr.contains("it belongs to another architecture"),
        &format!("{what}: a checkpoint of another model was taken"),
    );
    said.warns("out/checkpoints/step-");
}

/// A place in the data means nothing in another list of shards.
#[test]
fn another_list_of_shards_is_refused() {
    let story = Story::new();
    let call = story.call("out", &[]);
    call.ends(0);
    let kept = story.names("out/checkpoints");
    story.draw("train", 3, 10);
    call.ends(2).warns("data.train names other shards").warns("--overwrite");
    assert_eq!(story.names("out/checkpoints"), kept);
    call.clone().arg("--overwrite").ends(0);
}
