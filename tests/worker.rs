//! `recaption worker`: every outcome, the same rows as a run, and an end with its input, its parent and its driver's patience.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{
    Place, model,
    output::{self, commits},
    program::recaption,
    server::{Answer, Server},
    shards::{Pack, jpeg, scenes},
    worker::{Worker, is_running, signal},
};

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Rows, part bytes and commit records, which name the same bytes.
fn essence(output: &Path) -> (BTreeMap<PathBuf, Vec<u8>>, Vec<Value>) {
    output::read(output);
    let records = commits(output).into_iter().map(|commit| serde_json::to_value(commit).expect("JSON"));
    (output::part_bytes(output), records.collect())
}

fn shard(place: &Place, name: &str) -> String {
    place.path(name).display().to_string()
}

/// The requests that `recaption plan --shards` prints.
fn planned(place: &Place, input: impl AsRef<Path>, output: &str) -> Vec<Value> {
    let call = recaption().dir(place.root()).arg("plan").arg("--shards").arg("--model").arg(model());
    let said = call.arg("--input").arg(input.as_ref()).arg("--output").arg(place.path(output)).ends(0);
    said.stdout.lines().map(|line| serde_json::from_str(line).expect("a request")).collect()
}

#[test]
fn rows_are_those_of_a_run() {
    let place = Place::new();
    let input = place.draw("in", 6, 5);
    place.write("in/00003.tar", Pack::new().file("a.jpg", jpeg(1)).file("b.jpg", b"no image").close());
    place.run(&input, "run").ends(0);
    let requests = planned(&place, &input, "out");
    assert_eq!(requests.len(), 6);
    assert!(requests.iter().all(|request| request["bytes"].as_u64() > Some(0)), "{requests:?}");
    let mut worker = Worker::start(place.worker("out"));
    let ready = worker.ready();
    assert_eq!((&ready["protocol"], &ready["provider"]), (&json!(1), &json!("cpu")));
    assert_eq!(ready["pid"], json!(worker.id()));
    assert!(ready["in_flight"].as_u64() > Some(1), "{ready}");
    for (n, request) in requests.iter().enumerate() {
        let mut request = request.clone();
        request["id"] = json!(n);
        worker.request(request);
    }
    let answers = worker.answers(6);
    let ended = worker.ends(0);
    assert!(ended.rest.is_empty(), "{:?}", ended.rest);
    for (n, request) in requests.iter().enumerate() {
        let answer = &answers[&n.to_string()];
        assert_eq!((&answer["outcome"], &answer["shard"]), (&json!("committed"), &request["shard"]));
        let record = fs::read(place.path("out").join(answer["record"].as_str().expect("a path")));
        let record: Value = serde_json::from_slice(&record.expect("a record")).expect("JSON");
        for field in ["counts", "captions", "rejects"] {
            assert_eq!(answer[field], record[field], "{answer:#}");
        }
        assert!(answer["seconds"].as_f64() > Some(0.0) && answer["twice"] == json!(false), "{answer:#}");
    }
    assert_eq!(answers["3"]["counts"]["rejected"], json!(1));
    assert!(essence(&place.path("out")) == essence(&place.path("run")));
    assert!(planned(&place, &input, "out").is_empty(), "nothing is left to do");
    let report = output::runs(&place.path("out")).pop().expect("the worker's record");
    assert_eq!((&report["run"], &report["shards_done"]), (&ready["run"], &json!(6)), "{report:#}");
    assert_eq!(report["counts"]["read"], json!(27), "{report:#}");
}

#[test]
fn input_that_ends_at_once_is_no_error() {
    let place = Place::new();
    let worker = Worker::start(place.worker("out"));
    let ended = worker.ends(0);
    assert_eq!(ended.rest.len(), 1, "{:?}", ended.rest);
    assert_eq!(ended.rest[0]["type"], "ready");
    assert_eq!(output::runs(&place.path("out")).len(), 1);
}

