//! Array jobs: tasks that share an output without knowing of each other but through it.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use recaption::run::ArrayTask;
use recaption_schemas::ShardId;
use serde_json::{Value, json};
use support::{
    Place,
    bucket::Bucket,
    output::{self, commits},
    program::{Call, Running, Said},
    shards::scenes,
};

/// A call as a task of an array job. One shard after another, so that the tasks meet.
fn task(call: Call, index: usize, count: usize) -> Call {
    let call = call.arg("--task-index").arg(index.to_string()).arg("--task-count").arg(count.to_string());
    call.set("run.threads=1").set("input.concurrent_shards=1")
}

fn number(report: &Value, key: &str) -> usize {
    report[key].as_u64().expect("a number") as usize
}

/// The URLs of the shards that are done.
fn done(place: &Place, output: &str) -> BTreeSet<String> {
    commits(&place.path(output)).into_iter().map(|commit| commit.shard).collect()
}

/// Those of these shards that are a task's.
fn share(shards: &BTreeSet<String>, index: u32, count: u32) -> BTreeSet<String> {
    let task = ArrayTask { index, count, steal: true };
    shards.iter().filter(|url| task.owns(&ShardId::from_url(url))).cloned().collect()
}

#[track_caller]
fn ended_well(said: Said) -> Value {
    said.check(said.status.code() == Some(0), "exit code 0 was expected");
    said.report()
}

#[test]
fn killed_and_restarted_tasks_leave_the_rows_of_one_process() {
    const TASKS: usize = 4;
    let place = Place::new();
    let input = place.draw("in", 32, 8);
    place.run(&input, "alone").ends(0);
    let start = |index| task(place.run(&input, "out"), index, TASKS).start();
    let mut tasks: Vec<Running> = (0..TASKS).map(start).collect();
    let began = Instant::now();
    while done(&place, "out").len() < 6 && tasks[1].is_alive() {
        assert!(began.elapsed() < Duration::from_secs(120), "nothing was committed");
        sleep(Duration::from_millis(5));
    }
    assert!(tasks[1].is_alive() && done(&place, "out").len() < 32, "the task ended before it was killed");
    tasks[1].kill();
    tasks.remove(1).wait();
    tasks.push(start(1));
    let reports: Vec<Value> = tasks.into_iter().map(|task| ended_well(task.wait())).collect();
    let sum = |key: &str| reports.iter().map(|report| number(report, key)).sum::<usize>();
    assert!(sum("shards_done_twice") <= TASKS, "{reports:#?}");
    assert_eq!((sum("shards_incomplete"), sum("shards_not_selected")), (0, 0), "{reports:#?}");
    assert_eq!(output::read(&place.path("out")), output::read(&place.path("alone")));
}

#[test]
fn tasks_that_do_not_help_do_their_share() {
    let place = Place::new();
    let input = place.draw("in", 15, 2);
    place.run(&input, "alone").ends(0);
    let all = done(&place, "alone");
    let mut so_far = BTreeSet::new();
    for index in 0..3 {
        let said = task(place.run(&input, "out"), index, 3).arg("--steal=false").ends(0);
        let report = said.report();
        let own = share(&all, index as u32, 3);
        assert_eq!(number(&report, "shards_done"), own.len(), "{report:#}");
        assert_eq!(
            number(&report, "shards_not_selected"),
            all.len() - so_far.len() - own.len(),
            "{report:#}"
        );
        assert_eq!(report["task"], json!({"index": index, "count": 3, "steal": false}), "{report:#}");
        so_far.extend(own);
        assert_eq!(done(&place, "out"), so_far);
    }
    assert_eq!(output::read(&place.path("out")), output::read(&place.path("alone")));
}

#[test]
fn tasks_do_their_share_first_and_then_help() {
    let place = Place::new();
    let input = place.draw("in", 16, 6);
    // The other four tasks never run.
    let report = task(place.run(&input, "out"), 2, 5).set("run.batch_size=2").ends(0).report();
    assert_eq!(
        (number(&report, "shards_done"), number(&report, "shards_not_selected")),
        (16, 0),
        "{report:#}"
    );
    let own = share(&done(&place, "out"), 2, 5);
    let mut records: Vec<(SystemTime, bool)> = commits(&place.path("out"))
        .into_iter()
        .map(|commit| {
            let id = ShardId::from_url(&commit.shard);
            let name = format!("_recaption/shards/{}.{}.json", id.as_str(), commit.fingerprint);
            let meta = place.path("out").join(name).metadata().expect("a record");
            (meta.modified().expect("a time"), own.contains(&commit.shard))
        })
        .collect();
    records.sort_unstable();
    let last = records.iter().rposition(|(_, own)| *own).expect("a share");
    // Shards end a little out of order.
    assert!(
        last <= own.len() + 1,
        "{} own shards, the last of them was number {last}: {records:?}",
        own.len()
    );
}

