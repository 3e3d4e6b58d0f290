//! The same command from cron: only new and changed shards are processed, missing inputs are reported, `--lock` allows one run
//! at a time; `status` shows what is pending, and `retry` processes what failed.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    fs::{self, File, FileTimes},
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use support::{
    Place, output,
    program::{Call, recaption},
    shards::scenes,
};

fn json(call: Call, code: i32) -> Value {
    call.arg("--log-format").arg("json").ends(code).report()
}

/// Numbers of a report, by name.
#[track_caller]
fn numbers(report: &Value, wanted: &[(&str, u64)]) {
    for (name, number) in wanted {
        assert_eq!(report[name], *number, "{name} in {report:#}");
    }
}

fn status(place: &Place, out: &str) -> Value {
    json(recaption().dir(place.root()).arg("status").arg(place.path(out)), 0)
}

fn retry(place: &Place, out: &str) -> Call {
    recaption().dir(place.root()).arg("retry").arg(place.path(out))
}

#[test]
fn new_and_changed_shards_are_done_and_removed_ones_retired() {
    let place = Place::new();
    let input = place.draw("in", 3, 4);
    json(place.run(&input, "out"), 0);

    place.write("in/00001.tar", scenes(7, 5));
    place.write("in/00003.tar", scenes(3, 4));
    fs::remove_file(input.join("00002.tar")).expect("a shard can be removed");
    numbers(&status(&place, "out"), &[("done", 1), ("pending", 1), ("changed", 1), ("orphaned", 1)]);

    let report = json(place.run(&input, "out"), 0);
    numbers(&report, &[("shards_done", 2), ("shards_skipped", 1)]);
    let orphans = report["shards_orphaned"].as_array().expect("names");
    assert_eq!(orphans.len(), 1, "{report:#}");
    assert!(orphans[0].as_str().is_some_and(|name| name.starts_with("00002-")), "{report:#}");
    assert_eq!(output::read(&place.path("out")).captions.len(), 4 + 5 + 4 + 4, "still there");

    place.write("out/_recaption/failures/gone-00000000.json", "{}");
    let said = place.run(&input, "out").args(["--retire", "--log-format", "text"]).ends(0);
    said.prints("1 shards retired: their inputs are gone");
    assert_eq!(output::commits(&place.path("out")).len(), 3);
    assert!(!place.path("out/_recaption/failures/gone-00000000.json").exists(), "a failure of no input");
    assert_eq!(output::read(&place.path("out")).captions.len(), 4 + 5 + 4);
    numbers(&status(&place, "out"), &[("done", 3), ("pending", 0), ("orphaned", 0)]);
}

#[test]
fn since_skips_older_shards() {
    let place = Place::new();
    let input = place.draw("in", 2, 3);
    let old = SystemTime::now() - Duration::from_secs(3 * 86_400);
    let file = File::options().write(true).open(input.join("00000.tar")).expect("a shard");
    file.set_times(FileTimes::new().set_modified(old)).expect("times can be set");
    let report = json(place.run(&input, "out").args(["--since", "2d"]), 0);
    numbers(&report, &[("shards_done", 1), ("shards_not_selected", 1)]);
    let report = json(place.run(&input, "out").args(["--since", "1999-12-31"]), 0);
    numbers(&report, &[("shards_done", 1), ("shards_skipped", 1)]);
    place.run(&input, "out").args(["--since", "yesterday"]).ends(2).warns("36h");
}

#[test]
fn locked_runs_do_nothing_and_dead_locks_end() {
    let place = Place::new();
    let input = place.draw("in", 40, 6);
    let run = || place.run(&input, "out").arg("--lock").set("model.sessions=1").set("run.batch_size=1");
    let mut first = run().start();
    let lock = place.path("out/_recaption/lock.json");
    while first.is_alive() && fs::read(&lock).map_or(true, |bytes| bytes.is_empty()) {
        std::thread::yield_now();
    }
    let second = run().ends(0);
    second.warns("is locked by process").warns("nothing was done");
    second.check(second.stdout.is_empty(), "no report was expected");
    assert!(first.is_alive(), "the first run was to be under way still: draw more shards");
    first.kill();
    first.wait();
    assert!(lock.exists(), "a killed run leaves its file");
    let report = json(run(), 0);
    assert_eq!(output::read(&place.path("out")).captions.len(), 240, "{report:#}");
    numbers(&report, &[("shards_incomplete", 0)]);
}

#[test]
fn status_lists_done_pending_and_failed_shards() {
    let place = Place::new();
    let input = place.draw("in", 2, 4);
    place.write("in/bad.tar", b"<html>not found</html>".repeat(100));
    place.run(&input, "out").ends(3);
    place.write("in/new.tar", scenes(9, 2));
    let found = status(&place, "out");
    numbers(&found, &[("done", 2), ("pending", 1), ("changed", 0)]);
    numbers(&found["counts"], &[("captioned", 8)]);
    let failed = found["failed"].as_array().expect("a list");
    assert_eq!(failed.len(), 1, "{found:#}");
    assert!(
        failed[0]["error"]
            .as_str()
            .is_some_and(|error| error.contains("it is an HTML page") || error.contains("it is XML")),
        "{found:#}"
    );
    let said = recaption().dir(place.root()).args(["--log-format", "text", "status", "out"]).ends(0);
    said.prints("2 done, 1 pending, 0 changed since, 1 failed").prints("bad.tar");
    recaption()
        .dir(place.root())
        .arg("status")
        .arg("in")
        .ends(1)
        .warns("is not an output of `recaption run`");
}

#[test]
fn retry_repeats_only_failures_with_the_last_settings() {
    let place = Place::new();
    place.draw("in", 2, 4);
    // Relative paths, and the second call is made elsewhere.
    let inputs = ["in/00000.tar", "in/00001.tar", "in/late.tar"].map(Path::new);
    let first = place.run_all(&inputs, "out").set("caption.prompt=a").set("caption.keep_prompt=true").ends(3);
    first.warns("late.tar");
    place.write("in/late.tar", scenes(8, 3));
    let elsewhere = Place::new();
    let report = json(retry(&place, "out").dir(elsewhere.root()), 0);
    numbers(&report, &[("shards_done", 1), ("shards_skipped", 2)]);
    assert_eq!(report["configuration"]["caption.prompt"], "a", "{report:#}");
    assert_eq!(output::read(&place.path("out")).captions.len(), 11);
    let failures = fs::read_dir(place.path("out/_recaption/failures")).expect("a folder");
    assert_eq!(failures.count(), 0, "a success forgets the failure");

    // A shard that says it lost samples to the model is looked at once more; no row says so, so all stay.
    let record = fs::read_dir(place.path("out/_recaption/shards")).expect("records").next();
    let record = record.expect("one").expect("an entry").path();
    let text = fs::read_to_string(&record).expect("a record");
    let mut commit: Value = serde_json::from_str(&text).expect("JSON");
    commit["counts"]["reasons"]["model_error"] = 1.into();
    fs::write(&record, commit.to_string()).expect("a record can be written");
    let report = json(retry(&place, "out"), 0);
    numbers(&report, &[("shards_done", 1), ("shards_skipped", 2)]);
    assert_eq!(fs::read_to_string(&record).expect("a record"), text, "as it was");
    numbers(&json(retry(&place, "out"), 0), &[("shards_done", 0)]);
}