#[test]
fn done_missing_broken_and_unknown_shards_are_told_apart() {
    let place = Place::new();
    place.draw("in", 2, 3);
    place.write("in/broken.parquet", b"PAR1 and then nothing of the kind");
    let mut worker = Worker::start(place.worker("out"));
    worker.ready();
    // Relative to the worker's directory; the id is any JSON.
    let id = json!({"n": [1, null, "x"]});
    let answer = worker.ask(json!({"shard": "in/00000.tar", "id": id}));
    assert_eq!((&answer["outcome"], &answer["id"]), (&json!("committed"), &id), "{answer:#}");
    assert_eq!(answer["shard"], "in/00000.tar");
    let again = worker.ask(json!({"shard": shard(&place, "in/00000.tar")}));
    assert_eq!((&again["outcome"], &again["id"]), (&json!("already_done"), &Value::Null), "{again:#}");
    assert_eq!(again["counts"], answer["counts"]);

    let missing = worker.ask(json!({"shard": "in/missing.tar"}));
    assert_eq!(missing["outcome"], "failed", "{missing:#}");
    let error =
        |class: &str, kind: &str, attempts: u32| json!({"class": class, "kind": kind, "attempts": attempts});
    let without_message = |answer: &Value| {
        let mut error = answer["error"].as_object().expect("an error").clone();
        let message = error.shift_remove("message").expect("a message");
        (Value::Object(error), message.as_str().expect("text").to_owned())
    };
    let (found, message) = without_message(&missing);
    assert_eq!(found, error("permanent", "missing", 1));
    assert!(message.contains("in/missing.tar"), "{message}");
    let again = worker.ask(json!({"shard": "in/missing.tar"}));
    assert_eq!(without_message(&again).0, error("permanent", "missing", 2));
    let broken = worker.ask(json!({"shard": "in/broken.parquet"}));
    assert_eq!(without_message(&broken).0, error("permanent", "data", 1), "{broken:#}");
    let refused = worker.ask(json!({"shard": "http://127.0.0.1:1/a.tar"}));
    assert_eq!(without_message(&refused).0, error("transient", "transport", 1), "{refused:#}");
    let unknown = worker.ask(json!({"shard": "ftp://host/a.tar"}));
    assert_eq!(without_message(&unknown).0, error("configuration", "missing", 1), "{unknown:#}");

    // A failure is over once the shard is done.
    let failures = || fs::read_dir(place.path("out/_recaption/failures")).expect("a folder").count();
    assert_eq!(failures(), 3);
    place.write("in/missing.tar", scenes(7, 3));
    let found = worker.ask(json!({"shard": "in/missing.tar"}));
    assert_eq!(found["outcome"], "committed", "{found:#}");
    worker.ends(0);
    assert_eq!(failures(), 2);
    let report = output::runs(&place.path("out")).pop().expect("a record");
    assert_eq!(report["shards_failed"].as_array().map(Vec::len), Some(2), "{report:#}");
    assert_eq!((&report["shards_done"], &report["shards_skipped"]), (&json!(2), &json!(1)));
}

#[test]
fn lines_that_are_no_requests_are_answered_and_skipped() {
    let place = Place::new();
    place.draw("in", 1, 3);
    let mut worker = Worker::start(place.worker("out"));
    // Before the worker is ready, too.
    worker.line("no JSON");
    worker.line("");
    worker.line("{\"shard\":\"https://user:s3cr3t@h/x?sig=s3cr3t\",\"wait\":\"https://h/?sig=s3cr3t\"}");
    worker.line(vec![b'x'; 3 << 20]);
    worker.line([b'"', 0xff, b'"']);
    worker.request(json!({"shard": "in/00000.tar", "later": "field"}));
    worker.ready();
    for (line, words) in [(1, "expected"), (3, "boolean"), (4, "more than 65536 bytes"), (5, "UTF-8")] {
        let answer = worker.next();
        assert_eq!((&answer["type"], &answer["line"]), (&json!("invalid"), &json!(line)), "{answer:#}");
        let error = answer["error"].as_str().expect("text");
        assert!(error.contains(words) && !error.contains("s3cr3t"), "{error}");
    }
    assert_eq!(worker.next()["outcome"], "committed");
    let ended = worker.ends(0);
    assert!(!ended.stderr.contains("s3cr3t"), "{}", ended.stderr);
}