#[test]
fn further_shards_leave_others_where_they_were() {
    let place = Place::new();
    let input = place.draw("in", 8, 2);
    let work = |index| task(place.run(&input, "out"), index, 2).arg("--steal=false").ends(0).report();
    let first: Vec<usize> = (0..2).map(|index| number(&work(index), "shards_done")).collect();
    let before = done(&place, "out");
    assert_eq!(first, [0, 1].map(|index| share(&before, index, 2).len()));
    (20..26).for_each(|n| drop(place.write(&format!("in/{n:05}.tar"), scenes(n, 2))));
    let more: Vec<Value> = (0..2).map(work).collect();
    let after = done(&place, "out");
    for (index, report) in more.iter().enumerate() {
        let own = share(&after, index as u32, 2).len();
        assert_eq!(number(report, "shards_done"), own - first[index], "{report:#}");
    }
    assert_eq!(after.len(), 14);
}

#[test]
fn tasks_share_a_bucket() {
    let bucket = Bucket::moto();
    (0..18).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 4)));
    let start = |index| task(bucket.run("in", "out"), index, 3).start();
    let tasks: Vec<Running> = (0..3).map(start).collect();
    let reports: Vec<Value> = tasks.into_iter().map(|task| ended_well(task.wait())).collect();
    let twice: usize = reports.iter().map(|report| number(report, "shards_done_twice")).sum();
    assert!(twice <= 3, "{reports:#?}");
    bucket.run("in", "alone").ends(0);
    assert_eq!(bucket.rows("out"), bucket.rows("alone"));
}

#[test]
fn schedulers_are_detected_and_can_be_overruled() {
    let place = Place::new();
    let input = place.draw("in", 9, 1);
    place.run(&input, "done").ends(0);
    let own = share(&done(&place, "done"), 1, 3).len();
    let slurm = |call: Call| {
        let variables = [("ID", "4"), ("MIN", "2"), ("MAX", "6"), ("STEP", "2"), ("COUNT", "3")];
        variables
            .iter()
            .fold(call, |call, (name, value)| call.env(&format!("SLURM_ARRAY_TASK_{name}"), value))
    };
    let run = |output: &str| slurm(place.run(&input, output));
    let said = run("shared").arg("--steal=false").ends(0);
    said.warns("array job detected").warns("Slurm").warns("--task-count 1");
    assert_eq!(number(&said.report(), "shards_done"), own);
    // What is detected changes the order and nothing else.
    let report = run("helped").ends(0).report();
    assert_eq!((number(&report, "shards_done"), &report["task"]["index"]), (9, &json!(1)), "{report:#}");
    let said = run("off").arg("--task-count").arg("1").ends(0);
    said.never_says("array job");
    assert_eq!(said.report()["task"], Value::Null);
    let said = run("locked").arg("--lock").ends(0);
    said.warns("array job detected and ignored").warns("--lock");
    assert_eq!(number(&said.report(), "shards_done"), 9);
}

#[test]
fn contradictions_end_with_code_2_before_anything_is_written() {
    let place = Place::new();
    let input = place.draw("in", 1, 1);
    let run = || place.run(&input, "out");
    run().arg("--task-index").arg("1").ends(2).warns("give --task-count with --task-index 1");
    run().arg("--task-count").arg("4").ends(2).warns("which of the 4 tasks");
    run().arg("--steal=false").ends(2).warns("--task-index and --task-count");
    task(run(), 4, 4).ends(2).warns("task 4 of 4 does not exist");
    task(run(), 0, 4).arg("--lock").ends(2).warns("--lock").warns("exit at once");
    task(run(), 0, 4).arg("--limit").arg("5").ends(2).warns("--limit").warns("--sample");
    let said = run().env("JOB_COMPLETION_INDEX", "1").ends(2);
    said.warns("JOB_COMPLETION_INDEX").warns("Kubernetes does not tell how many tasks");
    run().env("JOB_COMPLETION_INDEX", "x").ends(2).warns("`x` is no task number");
    assert!(!place.path("out").exists(), "something was written");
    run().env("JOB_COMPLETION_INDEX", "1").env("RECAPTION_TASK_COUNT", "2").ends(0);
}

#[test]
fn only_the_first_task_retires_shards() {
    let place = Place::new();
    let input = place.draw("in", 4, 1);
    place.run(&input, "out").ends(0);
    std::fs::remove_file(place.path("in/00002.tar")).expect("removed");
    let retire = |index| task(place.run(&input, "out"), index, 2).arg("--retire").ends(0).report();
    assert_eq!(retire(1)["retired"], json!(false));
    assert_eq!(done(&place, "out").len(), 4);
    assert_eq!(retire(0)["retired"], json!(true));
    assert_eq!(done(&place, "out").len(), 3);
}
