//! What a record promises is looked at, one configuration owns an output, and workers divide the work.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{collections::HashSet, fs, path::Path, thread::sleep, time::Duration};

use recaption_schemas::ShardId;
use serde_json::{Value, json};
use support::{
    Place,
    bucket::Bucket,
    output::{self, commits, parts},
    program::{Call, recaption},
    server::{Answer, Server},
    shards::{jpeg, scenes},
};

fn records(out: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(out.join("_recaption/shards")).expect("records");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

fn status(out: &Path) -> Call {
    recaption().args(["--log-format", "json", "status"]).arg(out)
}

#[test]
fn missing_or_truncated_parts_are_reported_and_redone() {
    let place = Place::new();
    let input = place.draw("in", 3, 5);
    place.run(&input, "out").ends(0);
    let (out, wanted) = (place.path("out"), output::read(&place.path("out")));
    let all = commits(&out);
    fs::remove_file(out.join(&all[0].captions.path)).expect("a part");
    let cut = out.join(&all[1].rejects.path);
    let bytes = fs::read(&cut).expect("a part");
    fs::write(&cut, &bytes[..bytes.len() - 1]).expect("a part");
    let found = status(&out).ends(3).report();
    assert_eq!(
        (&found["done"], found["invalid"].as_array().map(Vec::len)),
        (&json!(1), Some(2)),
        "{found:#}"
    );
    let said = place.run(&input, "out").ends(0);
    said.warns("is missing").warns(&format!("bytes instead of {}", bytes.len()));
    let report = said.report();
    assert_eq!((&report["shards_done"], &report["shards_skipped"]), (&json!(2), &json!(1)), "{report:#}");
    assert_eq!(output::read(&out), wanted);
    status(&out).ends(0);
}

#[test]
fn verify_finds_changed_parts_of_the_same_size() {
    let place = Place::new();
    let input = place.draw("in", 2, 5);
    place.run(&input, "out").ends(0);
    let out = place.path("out");
    status(&out).arg("--verify").ends(0);
    let part = out.join(&commits(&out)[0].captions.path);
    let mut bytes = fs::read(&part).expect("a part");
    bytes[20] ^= 1;
    fs::write(&part, bytes).expect("a part");
    status(&out).ends(0);
    let found = status(&out).arg("--verify").ends(3).report();
    assert!(found["invalid"][0].as_str().is_some_and(|what| what.contains("another content")), "{found:#}");
}

#[test]
fn unusable_records_are_reported_and_redone() {
    let place = Place::new();
    let input = place.draw("in", 4, 4);
    place.run(&input, "out").ends(0);
    let (out, wanted) = (place.path("out"), output::read(&place.path("out")));
    let all = records(&out);
    let whole = fs::read(&all[0]).expect("a record");
    fs::write(&all[0], &whole[..whole.len() / 2]).expect("a record");
    fs::write(&all[1], fs::read(&all[3]).expect("a record")).expect("a record");
    fs::remove_file(&all[2]).expect("a record");
    fs::create_dir(&all[2]).expect("a folder in its place");
    let found = status(&out).ends(3).report();
    assert_eq!(found["invalid"].as_array().map(Vec::len), Some(2), "{found:#}");
    recaption().arg("inspect").arg(&out).ends(0);
    recaption()
        .args(["filter", "--min-similarity", "-1"])
        .arg(&out)
        .arg("--to")
        .arg(place.path("new"))
        .ends(0);
    let said = place.run(&input, "out").ends(0);
    said.warns("not a commit record").warns("another shard").warns("a folder that stands");
    assert_eq!(said.report()["shards_done"], json!(3));
    assert_eq!(output::read(&out), wanted);
}

#[test]
fn leftovers_of_dead_workers_are_deleted_and_reported() {
    let place = Place::new();
    let input = place.draw("in", 2, 4);
    place.run(&input, "out").ends(0);
    let (out, wanted) = (place.path("out"), output::read(&place.path("out")));
    let id = ShardId::from_url(&commits(&out)[0].shard);
    let part = out.join(&commits(&out)[0].captions.path);
    fs::copy(part, out.join("captions").join(id.part_name("0123456789abcdef"))).expect("a part");
    let found = status(&out).ends(0).report();
    assert_eq!(found["unclaimed"], json!(1), "{found:#}");
    let report = place.run(&input, "out").ends(0).report();
    assert_eq!(
        (&report["leftovers_removed"], &report["shards_skipped"]),
        (&json!(1), &json!(2)),
        "{report:#}"
    );
    assert_eq!(output::read(&out), wanted);
}

#[test]
fn outputs_of_older_versions_are_continued() {
    let place = Place::new();
    let input = place.draw("in", 3, 4);
    place.run(&input, "out").ends(0);
    let out = place.path("out");
    let wanted = output::read(&out);
    // As version 0.1 named everything.
    for path in records(&out) {
        let mut commit: Value = serde_json::from_slice(&fs::read(&path).expect("a record")).expect("JSON");
        let url = commit["shard"].as_str().expect("a URL").to_owned();
        let old = ShardId::old_from_url(&url);
        for table in ["captions", "rejects"] {
            let name = format!("{table}/part-{old}.parquet");
            let was = commit[table]["path"].as_str().expect("a path").to_owned();
            fs::rename(out.join(was), out.join(&name)).expect("a part");
            commit[table]["path"] = name.into();
        }
        let name = format!("{old}.{}.json", commit["fingerprint"].as_str().expect("a fingerprint"));
        fs::write(path.with_file_name(name), commit.to_string()).expect("a record");
        fs::remove_file(path).expect("a record");
    }
    fs::remove_file(out.join("_recaption/configuration.json")).expect("a claim");
    let report = place.run(&input, "out").ends(0).report();
    assert_eq!((&report["shards_skipped"], &report["shards_done"]), (&json!(3), &json!(0)), "{report:#}");
    place.run(&input, "out").set("caption.max_tokens=9").ends(2).warns("`caption.max_tokens` was 35, is 9");
    assert_eq!(output::read(&out), wanted);
    place.write("in/00001.tar", scenes(7, 4));
    let report = place.run(&input, "out").ends(0).report();
    assert_eq!((&report["shards_skipped"], &report["shards_done"]), (&json!(2), &json!(1)), "{report:#}");
    output::read(&out);
}

/// Two folders whose shards have the same first 8 digits of digest.
fn twins(place: &Place) -> [String; 2] {
    let mut seen = std::collections::HashMap::new();
    for n in 0_u32.. {
        let folder = format!("{n}");
        let url = format!("file://{}", place.path(&format!("in/{folder}/00000.tar")).display());
        let old = ShardId::old_from_url(&url);
        if let Some(other) = seen.insert(old, folder.clone()) {
            return [other, folder];
        }
    }
    unreachable!("eight digits repeat")
}

#[test]
fn shards_with_colliding_old_names_keep_their_rows() {
    let place = Place::new();
    let [a, b] = twins(&place);
    let inputs =
        [(&a, 0), (&b, 1)].map(|(folder, n)| place.write(&format!("in/{folder}/00000.tar"), scenes(n, 4)));
    place.run_all(&inputs, "both").ends(0);
    assert_eq!(output::read(&place.path("both")).captions.len(), 8);
    // One night each.
    place.run(&inputs[0], "nights").ends(0);
    place.run(&inputs[1], "nights").ends(0);
    assert_eq!(output::read(&place.path("nights")).captions.len(), 8);
}

#[test]
fn the_second_of_two_configurations_commits_nothing() {
    let place = Place::new();
    let input = place.draw("in", 6, 60);
    let start = |tokens: &str| place.run(&input, "out").set("run.threads=1").set(tokens).start();
    let both = [start("caption.max_tokens=35"), start("caption.max_tokens=5")].map(|worker| worker.wait());
    let mut codes = both.each_ref().map(|said| said.status.code());
    codes.sort();
    assert_eq!(codes, [Some(0), Some(2)], "{}\n{}", both[0].stderr, both[1].stderr);
    let loser = both.iter().find(|said| said.status.code() == Some(2)).expect("one of them");
    loser.warns("another configuration").warns("`caption.max_tokens` was");
    let out = place.path("out");
    let configurations: HashSet<String> =
        commits(&out).into_iter().map(|commit| commit.configuration["caption.max_tokens"].clone()).collect();
    assert_eq!((configurations.len(), commits(&out).len()), (1, 6));
    output::read(&out);
}

/// How many of the shards are processed twice by workers that are started together: none where they divide them.
fn processed_twice(bucket: &Bucket, workers: usize) -> u64 {
    let work = || bucket.run("in", "out").set("run.threads=1").start();
    let started: Vec<_> = (0..workers).map(|_| work()).collect();
    let reports: Vec<Value> = started
        .into_iter()
        .map(|worker| {
            let said = worker.wait();
            said.check(said.status.code() == Some(0), "exit code 0 was expected of all workers");
            said.report()
        })
        .collect();
    let of = |name: &str| {
        reports.iter().map(|report| report[name].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    println!(
        "done {:?}, elsewhere {:?}, twice {:?}",
        of("shards_done"),
        of("shards_done_by_others"),
        of("shards_done_twice")
    );
    of("shards_done_twice").iter().sum()
}

fn two_workers_process_one_of_eight_shards_twice_at_most(bucket: &Bucket) {
    (0..8).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 40)));
    let twice = processed_twice(bucket, 2);
    assert!(twice <= 1, "{twice} of 8 shards were processed twice");
    assert_eq!((bucket.records("out").len(), bucket.rows("out").captions.len()), (8, 320));
    let left = bucket.list("out/_recaption");
    assert!(!left.iter().any(|name| name.contains("/claims/") || name.contains("/workers/")), "{left:?}");
}