#[test]
fn shard_that_is_asked_for_twice_is_processed_once() {
    let place = Place::new();
    place.draw("in", 1, 30);
    let mut worker = Worker::start(place.worker("out"));
    worker.ready();
    for id in ["a", "b", "c"] {
        worker.request(json!({"shard": "in/00000.tar", "id": id, "wait": id != "c"}));
    }
    let answers = worker.answers(3);
    assert_eq!(answers["a"]["outcome"], "committed");
    for id in ["b", "c"] {
        assert_eq!(answers[id]["outcome"], "already_done");
        assert_eq!(answers[id]["counts"], answers["a"]["counts"]);
    }
    worker.ends(0);
    assert_eq!(output::runs(&place.path("out"))[0]["shards_done"], json!(1));
}

#[test]
fn changed_shards_are_processed_again_and_leave_no_old_rows() {
    let place = Place::new();
    place.draw("in", 2, 3);
    let mut worker = Worker::start(place.worker("out"));
    worker.ready();
    for name in ["in/00000.tar", "in/00001.tar"] {
        assert_eq!(worker.ask(json!({"shard": name}))["outcome"], "committed");
    }
    for (n, scene) in [(5, 40), (4, 41)] {
        place.write("in/00001.tar", scenes(scene, n));
        let answer = worker.ask(json!({"shard": "in/00001.tar"}));
        assert_eq!((&answer["outcome"], &answer["counts"]["read"]), (&json!("committed"), &json!(n)));
    }
    worker.ends(0);
    place.run(place.path("in"), "fresh").ends(0);
    assert!(essence(&place.path("out")) == essence(&place.path("fresh")), "rows of old versions are left");
}

/// The first worker scanned the output before the second one committed an earlier version, which the second still claims.
#[test]
fn shard_that_changed_since_another_worker_did_it_leaves_no_old_rows() {
    let place = Place::new();
    place.draw("in", 1, 3);
    let mut first = Worker::start(place.worker("out"));
    first.ready();
    let mut second = Worker::start(place.worker("out"));
    second.ready();
    assert_eq!(second.ask(json!({"shard": "in/00000.tar"}))["outcome"], "committed");
    place.write("in/00000.tar", scenes(40, 5));
    let answer = first.ask(json!({"shard": "in/00000.tar", "wait": false}));
    assert_eq!(
        (&answer["outcome"], &answer["counts"]["read"]),
        (&json!("committed"), &json!(5)),
        "{answer:#}"
    );
    first.ends(0);
    second.ends(0);
    place.run(place.path("in"), "fresh").ends(0);
    assert!(essence(&place.path("out")) == essence(&place.path("fresh")), "rows of the old version are left");
}

#[test]
fn claimed_shards_are_waited_for_or_not() {
    let place = Place::new();
    place.draw("in", 1, 1500);
    place.draw("more", 1, 3);
    let mut first = Worker::start(place.worker("out").set("model.sessions=1"));
    let mut second = Worker::start(place.worker("out"));
    first.ready();
    second.ready();
    first.request(json!({"shard": "in/00000.tar"}));
    until("a claim", || {
        let claims = fs::read_dir(place.path("out/_recaption/claims"));
        claims.is_ok_and(|claims| claims.count() == 1)
    });
    let claimed = second.ask(json!({"shard": "in/00000.tar", "wait": false}));
    assert_eq!(claimed["outcome"], "claimed", "{claimed:#}");
    second.request(json!({"shard": "in/00000.tar", "id": "waits"}));
    // It works on others meanwhile.
    let other = second.ask(json!({"shard": "more/00000.tar", "id": "other"}));
    assert_eq!((&other["outcome"], &other["id"]), (&json!("committed"), &json!("other")), "{other:#}");
    let waited = second.next();
    assert_eq!(waited["id"], "waits");
    assert_eq!(
        (&waited["outcome"], &waited["twice"]),
        (&json!("done_by_other"), &json!(false)),
        "{waited:#}"
    );
    assert_eq!(first.next()["outcome"], "committed");
    first.ends(0);
    second.ends(0);
    assert_eq!(commits(&place.path("out")).len(), 2);
}

