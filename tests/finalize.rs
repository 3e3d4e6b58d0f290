//! `recaption finalize`: says whether an output is complete, sums up its records, cleans up after dead workers, and may be run and
//! killed at any moment.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    fs::{self, File},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use recaption_schemas::{FailureClass, FailureRecord, ShardId};
use serde_json::{Value, json};
use support::{
    Dice, Place,
    bucket::Bucket,
    model,
    output::{self, commits, parts},
    program::{Call, Said, recaption},
    shards::scenes,
};

fn finalize(place: &Place, output: &str) -> Call {
    recaption().dir(place.root()).args(["--log-format", "json", "finalize"]).arg(place.path(output))
}

fn totals(output: &Path) -> Value {
    let bytes = fs::read(output.join("_recaption/totals.json")).expect("totals");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The numbers of shards, by name.
#[track_caller]
fn shards(said: &Said, state: &str, wanted: &[(&str, u64)]) {
    let report = said.report();
    assert_eq!(report["totals"]["state"], state, "{report:#}");
    for (name, number) in wanted {
        assert_eq!(report["totals"]["shards"][name], *number, "{name} in {report:#}");
    }
}

/// A configuration file of a run over `in` into `out`.
fn configuration(place: &Place) -> std::path::PathBuf {
    let text = format!(
        "[model]\ncaptioner = {:?}\n[input]\nshards = [{:?}]\n[output]\nurl = {:?}\n",
        model(),
        place.path("in"),
        place.path("out")
    );
    place.write("job.toml", text)
}

#[test]
fn complete_outputs_have_totals_and_a_report() {
    let place = Place::new();
    let input = place.draw("in", 3, 5);
    place.run(&input, "out").ends(0);
    let before = output::part_bytes(&place.path("out"));
    let said = finalize(&place, "out").ends(0);
    shards(&said, "complete", &[("inputs", 3), ("committed", 3), ("pending", 0), ("with_rows", 3)]);
    let sums = totals(&place.path("out"));
    assert_eq!(said.report()["totals"], sums, "what is printed is what is written");
    assert_eq!((&sums["samples"]["read"], &sums["samples"]["captioned"]), (&json!(15), &json!(15)));
    let bytes: u64 = commits(&place.path("out")).iter().map(|commit| commit.captions.bytes).sum();
    assert_eq!(sums["parts"]["captions"], json!({"files": 3, "rows": 15, "bytes": bytes}));
    assert_eq!((&sums["runs"]["processes"], &sums["runs"]["shards_done"]), (&json!(1), &json!(3)));
    let inputs: u64 = fs::read_dir(&input)
        .expect("shards")
        .map(|shard| shard.expect("a shard").metadata().expect("its size").len())
        .sum();
    assert_eq!(sums["shards"]["committed_bytes"], inputs);
    let page = fs::read_to_string(place.path("out/report.html")).expect("a page");
    assert!(page.contains("15 captions, 0 rejects"), "{}", &page[..2000]);
    assert_eq!(output::part_bytes(&place.path("out")), before, "no part was touched");

    // Once more: the same bytes. And whoever reads the output takes no notice.
    let first = fs::read(place.path("out/_recaption/totals.json")).expect("totals");
    finalize(&place, "out").ends(0);
    assert_eq!(fs::read(place.path("out/_recaption/totals.json")).expect("totals"), first);
    let text =
        recaption().dir(place.root()).args(["--log-format", "text", "finalize"]).arg(place.path("out"));
    text.arg("--no-report").ends(0).prints("state     complete").prints("3 inputs = 3 committed + 0 pending");
    let report = place.run(&input, "out").arg("--retire").ends(0).report();
    assert_eq!((&report["shards_skipped"], &report["leftovers_removed"]), (&json!(3), &json!(0)));
    let call = |args: &[&str]| recaption().dir(place.root()).args(args);
    call(&["status", "out", "--verify"]).ends(0);
    call(&["filter", "out", "--keep-top", "0.5", "--to", "best"]).ends(0);
    call(&["convert", "out", "--to", "parquet", "--out", "tables"]).ends(0);
    call(&["report", "out", "--out", "page.html", "--no-images"]).ends(0);
    call(&["inspect", "out"]).ends(0);
    assert_eq!(output::read(&place.path("out")).captions.len(), 15);
}

#[test]
fn what_is_left_decides_the_code() {
    let place = Place::new();
    let input = place.draw("in", 2, 4);
    place.write("in/bad.tar", b"<html>not found</html>".repeat(100));
    place.run(&input, "out").ends(3);
    let said = finalize(&place, "out").arg("--no-report").ends(3);
    shards(&said, "incomplete", &[("committed", 2), ("failed", 1), ("failed_permanently", 0)]);
    assert!(!place.path("out/report.html").exists());

    place.run(&input, "out").ends(4);
    let said = finalize(&place, "out").ends(4);
    shards(&said, "permanent_failures", &[("committed", 2), ("failed", 0), ("failed_permanently", 1)]);
    let open = &said.report()["totals"]["open"];
    assert!(open[0]["shard"].as_str().is_some_and(|shard| shard.ends_with("bad.tar")), "{open:#}");

    // A new input, a changed one, and a part that is gone: another run may commit them.
    place.write("in/new.tar", scenes(9, 2));
    place.write("in/00000.tar", scenes(7, 4));
    let damaged = commits(&place.path("out")).into_iter().find(|c| c.shard.ends_with("00001.tar"));
    fs::remove_file(place.path("out").join(damaged.expect("a record").captions.path)).expect("removed");
    let said = finalize(&place, "out").ends(3);
    let wanted =
        [("committed", 0), ("pending", 1), ("changed", 1), ("invalid", 1), ("failed_permanently", 1)];
    shards(&said, "incomplete", &wanted);
    place.run(&input, "out").ends(4);
    finalize(&place, "out").ends(4);
    fs::remove_file(place.path("in/bad.tar")).expect("a shard can be removed");
    shards(&finalize(&place, "out").ends(0), "complete", &[("committed", 3), ("failed_permanently", 0)]);
}

#[test]
fn shards_given_up_by_a_driver_are_permanent() {
    let place = Place::new();
    let input = place.draw("in", 2, 3);
    place.run(input.join("00000.tar"), "out").ends(0);
    let url = format!("file://{}", input.join("00001.tar").canonicalize().expect("a path").display());
    let found = finalize(&place, "out").arg("--input").arg(&input).ends(3).report();
    assert_eq!(found["totals"]["open"][0]["shard"], url, "{found:#}");
    // The fingerprint is what a run records: of a shard whose first attempt fails there.
    let record = |input: String| FailureRecord {
        shard: url.clone(),
        input,
        class: FailureClass::Crash,
        error: format!("shard {url}: given up: its worker died 3 times"),
        attempts: 1,
    };
    let id = ShardId::from_url(&url);
    let path = format!("out/_recaption/failures/{}.json", id.as_str());
    place.write(&path, serde_json::to_vec(&record("of another version".to_owned())).expect("JSON"));
    finalize(&place, "out").arg("--input").arg(&input).ends(3);
    let fingerprint = fingerprint_of(&place, &input.join("00001.tar"));
    place.write(&path, serde_json::to_vec(&record(fingerprint)).expect("JSON"));
    let said = finalize(&place, "out").arg("--input").arg(&input).ends(4);
    shards(&said, "permanent_failures", &[("committed", 1), ("failed_permanently", 1)]);
}

/// The fingerprint of an input, from the name of the record that a run over it makes.
fn fingerprint_of(place: &Place, shard: &Path) -> String {
    place.run(shard, "other").ends(0);
    let record = &commits(&place.path("other"))[0];
    record.fingerprint.split('-').next().expect("two fingerprints").to_owned()
}

#[test]
fn damaged_shards_are_committed() {
    let place = Place::new();
    let whole = scenes(0, 6);
    place.write("in/cut.tar", &whole[..whole.len() * 2 / 3]);
    place.run(place.path("in"), "out").ends(3);
    let said = finalize(&place, "out").ends(0);
    shards(&said, "complete", &[("committed", 1), ("damaged", 1)]);
    assert!(said.report()["totals"]["damaged"][0].as_str().is_some_and(|text| text.contains("cut.tar")));
}

#[test]
fn killed_runs_are_finalized_by_their_configuration() {
    let place = Place::new();
    // Several times what the stages hold between reader and writer.
    let (shards, samples) = (12, 200);
    place.draw("in", shards, samples);
    let config = configuration(&place);
    let run = || recaption().dir(place.root()).arg("run").arg(&config);
    let mut killed =
        run().set("model.sessions=1").set("run.batch_size=1").set("input.concurrent_shards=1").start();
    let records = place.path("out/_recaption/shards");
    while killed.is_alive() && fs::read_dir(&records).map_or(0, Iterator::count) < 3 {
        std::thread::yield_now();
    }
    killed.kill();
    killed.wait();
    finalize(&place, "out").ends(2).warns("no record of a run").warns("--config");
    let by_config =
        || recaption().dir(place.root()).args(["--log-format", "json", "finalize", "--config"]).arg(&config);
    let report = by_config().ends(3).report();
    let totals = &report["totals"]["shards"];
    assert_eq!(totals["inputs"], json!(shards), "{report:#}");
    assert!(totals["committed"].as_u64() >= Some(2) && totals["pending"].as_u64() > Some(0), "{report:#}");
    assert_eq!((&report["totals"]["runs"]["processes"], &report["workers"]), (&json!(0), &json!(0)));
    assert!(!exists(&place.path("out/_recaption/claims")) && !exists(&place.path("out/_recaption/workers")));

    by_config().set("output.images=embed").ends(2).warns("`output.images` was none, is embed");
    run().ends(0);
    let report = by_config().ends(0).report();
    assert_eq!(report["totals"]["samples"]["captioned"], json!(shards * samples), "{report:#}");
    assert_eq!(output::read(&place.path("out")).captions.len(), (shards * samples) as usize);
}

#[test]
fn finalized_outputs_are_converted_whatever_their_last_run() {
    let place = Place::new();
    let input = place.draw("in", 2, 3);
    place.run(&input, "out").ends(0);
    // One of several tasks, which was preempted after the others had done its work.
    let record = r#"{"run": "90000101T000000000Z-00000000", "finished": "9000-01-01T00:00:00Z", "interrupted": true,
        "shards_incomplete": 1, "explicit_settings": {}}"#;
    place.write("out/_recaption/runs/90000101T000000000Z-00000000.json", record);
    let convert = |to: &str| {
        recaption().dir(place.root()).args(["convert", "out", "--to", "parquet", "--out"]).arg(place.path(to))
    };
    convert("first").ends(2).warns("interrupted");
    finalize(&place, "out").arg("--no-report").arg("--input").arg(&input).ends(0);
    convert("second").ends(0);
    // Another run has ended since: nobody knows what it left.
    place.write("out/_recaption/runs/90000101T000000001Z-00000000.json", record.replace("000Z-", "001Z-"));
    convert("third").ends(2).warns("interrupted");
}