#[test]
fn two_workers_divide_shards_in_a_folder() {
    two_workers_process_one_of_eight_shards_twice_at_most(&Bucket::local());
}

#[test]
fn two_workers_divide_shards_in_a_bucket() {
    two_workers_process_one_of_eight_shards_twice_at_most(&Bucket::moto());
}

#[test]
fn three_workers_process_three_of_sixty_shards_twice_at_most() {
    let bucket = Bucket::local();
    (0..60).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 8)));
    let twice = processed_twice(&bucket, 3);
    assert!(twice <= 3, "{twice} of 60 shards were processed twice");
    assert_eq!(bucket.records("out").len(), 60);
}

#[test]
fn frozen_workers_lose_their_shards_to_others() {
    let place = Place::new();
    let input = place.draw("in", 4, 60);
    let run = || place.run(&input, "out").set("run.threads=1").set("run.claim_seconds=2");
    let out = place.path("out");
    let mut frozen = run().start();
    while !out.join("_recaption/claims").exists() {
        assert!(frozen.is_alive());
        sleep(Duration::from_millis(2));
    }
    let signal = |what: &str| {
        let sent = std::process::Command::new("kill").arg(what).arg(frozen.id().to_string()).status();
        assert!(sent.expect("`kill` starts").success());
    };
    signal("-STOP");
    run().ends(0);
    let wanted = output::read(&out);
    assert_eq!(wanted.captions.len(), 240);
    signal("-CONT");
    let said = frozen.wait();
    said.check(said.status.code() == Some(0), "exit code 0 was expected of the one that was frozen");
    assert_eq!(output::read(&out), wanted);
}