#[test]
fn shard_of_a_dead_worker_is_taken_over() {
    let place = Place::new();
    place.draw("in", 1, 200);
    let mut first = Worker::start(place.worker("out").set("model.sessions=1"));
    let mut second = Worker::start(place.worker("out"));
    first.ready();
    second.ready();
    first.request(json!({"shard": "in/00000.tar"}));
    until("a claim", || {
        let claims = fs::read_dir(place.path("out/_recaption/claims"));
        claims.is_ok_and(|claims| claims.count() == 1)
    });
    second.request(json!({"shard": "in/00000.tar"}));
    first.kill();
    first.wait();
    assert_eq!(second.next()["outcome"], "committed");
    second.ends(0);
    place.run(place.path("in"), "alone").ends(0);
    assert_eq!(output::read(&place.path("out")), output::read(&place.path("alone")));
}

#[test]
fn two_workers_and_a_run_share_an_output() {
    let place = Place::new();
    let input = place.draw("in", 16, 12);
    place.run(&input, "alone").ends(0);
    let requests = planned(&place, &input, "out");
    let mut workers = [(); 2].map(|()| Worker::start(place.worker("out").set("run.batch_size=4")));
    workers.iter().for_each(|worker| drop(worker.ready()));
    let run = place.run(&input, "out").set("run.batch_size=4").start();
    for (n, request) in requests.iter().enumerate() {
        for worker in &mut workers {
            let mut request = request.clone();
            request["id"] = json!(n);
            worker.request(request);
        }
    }
    let mut committed = 0;
    for worker in workers {
        let answers = worker.answers(16);
        worker.ends(0);
        let outcomes: Vec<&str> =
            answers.values().map(|answer| answer["outcome"].as_str().expect("text")).collect();
        let is_done = |outcome: &&&str| ["committed", "already_done", "done_by_other"].contains(*outcome);
        assert!(outcomes.iter().all(|outcome| is_done(&outcome)), "{outcomes:?}");
        committed += outcomes.iter().filter(|outcome| **outcome == "committed").count();
    }
    let said = run.wait();
    said.check(said.status.code() == Some(0), "exit code 0 was expected");
    let by_run = said.report()["shards_done"].as_u64().expect("a number");
    println!("{committed} committed by the workers, {by_run} by the run");
    assert!(essence(&place.path("out")) == essence(&place.path("alone")));
}

#[test]
fn sigterm_finishes_the_shards_in_flight() {
    let place = Place::new();
    place.draw("in", 12, 60);
    let calls = place.worker("out").set("model.sessions=1").set("input.concurrent_shards=1");
    let mut worker = Worker::start(calls);
    worker.ready();
    for n in 0..12 {
        worker.request(json!({"shard": format!("in/{n:05}.tar"), "id": n}));
    }
    let first = worker.next();
    assert_eq!(first["outcome"], "committed");
    worker.terminate();
    // Its input stays open.
    let ended = worker.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let of = |outcome: &str| ended.rest.iter().filter(|answer| answer["outcome"] == outcome).count();
    let (committed, stopped) = (1 + of("committed"), of("stopped"));
    assert_eq!(committed + stopped, 12, "{:#?}", ended.rest);
    assert!(stopped > 0, "everything was done before the signal");
    assert_eq!(commits(&place.path("out")).len(), committed);
    output::read(&place.path("out"));
    let report = output::runs(&place.path("out")).pop().expect("a record");
    assert_eq!(report["shards_incomplete"], json!(stopped), "{report:#}");
    assert_eq!(report["interrupted"], json!(true));
    place.run(place.path("in"), "out").ends(0);
    place.run(place.path("in"), "undisturbed").ends(0);
    assert!(essence(&place.path("out")) == essence(&place.path("undisturbed")));
}

#[test]
fn idle_worker_ends_at_sigterm_with_nothing_left() {
    let place = Place::new();
    let worker = Worker::start(place.worker("out"));
    worker.ready();
    worker.terminate();
    let ended = worker.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.rest.is_empty(), "{:?}", ended.rest);
}

