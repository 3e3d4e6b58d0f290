//! A store that fails in every way that a network has: mitmproxy before moto makes the mistakes, and the rows are those of
//! an undisturbed run, none lost and none twice. `scripts/fault_soak.py` does it a thousand times, and `scripts/kill_soak.py`
//! kills a hundred times.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{
    Dice,
    bucket::Bucket,
    output::Rows,
    program::Running,
    services::Service,
    shards::{Pack, encoded, scenes},
};

/// A bucket, and a way to it that makes mistakes.
struct Troubled {
    /// Undisturbed.
    bucket: Bucket,
    /// The same through the proxy.
    way: Bucket,
    proxy: Service,
}

impl Troubled {
    fn new(settings: &[(&str, &str)]) -> Self {
        let bucket = Bucket::moto();
        let port = bucket.service.as_ref().expect("a server").port();
        let settings: Vec<(&str, String)> = settings.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        let proxy = Service::faults(port, &settings);
        Self { bucket, way: Bucket::s3(proxy.port()), proxy }
    }

    /// One line for each request and each mistake.
    fn journal(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.proxy.path("journal.jsonl")).expect("a journal");
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Mistakes by kind.
    fn mistakes(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in self.journal() {
            if let Some(kind) = line["fault"].as_str() {
                *counts.entry(kind.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// Requests of this kind.
    fn asked(&self, method: &str, path: &str) -> Vec<Value> {
        let lines = self.journal().into_iter().filter(|line| line["request"] == json!(true));
        let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
        lines.filter(|line| line["method"] == json!(method) && text(line, "path").contains(path)).collect()
    }
}

/// What an undisturbed run over the same shards gives.
fn undisturbed(shards: &[(String, Vec<u8>)], set: &[&str]) -> Rows {
    let folder = Bucket::local();
    shards.iter().for_each(|(key, bytes)| folder.put(key, bytes.clone()));
    set.iter().fold(folder.run("in", "out"), |call, set| call.set(set)).ends(0);
    folder.rows("out")
}

fn drawn(shards: u32, count: u32) -> Vec<(String, Vec<u8>)> {
    (0..shards).map(|n| (format!("in/{n:05}.tar"), scenes(n, count))).collect()
}

#[test]
fn a_hundred_store_faults_change_no_row() {
    // 5 % of some 2,000 requests.
    let shards = drawn(320, 2);
    let troubled = Troubled::new(&[
        ("FAULTS_SEED", "93"),
        ("FAULTS_RATE", "0.05"),
        ("FAULTS_STALL", "3"),
        ("FAULTS_STALLS", "8"),
    ]);
    shards.iter().for_each(|(key, bytes)| troubled.bucket.put(key, bytes.clone()));
    let run = troubled.way.run("in", "out").set("store.timeout_seconds=2").start();
    let said = run.wait();
    let mistakes = troubled.mistakes();
    println!(
        "{} mistakes in {:.1} s: {mistakes:?}",
        mistakes.values().sum::<usize>(),
        said.took.as_secs_f64()
    );
    said.check(said.status.code() == Some(0), "exit code 0 was expected in spite of everything");
    assert!(mistakes.values().sum::<usize>() >= 80 && mistakes.len() >= 9, "{mistakes:?}");
    assert_eq!(troubled.bucket.records("out").len(), 320);
    assert_eq!(troubled.bucket.rows("out"), undisturbed(&shards, &[]));
}

#[test]
fn commits_with_lost_responses_count() {
    let shards = drawn(3, 6);
    let troubled = Troubled::new(&[("FAULTS_AT", "lost_answer ^PUT .*/_recaption/shards/")]);
    shards.iter().for_each(|(key, bytes)| troubled.bucket.put(key, bytes.clone()));
    let report = troubled.way.run("in", "out").ends(0).report();
    assert_eq!(troubled.mistakes(), BTreeMap::from([("lost_answer".to_owned(), 1)]));
    assert_eq!((&report["shards_done"], &report["shards_failed"]), (&json!(3), &json!([])), "{report:#}");
    // The record was put on the condition that there is none, and found to be there.
    let puts = troubled.asked("PUT", "/_recaption/shards/");
    assert!(puts.len() > 3, "the lost answer made no second request: {puts:#?}");
    assert!(puts.iter().all(|put| put["if_none_match"] == json!("*")), "{puts:#?}");
    assert_eq!(troubled.bucket.records("out").len(), 3);
    assert_eq!(troubled.bucket.rows("out"), undisturbed(&shards, &[]));
}

/// A shard whose part goes up in pieces: noise is made no smaller by any codec.
fn heavy() -> Vec<u8> {
    let mut dice = Dice::new(17);
    let pack = (0..6).fold(Pack::new(), |pack, n| {
        // Bytes after a picture's end are stored with it.
        let mut file = encoded(n, image::ImageFormat::Png);
        file.extend(dice.noise(4 << 20));
        pack.file(&format!("heavy{n}.png"), file)
    });
    pack.close()
}

#[test]
fn uploads_with_lost_completions_are_complete_or_redone() {
    let shards = [("in/00000.tar".to_owned(), heavy()), ("in/00001.tar".to_owned(), scenes(1, 6))];
    let troubled = Troubled::new(&[("FAULTS_AT", "lost_answer ^POST .*uploadId=")]);
    shards.iter().for_each(|(key, bytes)| troubled.bucket.put(key, bytes.clone()));
    troubled.way.run("in", "out").set("output.images=embed").ends(0);
    assert_eq!(troubled.mistakes(), BTreeMap::from([("lost_answer".to_owned(), 1)]));
    assert_eq!(troubled.bucket.records("out").len(), 2);
    assert_eq!(troubled.bucket.rows("out"), undisturbed(&shards, &["output.images=embed"]));
}

#[test]
fn first_pieces_with_lost_responses_are_sent_again() {
    let shards = [("in/00000.tar".to_owned(), heavy())];
    let troubled =
        Troubled::new(&[("FAULTS_AT", "lost_answer ^PUT .*partNumber=1\nlost_answer ^POST .*uploads")]);
    shards.iter().for_each(|(key, bytes)| troubled.bucket.put(key, bytes.clone()));
    troubled.way.run("in", "out").set("output.images=embed").ends(0);
    assert_eq!(troubled.mistakes(), BTreeMap::from([("lost_answer".to_owned(), 2)]));
    assert_eq!(troubled.bucket.rows("out"), undisturbed(&shards, &["output.images=embed"]));
}

#[test]
fn too_short_announcements_do_not_truncate_a_shard() {
    let shards = drawn(4, 6);
    let troubled = Troubled::new(&[(
        "FAULTS_AT",
        "too_short ^GET /shards/in/00001.tar\ntoo_short ^GET /shards/in/00003.tar\ntoo_long ^GET /shards/in/00002.tar",
    )]);
    shards.iter().for_each(|(key, bytes)| troubled.bucket.put(key, bytes.clone()));
    let report = troubled.way.run("in", "out").ends(0).report();
    let wanted = [("too_long".to_owned(), 1), ("too_short".to_owned(), 2)];
    assert_eq!(troubled.mistakes(), BTreeMap::from(wanted));
    assert_eq!(report["shards_damaged"], json!([]), "{report:#}");
    assert_eq!(troubled.bucket.rows("out"), undisturbed(&shards, &[]));
}

#[test]
fn responses_that_end_halfway_are_resumed_to_the_end() {
    let shards = [("in/00000.tar".to_owned(), scenes(0, 60))];
    let troubled = Troubled::new(&[
        ("FAULTS_RATE", "1"),
        ("FAULTS_KINDS", "cut,reset"),
        ("FAULTS_ONLY", r"^GET /shards/in/\d+\.tar$"),
    ]);
    troubled.bucket.put(&shards[0].0, shards[0].1.clone());
    // Fewer attempts than cuts: what counts is that bytes come.
    let report = troubled.way.run("in", "out").set("store.retries=3").ends(0).report();
    let mistakes = troubled.mistakes().values().sum::<usize>();
    println!("{mistakes} times of {} bytes, {} s", shards[0].1.len(), report["seconds"]);
    assert!(mistakes > 10, "{:?}", troubled.mistakes());
    assert_eq!(troubled.bucket.rows("out"), undisturbed(&shards, &[]));
}

/// Waits until `output` has as many commit records. Workers that end before have done everything.
fn wait_for_records(bucket: &Bucket, output: &str, records: usize, workers: &mut [Running]) {
    let began = Instant::now();
    while bucket.records(output).len() < records && workers.iter_mut().any(Running::is_alive) {
        assert!(began.elapsed() < Duration::from_secs(60), "no {records} shards were committed");
    }
}

#[test]
fn killed_workers_leave_the_same_rows_as_one() {
    const KILLS: usize = 6;
    let shards = drawn(40, 12);
    let bucket = Bucket::moto();
    shards.iter().for_each(|(key, bytes)| bucket.put(key, bytes.clone()));
    let work = || bucket.run("in", "out").set("run.threads=1").set("input.concurrent_shards=2").start();
    let mut dice = Dice::new(9);
    let (mut between, mut done) = (0, 0);
    for kill in 0..KILLS {
        let mut workers = [work(), work()];
        // Some shards further, and then at any moment of the next one.
        wait_for_records(&bucket, "out", done + dice.throw() as usize % 6, &mut workers);
        sleep(Duration::from_millis(dice.throw() % 60));
        workers.iter_mut().for_each(Running::kill);
        workers.into_iter().for_each(|worker| drop(worker.wait()));
        done = bucket.records("out").len();
        between += usize::from(done > 0 && done < shards.len());
        println!("kill {kill}: {done} of {} shards", shards.len());
    }
    assert!(between >= KILLS / 2, "too few kills came in between");
    let report = bucket.run("in", "out").ends(0).report();
    // The server may still have been writing what the dead had sent when their records were counted.
    let number = |of: &str| report[of].as_u64().expect("a number") as usize;
    assert!(number("shards_skipped") >= done, "what was committed is done again: {report:#}");
    assert_eq!(number("shards_skipped") + number("shards_done"), shards.len(), "{report:#}");
    assert_eq!(number("shards_incomplete"), 0, "{report:#}");
    assert_eq!(bucket.records("out").len(), shards.len());
    assert_eq!(bucket.rows("out"), undisturbed(&shards, &[]));
}