#[test]
fn samples_rejected_by_a_setting_retry_when_it_changes() {
    let place = Place::new();
    let server = Server::start((0..6).map(|n| (format!("/{n}.jpg"), Answer::File(jpeg(n)))).collect());
    let rows: String =
        (0..6).map(|n| format!("http://127.0.0.1:{}/{n}.jpg\tk{n}\n", server.port())).collect();
    let list = place.write("list.tsv", format!("url\tkey\n{rows}"));
    let run = || place.run(&list, "out").set("run.max_failure_ratio=1");
    run().ends(0);
    let out = place.path("out");
    assert_eq!(output::read(&out).rejects.len(), 6);
    let retry = |allow: &str| {
        let retry = recaption().dir(place.root()).args(["--log-format", "json", "retry"]).arg(&out);
        retry.set(allow).ends(0).report()
    };
    assert_eq!(retry("fetch.allow_private=false")["shards_done"], json!(0), "nothing changed");
    assert_eq!(retry("fetch.allow_private=true")["shards_done"], json!(1));
    assert_eq!(output::read(&out).captions.len(), 6);
    // And with --overwrite, over another output.
    let run = || place.run(&list, "other").set("run.max_failure_ratio=1");
    run().ends(0);
    run().set("fetch.allow_private=true").arg("--overwrite").ends(0);
    assert_eq!(output::read(&place.path("other")).captions.len(), 6);
}

#[test]
fn missing_shards_are_permanent_the_second_time() {
    let bucket = Bucket::moto();
    bucket.put("in/00000.tar", scenes(0, 4));
    let run = || bucket.run("in", "out").arg("--input").arg(bucket.url("in/gone.tar"));
    let report = run().ends(3).report();
    assert_eq!(report["shards_failed"][0]["class"], json!("missing"), "{report:#}");
    let report = run().ends(4).report();
    assert_eq!(report["shards_failed"][0]["attempts"], json!(2), "{report:#}");
    assert_eq!(parts(&std::env::temp_dir().join("none")).len(), 0);
}