/// A stop while the models are loaded: its driver must not take it for a worker that did everything.
#[test]
fn stop_before_the_worker_is_ready_is_no_success() {
    let place = Place::new();
    for attempt in 0..20 {
        let output = format!("out{attempt}");
        let worker = Worker::start(place.worker(&output));
        // It has joined the output, and has not loaded its models.
        let heartbeats = place.path(&output).join("_recaption/workers");
        until("a heartbeat", || fs::read_dir(&heartbeats).is_ok_and(|mut files| files.next().is_some()));
        worker.terminate();
        let ended = worker.wait();
        if ended.rest.first().is_some_and(|line| line["type"] == "ready") {
            // The signal came late.
            continue;
        }
        assert_eq!(ended.code, Some(1), "{:?}\n{}", ended.rest, ended.stderr);
        assert_eq!(ended.rest.len(), 1, "{:#?}", ended.rest);
        let fatal = &ended.rest[0];
        assert_eq!((&fatal["type"], &fatal["class"]), (&json!("fatal"), &json!("transient")), "{fatal:#}");
        assert!(fatal["error"].as_str().is_some_and(|e| e.contains("before the worker was ready")));
        assert!(!fs::read_dir(&heartbeats).is_ok_and(|mut files| files.next().is_some()));
        return;
    }
    panic!("every signal came after `ready`");
}

/// A shard that takes minutes: thousands of scenes, few tokens at a time.
fn long_shard(place: &Place) {
    place.draw("in", 1, 4000);
}

#[test]
fn shards_are_abandoned_when_the_grace_is_over() {
    let place = Place::new();
    long_shard(&place);
    let mut worker = Worker::start(place.worker("out").set("run.grace_seconds=1").set("run.threads=1"));
    worker.ready();
    worker.request(json!({"shard": "in/00000.tar", "id": "long"}));
    until("a claim", || place.path("out/_recaption/claims").is_dir());
    worker.terminate();
    let began = Instant::now();
    let ended = worker.wait();
    assert!(began.elapsed() > Duration::from_millis(900), "the grace was not given");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(ended.rest.len(), 1, "{:#?}", ended.rest);
    assert_eq!((&ended.rest[0]["id"], &ended.rest[0]["outcome"]), (&json!("long"), &json!("stopped")));
    let out = place.path("out");
    assert!(commits(&out).is_empty() && output::parts(&out).is_empty(), "something is half-written");
    assert_eq!(output::runs(&out)[0]["shards_incomplete"], json!(1));
    let claims = fs::read_dir(place.path("out/_recaption/claims")).map_or(0, Iterator::count);
    assert_eq!(claims, 0, "claims are left");
}

#[test]
fn runs_have_a_grace_too() {
    let place = Place::new();
    long_shard(&place);
    let run = place.run(place.path("in"), "out").set("run.grace_seconds=1").set("run.threads=1").start();
    until("a claim", || place.path("out/_recaption/claims").is_dir());
    signal(run.id(), "TERM");
    let said = run.wait();
    said.check(said.status.code() == Some(1), "exit code 1 was expected: the shard is left");
    said.warns("the grace is over");
    let report = said.report();
    assert_eq!(
        (&report["shards_incomplete"], &report["interrupted"]),
        (&json!(1), &json!(true)),
        "{report:#}"
    );
    let out = place.path("out");
    assert!(commits(&out).is_empty() && output::parts(&out).is_empty(), "something is half-written");
}

#[test]
fn worker_ends_with_its_parent() {
    let place = Place::new();
    long_shard(&place);
    let pipe = place.path("requests");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("`mkfifo` starts").success());
    let call = place.worker("out").set("run.grace_seconds=1").set("run.threads=1");
    let worker: Command = call.into_command();
    let script = r#""$@" < requests > answers 2> log & echo $! > process; wait"#;
    let mut parent = Command::new("sh");
    parent.arg("-c").arg(script).arg("sh").arg(worker.get_program()).args(worker.get_args());
    let mut parent = parent.current_dir(place.root()).stdin(Stdio::null()).spawn().expect("`sh` starts");
    // Held open until the end: it is not its input's end that ends the worker.
    let mut requests = fs::OpenOptions::new().write(true).open(&pipe).expect("the worker reads");
    std::io::Write::write_all(&mut requests, b"{\"shard\":\"in/00000.tar\"}\n").expect("a request");
    until("a claim", || place.path("out/_recaption/claims").is_dir());
    let process =
        fs::read_to_string(place.path("process")).expect("a number").trim().parse().expect("a number");
    assert!(is_running(process));
    signal(parent.id(), "KILL");
    parent.wait().expect("it has ended");
    until("the worker ends", || !is_running(process));
    drop(requests);
    let answers = fs::read_to_string(place.path("answers")).expect("answers");
    assert!(answers.lines().count() == 2 && answers.contains("stopped"), "{answers}");
    let log = fs::read_to_string(place.path("log")).expect("a log");
    assert!(log.contains("the parent process is gone"), "{log}");
    assert!(commits(&place.path("out")).is_empty());
}

