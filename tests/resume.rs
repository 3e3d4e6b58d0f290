//! A run that dies, is stopped, or is asked again: the same rows as if nothing had happened.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::json;
use support::{
    Dice, Place, files_below,
    output::{self, commits, parts},
    program::Running,
    shards::scenes,
};

/// Stories that go by the clock do not run side by side.
fn alone() -> MutexGuard<'static, ()> {
    static CLOCK: Mutex<()> = Mutex::new(());
    CLOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that counts in an output: rows, the bytes of its parts, and its commit records. Not the records of runs,
/// and not what a kill between a file's beginning and its renaming leaves (`NAME.json#1`): no reader takes it for a
/// record, and a later run clears it away.
fn essence(output: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = output::part_bytes(output);
    for name in files_below(&output.join("_recaption/shards")).into_keys() {
        if name.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let path = Path::new("_recaption/shards").join(name);
        let bytes = fs::read(output.join(&path)).expect("a record can be read");
        files.insert(path, bytes);
    }
    files
}

/// What a reader may see at any moment: parts that are whole, and records whose parts are all there.
fn nothing_is_half_written(output: &Path) {
    for part in parts(output) {
        match part.parent().and_then(Path::file_name).is_some_and(|folder| folder == "captions") {
            true => drop(output::read_captions(&part)),
            false => drop(output::read_rejects(&part)),
        }
    }
    for commit in commits(output) {
        let rows = output::read_captions(&output.join(&commit.captions.path)).len() as u64;
        let rejects = output::read_rejects(&output.join(&commit.rejects.path)).len() as u64;
        assert_eq!((rows, rejects), (commit.counts.captioned, commit.counts.rejected), "{commit:#?}");
    }
}

#[test]
fn runs_killed_at_random_resume_to_the_same_bytes() {
    let _alone = alone();
    let place = Place::new();
    let input = place.draw("in", 20, 6);
    // A small batch: shards are then committed one after another and not all in the end.
    let run = |output: &str| place.run(&input, output).set("model.sessions=1").set("run.batch_size=4");
    let undisturbed = run("undisturbed").ends(0).took;
    let wanted = essence(&place.path("undisturbed"));
    assert_eq!(output::read(&place.path("undisturbed")).captions.len(), 20 * 6);

    const KILLS: usize = 10;
    let mut dice = Dice::new(93);
    let mut in_between = 0;
    for tenth in 0..KILLS {
        // One kill in every tenth of the run's time, each into an output of its own.
        let moment = undisturbed.mul_f64((tenth as f64 + dice.fraction()) / KILLS as f64);
        let name = format!("killed-{tenth}");
        let out = place.path(&name);
        let mut running = run(&name).start();
        sleep(moment);
        running.kill();
        // It may have ended a moment before: then it has an exit code.
        let killed = running.wait().status.code().is_none();
        nothing_is_half_written(&out);
        let (committed, visible) = (commits(&out).len(), parts(&out).len());
        in_between += usize::from(committed > 0 && committed < 20);
        let how = if killed { "killed" } else { "had ended" };
        println!("{moment:?} of {undisturbed:?}: {how} with {committed} of 20 shards and {visible} parts");

        let report = run(&name).ends(0).report();
        assert_eq!(
            (&report["shards_skipped"], &report["shards_incomplete"]),
            (&json!(committed), &json!(0)),
            "{report:#}"
        );
        assert_eq!(output::read(&out), output::read(&place.path("undisturbed")), "{name}");
        let found = essence(&out);
        let unlike: Vec<_> =
            wanted.keys().chain(found.keys()).filter(|path| wanted.get(*path) != found.get(*path)).collect();
        assert!(unlike.is_empty(), "{name}: the rows are equal, these files' bytes are not: {unlike:?}");
    }
    println!("{in_between} of {KILLS} kills left some shards done and some not");
    assert!(in_between > 0, "no kill came in between: the moments are badly chosen");
}

#[test]
fn finished_outputs_are_not_touched() {
    let place = Place::new();
    let input = place.draw("in", 3, 4);
    let out = place.path("out");
    place.run(&input, "out").ends(0);
    let before = files_below(&out);
    let report = place.run(&input, "out").ends(0).report();
    assert_eq!((&report["shards_skipped"], &report["shards_done"]), (&json!(3), &json!(0)), "{report:#}");
    assert_eq!(report["counts"]["read"], json!(0), "{report:#}");
    let mut after = files_below(&out);
    let new = after.extract_if(.., |path, _| !before.contains_key(path)).map(|(path, _)| path);
    let new: Vec<PathBuf> = new.collect();
    assert!(new.iter().all(|path| path.starts_with("_recaption/runs")) && new.len() == 1, "{new:?}");
    assert_eq!(after, before, "files were touched");
    assert_eq!(output::runs(&out).len(), 2);
}

#[test]
fn only_changed_shards_are_redone() {
    let place = Place::new();
    let input = place.draw("in", 4, 4);
    let out = place.path("out");
    place.run(&input, "out").ends(0);
    let before = files_below(&out);
    let rows = output::read(&out);
    place.write("in/00002.tar", scenes(40, 5));
    let report = place.run(&input, "out").ends(0).report();
    assert_eq!((&report["shards_skipped"], &report["shards_done"]), (&json!(3), &json!(1)), "{report:#}");
    let again = output::read(&out);
    let of = |rows: &output::Rows, shard: &str| {
        rows.captions
            .iter()
            .filter(|row| row.shard.ends_with(shard))
            .map(|row| row.key.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&again, "00002.tar"), (0..5).map(|i| format!("00040{i:06}")).collect::<Vec<_>>());
    for shard in ["00000.tar", "00001.tar", "00003.tar"] {
        assert_eq!(of(&again, shard), of(&rows, shard));
    }
    // Its new rows have files of their own, and the old ones are gone; nothing else was touched.
    let after = files_below(&out);
    let unlike = |a: &BTreeMap<PathBuf, _>, b: &BTreeMap<PathBuf, _>| -> Vec<PathBuf> {
        let unlike = a.iter().filter(|(path, time)| b.get(*path) != Some(*time));
        unlike.map(|(path, _)| path.clone()).filter(|path| !path.starts_with("_recaption/runs")).collect()
    };
    for changed in [unlike(&before, &after), unlike(&after, &before)] {
        assert!(changed.iter().all(|p| p.to_string_lossy().contains("00002-")), "{changed:?}");
        assert_eq!(changed.iter().filter(|p| p.starts_with("captions")).count(), 1, "{changed:?}");
    }
    assert_eq!(commits(&out).len(), 4, "the old record of the changed shard is gone");
}