#[test]
fn inputs_on_the_command_line_are_relative_to_here() {
    let place = Place::new();
    let input = place.draw("in", 3, 3);
    place.run(&input, "out").ends(0);
    // Other shards, in a folder that is called as the run's. One of them fails at first.
    place.write("elsewhere/list", "in/good.tar\nin/other.tar\n");
    place.write("elsewhere/in/good.tar", scenes(5, 2));
    place.write("elsewhere/in/other.tar", b"<html>not found</html>".repeat(100));
    place.run(place.path("elsewhere/in"), "retried").ends(3);
    place.write("elsewhere/in/other.tar", scenes(6, 2));
    let call = |command: &str, output: &str| {
        let call = recaption().dir(&place.path("elsewhere")).args(["--log-format", "json", command]);
        call.arg(place.path(output))
    };
    for named in ["in", "in/*.tar", "@list"] {
        let said = call("finalize", "out").args(["--no-report", "--input", named]).ends(3);
        shards(&said, "incomplete", &[("inputs", 2), ("committed", 0), ("pending", 2)]);
    }
    call("finalize", "out").args(["--no-report", "--set", "input.shards=in"]).ends(3);
    let said = call("finalize", "out").arg("--no-report").ends(0);
    shards(&said, "complete", &[("inputs", 3), ("committed", 3)]);
    call("retry", "retried").args(["--input", "@list"]).ends(0);
    let is_other = |shard: &str| shard.ends_with("elsewhere/in/other.tar");
    assert!(commits(&place.path("retried")).iter().any(|commit| is_other(&commit.shard)));
}