#[test]
fn worker_outlives_the_thread_that_started_it() {
    let place = Place::new();
    place.draw("in", 1, 3);
    let mut worker = std::thread::spawn({
        let call = place.worker("out");
        move || Worker::start(call)
    })
    .join()
    .expect("no panic");
    worker.ready();
    // The kernel's signal came when the thread ended, or comes again.
    signal(worker.id(), "USR1");
    assert_eq!(worker.ask(json!({"shard": "in/00000.tar"}))["outcome"], "committed");
    worker.ends(0);
}

#[test]
fn driver_that_never_reads_keeps_no_worker() {
    let place = Place::new();
    place.draw("in", 1, 3);
    let mut command: Command = place.worker("out").into_command();
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = piped.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || {
        // More answers than a pipe holds, and more lines than the worker takes.
        let line = format!("{}\n", json!({"shard": "in/00000.tar", "id": "x".repeat(1000)}));
        let written =
            (0..5000).take_while(|_| std::io::Write::write_all(&mut stdin, line.as_bytes()).is_ok());
        written.count()
    });
    until("a commit", || !commits(&place.path("out")).is_empty());
    sleep(Duration::from_secs(1));
    signal(child.id(), "TERM");
    until("the worker ends", || child.try_wait().expect("a child can be asked").is_some());
    let written = writer.join().expect("no panic");
    assert!(written < 5000, "the worker took everything");
    assert_eq!(output::runs(&place.path("out")).len(), 1);
}

#[test]
fn closed_stdout_stops_the_worker() {
    let place = Place::new();
    place.draw("in", 1, 3);
    let mut command: Command = place.worker("out").into_command();
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = piped.spawn().expect("the program starts");
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().expect("a pipe");
    let _ = std::io::Write::write_all(&mut stdin, b"{\"shard\":\"in/00000.tar\"}\n");
    until("the worker ends", || child.try_wait().expect("a child can be asked").is_some());
}

#[test]
fn other_configurations_end_the_worker() {
    let place = Place::new();
    let input = place.draw("in", 1, 3);
    place.run(&input, "out").ends(0);
    let worker = Worker::start(place.worker("out").set("caption.max_tokens=9"));
    let fatal = worker.next();
    assert_eq!((&fatal["type"], &fatal["class"]), (&json!("fatal"), &json!("configuration")), "{fatal:#}");
    assert!(
        fatal["error"].as_str().is_some_and(|e| e.contains("`caption.max_tokens` was 35, is 9")),
        "{fatal:#}"
    );
    assert_eq!(worker.wait().code, Some(2));
    // And while it runs: the first commit decides.
    let mut worker = Worker::start(place.worker("new"));
    worker.ready();
    place.run(&input, "new").set("caption.max_tokens=9").ends(0);
    let before = essence(&place.path("new"));
    worker.request(json!({"shard": place.draw("other", 1, 4).join("00000.tar"), "id": 1}));
    let answer = worker.next();
    assert_eq!((&answer["outcome"], &answer["error"]["class"]), (&json!("failed"), &json!("configuration")));
    let fatal = worker.next();
    assert_eq!((&fatal["type"], &fatal["class"]), (&json!("fatal"), &json!("configuration")), "{fatal:#}");
    assert_eq!(worker.wait().code, Some(2));
    assert!(essence(&place.path("new")) == before);
}