#[test]
fn other_configurations_need_overwrite() {
    let place = Place::new();
    let input = place.draw("in", 2, 4);
    let out = place.path("out");
    place.run(&input, "out").ends(0);
    let before = files_below(&out);
    let refused = place.run(&input, "out").set("caption.max_tokens=9").ends(2);
    refused.warns("`caption.max_tokens` was 35, is 9").warns("--overwrite");
    let refused =
        place.run(&input, "out").set("output.images=embed").arg("--min-similarity").arg("0.1").ends(2);
    refused.warns("`output.images` was none, is embed").warns("`filter.min_similarity` was off, is 0.1");
    refused.never_says("`caption.max_tokens` was");
    assert_eq!(files_below(&out), before, "something was changed");

    let long = output::read(&out);
    place.run(&input, "out").set("caption.max_tokens=9").arg("--overwrite").ends(0);
    let short = output::read(&out);
    assert_eq!(commits(&out).len(), 2, "the old records are gone");
    assert_eq!(short.captions.len(), long.captions.len());
    let words = |rows: &output::Rows| rows.captions.iter().map(|row| row.caption.split(' ').count()).max();
    assert!(
        words(&short) <= Some(8) && words(&long) > Some(8),
        "{:?} and {:?} words",
        words(&short),
        words(&long)
    );
    place.run(&input, "fresh").set("caption.max_tokens=9").ends(0);
    assert_eq!(output::part_bytes(&out), output::part_bytes(&place.path("fresh")));
}

#[test]
fn keys_that_change_no_row_are_ignored_on_resume() {
    let place = Place::new();
    let input = place.draw("in", 2, 4);
    let out = place.path("out");
    place.run(&input, "out").ends(0);
    let before = essence(&out);
    let others = [
        "run.threads=1",
        "run.batch_size=3",
        "model.sessions=2",
        "input.concurrent_shards=1",
        "input.buffer_bytes=1048576",
        "run.seed=7",
    ];
    let run = others.iter().fold(place.run(&input, "out"), |run, other| run.set(other));
    assert_eq!(run.ends(0).report()["shards_skipped"], json!(2));
    assert!(essence(&out) == before);
}

/// A run that has committed its first shard, and has many to go.
fn well_under_way(place: &Place, input: &Path) -> Running {
    let mut run = place.run(input, "out").set("input.concurrent_shards=1").start();
    let began = Instant::now();
    while commits(&place.path("out")).is_empty() {
        assert!(run.is_alive() && began.elapsed() < Duration::from_secs(60), "no shard was committed");
        sleep(Duration::from_millis(5));
    }
    run
}

#[test]
fn ctrl_c_finishes_open_shards_and_resumes() {
    let _alone = alone();
    let place = Place::new();
    // Seconds of work, so that the signal comes before its end.
    let input = place.draw("in", 12, 200);
    let run = well_under_way(&place, &input);
    run.interrupt();
    let said = run.wait();
    said.check(said.status.code() == Some(1), "exit code 1 was expected: shards are left");
    said.warns("finishing the shards in flight");
    let report = said.report();
    let out = place.path("out");
    let done = commits(&out).len();
    assert_eq!((&report["interrupted"], &report["shards_done"]), (&json!(true), &json!(done)), "{report:#}");
    assert_eq!(report["shards_incomplete"], json!(12 - done), "{report:#}");
    // More shards were in flight than the one that was committed: they were finished, not abandoned.
    assert!((2..12).contains(&done), "{done} of 12");
    output::read(&out);

    let report = place.run(&input, "out").ends(0).report();
    assert_eq!(
        (&report["shards_skipped"], &report["shards_done"]),
        (&json!(done), &json!(12 - done)),
        "{report:#}"
    );
    place.run(&input, "undisturbed").ends(0);
    assert!(essence(&out) == essence(&place.path("undisturbed")));
}

#[test]
fn ctrl_c_twice_stops_at_once() {
    let _alone = alone();
    let place = Place::new();
    // Seconds of work, so that both signals come before its end.
    let input = place.draw("in", 12, 200);
    let run = well_under_way(&place, &input);
    run.interrupt();
    sleep(Duration::from_millis(20));
    run.interrupt();
    let pressed = Instant::now();
    let said = run.wait();
    let took = pressed.elapsed();
    said.check(said.status.code() == Some(1), "exit code 1 was expected: shards are left");
    said.check(took < Duration::from_secs(5), &format!("it took {took:?} to stop"));
    said.warns("stopping now");
    assert_eq!(said.report()["interrupted"], json!(true));
    let out = place.path("out");
    nothing_is_half_written(&out);
    println!("stopped after {took:?} with {} of 12 shards", commits(&out).len());
    place.run(&input, "out").ends(0);
    place.run(&input, "undisturbed").ends(0);
    assert!(essence(&out) == essence(&place.path("undisturbed")));
}