#[test]
fn inputs_are_those_of_the_last_run_that_had_some() {
    let place = Place::new();
    let input = place.draw("in", 2, 3);
    place.run(&input, "out").ends(0);
    // Of a worker, whose driver names the shards.
    let record =
        r#"{"run": "worker", "finished": "9000-01-01T00:00:00Z", "explicit_settings": {"run.seed": "0"}}"#;
    place.write("out/_recaption/runs/90000101T000000000Z-00000000.json", record);
    shards(&finalize(&place, "out").arg("--no-report").ends(0), "complete", &[("inputs", 2)]);
    let status = |output: &str| {
        recaption().dir(place.root()).args(["--log-format", "json", "status"]).arg(place.path(output))
    };
    let found = status("out").ends(0).report();
    assert_eq!((&found["last_run"], &found["pending"]), (&json!("worker"), &json!(0)), "{found:#}");

    // No run had inputs.
    place.write("bare/_recaption/runs/90000101T000000000Z-00000000.json", record);
    let found = status("bare").ends(0).report();
    let why = found["inputs_unknown"].as_str().expect("a reason");
    assert!(why.contains("no run that ended here had inputs"), "{why}");
    finalize(&place, "bare").ends(2).warns("no record of a run that ended here has inputs");
}

/// Whether a folder has files.
fn exists(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

#[test]
fn leftovers_of_dead_workers_go_and_those_of_living_ones_stay() {
    let place = Place::new();
    let input = place.draw("in", 2, 4);
    place.run(&input, "out").ends(0);
    let out = place.path("out");
    // As a worker leaves them that dies after its part was visible, of a shard that another has committed.
    let mine = commits(&out)[0].captions.path.clone();
    let digest = mine.len() - ".parquet".len() - 4;
    let orphan = format!("{}beef.parquet", &mine[..digest]);
    fs::copy(out.join(&mine), out.join(&orphan)).expect("copied");
    place.write("out/_recaption/claims/00000-0123456789abcdef.json", "{\"worker\":\"dead\"}\n");
    let living = place.write("out/_recaption/workers/living.json", "{}");
    let lock = File::open(&living).expect("a heartbeat");
    lock.lock().expect("locked");
    let said = finalize(&place, "out").ends(0);
    assert_eq!((&said.report()["workers"], &said.report()["leftovers_removed"]), (&json!(1), &json!(0)));
    assert!(out.join(&orphan).exists() && exists(&out.join("_recaption/claims")));
    drop(lock);
    let said = finalize(&place, "out").ends(0);
    assert_eq!((&said.report()["workers"], &said.report()["leftovers_removed"]), (&json!(0), &json!(1)));
    assert!(!out.join(&orphan).exists(), "its rows would be read twice");
    assert!(!exists(&out.join("_recaption/claims")) && !exists(&out.join("_recaption/workers")));
    assert_eq!(output::read(&out).captions.len(), 8);
}

#[test]
fn runs_go_on_beside_finalize() {
    let place = Place::new();
    let input = place.draw("in", 24, 6);
    let config = configuration(&place);
    let mut run = place.run(&input, "out").set("model.sessions=1").set("run.batch_size=1").start();
    let mut seen = 0;
    while run.is_alive() {
        if !exists(&place.path("out/_recaption/shards")) {
            sleep(Duration::from_millis(20));
            continue;
        }
        // Two at once, as two schedulers' steps may be.
        let call = || recaption().dir(place.root()).arg("finalize").arg("--config").arg(&config).start();
        for said in [call(), call()].map(|call| call.wait()) {
            said.check(matches!(said.status.code(), Some(0 | 3)), "incomplete or complete was expected");
            seen += usize::from(said.report()["workers"].as_u64() > Some(0));
        }
    }
    let said = run.wait();
    said.check(said.status.code() == Some(0), "the run was to end well");
    assert!(seen > 0, "finalize never ran beside the run: draw more shards");
    finalize(&place, "out").ends(0);
    assert_eq!(output::read(&place.path("out")).captions.len(), 24 * 6);
}

#[test]
fn finalize_killed_at_any_moment_leaves_whole_files() {
    let place = Place::new();
    let input = place.draw("in", 6, 8);
    place.run(&input, "out").ends(0);
    let took = {
        let began = Instant::now();
        finalize(&place, "out").ends(0);
        began.elapsed()
    };
    let wanted = fs::read(place.path("out/_recaption/totals.json")).expect("totals");
    let mut dice = Dice::new(15);
    const KILLS: u32 = 12;
    for n in 0..KILLS {
        if n % 2 == 0 {
            for name in ["out/_recaption/totals.json", "out/report.html"] {
                let _ = fs::remove_file(place.path(name));
            }
        }
        let mut call = finalize(&place, "out").start();
        sleep(took.mul_f64((f64::from(n) + dice.fraction()) / f64::from(KILLS)));
        if call.is_alive() {
            call.kill();
        }
        call.wait();
        if let Ok(found) = fs::read(place.path("out/_recaption/totals.json")) {
            assert_eq!(found, wanted, "kill {n}");
        }
        if let Ok(page) = fs::read_to_string(place.path("out/report.html")) {
            assert!(page.trim_end().ends_with("</html>"), "kill {n}: half a page");
        }
    }
    finalize(&place, "out").ends(0);
    assert_eq!(fs::read(place.path("out/_recaption/totals.json")).expect("totals"), wanted);
    assert!(!exists(&place.path("out/_recaption/workers")), "heartbeats of killed processes are gone");
    assert_eq!(output::read(&place.path("out")).captions.len(), 48);
    assert_eq!(parts(&place.path("out")).len(), 12);
}

#[test]
fn buckets_are_finalized_too() {
    let bucket = Bucket::moto();
    (0..3).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 4)));
    bucket.run("in", "out").ends(0);
    let call = || bucket.recaption().args(["--log-format", "json", "finalize"]).arg(bucket.url("out"));
    let said = call().ends(0);
    shards(&said, "complete", &[("inputs", 3), ("committed", 3)]);
    assert!(bucket.list("out").contains(&"out/report.html".to_owned()));
    let first = bucket.get("out/_recaption/totals.json");
    assert!(String::from_utf8(bucket.get("out/report.html")).expect("text").contains("12 captions"));
    // A worker that was killed a moment ago: its heartbeat is young, and is waited for.
    bucket.put("out/_recaption/workers/dead.json", b"{\"worker\":\"dead\",\"progress\":\"1\"}\n".to_vec());
    bucket.put("out/_recaption/claims/00000-0123456789abcdef.json", b"{\"worker\":\"dead\"}\n".to_vec());
    let said = call().args(["--no-report", "--set", "run.claim_seconds=3"]).ends(0);
    assert_eq!(said.report()["workers"], json!(0), "{:#}", said.report());
    assert!(
        bucket.list("out/_recaption/claims").is_empty() && bucket.list("out/_recaption/workers").is_empty()
    );
    assert_eq!(bucket.get("out/_recaption/totals.json"), first);
    bucket.run("in", "out").ends(0);
    assert_eq!(bucket.rows("out").captions.len(), 12);
}