#[test]
fn bad_arguments_and_models_are_fatal_lines() {
    let place = Place::new();
    let cases = [
        (recaption().arg("worker").arg("--output").arg(place.path("out")), "configuration", 2),
        (place.worker("out").set("run.threads=0"), "configuration", 2),
        (
            recaption().args(["worker", "--model", "/no/model", "--output"]).arg(place.path("out")),
            "permanent",
            1,
        ),
    ];
    for (call, class, code) in cases {
        let worker = Worker::start(call);
        let fatal = worker.next();
        assert_eq!((&fatal["type"], &fatal["class"]), (&json!("fatal"), &json!(class)), "{fatal:#}");
        assert_eq!(worker.wait().code, Some(code));
    }
}

#[test]
fn given_up_shards_are_seen_by_status() {
    let place = Place::new();
    let input = place.draw("in", 3, 3);
    let call = place.worker("out").arg("--input").arg(&input);
    let mut worker = Worker::start(call);
    worker.ready();
    let done = worker.ask(json!({"shard": "in/00000.tar"}));
    assert_eq!(done["outcome"], "committed");
    let reason = "killed 3 workers, signal 9; see https://h/log?sig=s3cr3t";
    let given_up = json!({"shard": "in/00001.tar", "id": 7, "give_up": reason, "attempts": 3});
    let answer = worker.ask(given_up);
    assert_eq!((&answer["outcome"], &answer["id"]), (&json!("given_up"), &json!(7)), "{answer:#}");
    let done = worker.ask(json!({"shard": "in/00000.tar", "give_up": "a mistake"}));
    assert_eq!(done["outcome"], "already_done", "{done:#}");
    worker.ends(0);
    let status = recaption().arg("status").arg(place.path("out")).ends(0);
    status.never_says("s3cr3t");
    let status = status.report();
    assert_eq!((&status["done"], &status["pending"]), (&json!(1), &json!(1)), "{status:#}");
    let failed = &status["failed"][0];
    assert_eq!((&failed["class"], &failed["attempts"]), (&json!("crash"), &json!(3)), "{status:#}");
    assert!(failed["error"].as_str().is_some_and(|e| e.contains("killed 3 workers")), "{status:#}");
    // A run tries it again, and its failure is over.
    place.run(&input, "out").ends(0);
    let status = recaption().arg("status").arg(place.path("out")).ends(0).report();
    assert_eq!(status["failed"], json!([]));
}

#[test]
fn parts_of_lists_are_shards() {
    let place = Place::new();
    let answers =
        (0..10_u64).map(|n| (format!("/{n}.jpg"), Answer::File(jpeg(n)))).collect::<HashMap<_, _>>();
    let server = Server::start(answers);
    let list: String = (0..10).map(|n| format!("http://127.0.0.1:{}/{n}.jpg\n", server.port())).collect();
    place.write("list.csv", format!("url\n{list}"));
    let settings = ["fetch.allow_private=true", "input.rows_per_shard=4"];
    let run = |call: support::program::Call| settings.iter().fold(call, |call, setting| call.set(setting));
    run(place.run(place.path("list.csv"), "run")).ends(0);
    let mut worker = Worker::start(run(place.worker("out")));
    worker.ready();
    for shard in ["list.csv#part=2", "list.csv", "list.csv#part=1", "list.csv#part=3"] {
        worker.request(json!({"shard": shard, "id": shard}));
    }
    let answers = worker.answers(4);
    let read = |shard: &str| answers[shard]["counts"]["read"].as_u64();
    assert_eq!(
        [read("list.csv"), read("list.csv#part=1"), read("list.csv#part=2")],
        [Some(4), Some(4), Some(2)],
        "{answers:#?}"
    );
    let error = &answers["list.csv#part=3"]["error"];
    assert_eq!(error["class"], "permanent");
    assert!(error["message"].as_str().is_some_and(|e| e.contains("the list has 3 parts")), "{error:#}");
    worker.ends(0);
    assert!(essence(&place.path("out")) == essence(&place.path("run")));
}

#[test]
fn folders_of_images_are_shards() {
    let place = Place::new();
    for n in 0..4_u64 {
        place.write(&format!("photos/{}/{n}.jpg", if n < 2 { "a" } else { "b/c" }), jpeg(n));
    }
    place.write("photos/metadata.csv", "file_name,text\na/0.jpg,from above\nb/c/3.jpg,from above too\n");
    let input = place.path("photos");
    place.run(&input, "run").ends(0);
    let requests = planned(&place, &input, "out");
    assert_eq!(requests.len(), 2, "{requests:?}");
    let mut worker = Worker::start(place.worker("out").arg("--input").arg(&input));
    worker.ready();
    for request in requests {
        let answer = worker.ask(request);
        assert_eq!(answer["outcome"], "committed", "{answer:#}");
    }
    let empty = worker.ask(json!({"shard": "photos/b/"}));
    assert_eq!(empty["error"]["kind"], "missing", "{empty:#}");
    worker.ends(0);
    assert!(essence(&place.path("out")) == essence(&place.path("run")));
    assert!(output::read(&place.path("out")).captions.iter().any(|row| row.org_caption.is_some()));
}

#[test]
fn presigned_urls_are_read_and_never_shown() {
    let place = Place::new();
    let tar = Pack::new().file("a.jpg", jpeg(1)).close();
    let targets = ["/0.tar?sig=s3cr3t", "/1.tar?sig=s3cr3t"];
    let files = ["/0.tar", "/1.tar"].map(|path| (path.to_owned(), Answer::OnlyGet(tar.clone())));
    let server = Server::start(files.into());
    let url = |target: &str| format!("http://127.0.0.1:{}{target}", server.port());
    let call = place.worker("out").arg("--input").arg(url(targets[1]));
    let mut worker = Worker::start(call);
    worker.ready();
    let answer = worker.ask(json!({"shard": url(targets[0])}));
    assert_eq!((&answer["outcome"], &answer["shard"]), (&json!("committed"), &json!(url("/0.tar"))));
    // As `plan --shards` names it: the configuration has the signature.
    let answer = worker.ask(json!({"shard": url("/1.tar")}));
    assert_eq!(answer["outcome"], "committed", "{answer:#}");
    let ended = worker.ends(0);
    assert!(!ended.stderr.contains("s3cr3t"), "{}", ended.stderr);
    for commit in commits(&place.path("out")) {
        assert!(!commit.shard.contains("s3cr3t"));
    }
    let asked = server.asked();
    assert!(
        asked.len() > 3 && asked.iter().all(|request| request.target.ends_with("?sig=s3cr3t")),
        "{asked:?}"
    );
}

#[test]
fn metrics_are_served() {
    let place = Place::new();
    place.draw("in", 2, 3);
    let mut worker = Worker::start(place.worker("out").arg("--metrics-addr").arg("127.0.0.1:0"));
    worker.ready();
    let log = worker.log();
    let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    for name in ["in/00000.tar", "in/00001.tar", "in/00001.tar"] {
        worker.ask(json!({"shard": name}));
    }
    let mut stream = std::net::TcpStream::connect(address).expect("a server");
    std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.1\r\n\r\n").expect("a request");
    let text = std::io::read_to_string(stream).expect("text");
    for line in ["{state=\"done\"} 2", "{state=\"skipped\"} 1", "{state=\"pending\"} 0"] {
        assert!(text.contains(&format!("recaption_shards{line}\n")), "{line} is missing in\n{text}");
    }
    worker.ends(0);
}

#[test]
fn plans_of_shards_say_nothing_else() {
    let place = Place::new();
    let input = place.draw("in", 3, 3);
    let plan = || {
        let call = recaption().dir(place.root()).arg("plan").arg("--model").arg(model()).arg("--shards");
        call.arg("--input").arg(&input).arg("--output").arg(place.path("out"))
    };
    assert_eq!(plan().ends(0).stdout.lines().count(), 3);
    assert!(!place.path("out").exists(), "nothing is written");
    assert_eq!(plan().arg("--sample").arg("0.01").ends(0).stdout.lines().count(), 1);
    place.run(&input, "out").ends(0);
    assert_eq!(plan().ends(0).stdout, "");
    let refused = plan().set("caption.max_tokens=9").ends(2);
    refused.warns("`caption.max_tokens` was 35, is 9");
    assert_eq!(refused.stdout, "");
    plan().arg("--limit").arg("9").ends(2);
    recaption().args(["plan", "--shards"]).ends(2);
}
