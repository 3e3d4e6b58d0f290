//! The protocol of commits, explored: whatever workers do to each other, in whatever order, killed, frozen or deaf at any
//! step, the next command ends with every row once and every record's parts as it says.
//!
//! The workers' steps are the program's own (`CommitLog`, `Committer`, `Survey`); a run's plan is repeated here in a few lines.
//! The protocol of versions before 0.2 is kept in `protocol/old.rs`, to show that the exploration finds what was wrong with it.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

#[path = "protocol/explore.rs"]
mod explore;
#[path = "protocol/old.rs"]
mod old;
#[path = "protocol/store.rs"]
mod store;
#[path = "protocol/worker.rs"]
mod worker;

use std::{collections::BTreeMap, time::Instant};

use explore::{Explored, Explorer, Mishaps, Program, run_alone};
use store::Objects;
use worker::{Job, Kind, Rows, fault_of, program};

/// Most states of one exploration: what a minute allows, for all of them together.
const MOST: usize = 3_000_000;

/// A story: who works, what lies there before, and what the last command is.
struct Story {
    name: &'static str,
    /// What lies there: these jobs ran one after another.
    before: Vec<Job>,
    workers: Vec<Job>,
    /// The command that is given when everybody is dead.
    last: Job,
    mishaps: Mishaps,
}

fn tell(name: &str, explored: &Explored, began: Instant) {
    println!(
        "{name}: {} states, {} steps, {:.1} s",
        explored.states,
        explored.steps,
        began.elapsed().as_secs_f64()
    );
}

fn explore(story: &Story, wander: Option<(usize, u64)>) -> Explored {
    let began = Instant::now();
    let mut objects = Objects::new();
    for job in &story.before {
        run_alone(&program(job, 100), &mut objects);
    }
    let programs =
        |number: usize, life: u32| -> Program { program(&story.workers[number], life * 10 + number as u32) };
    let check = |objects: &Objects| fault_of(objects, &story.last);
    let mut explorer = Explorer::new(&programs, &check);
    let explored = match wander {
        None => explorer.exhaust(&objects, story.workers.len(), story.mishaps, MOST),
        Some(ways) => explorer.wander(&objects, story.workers.len(), story.mishaps, ways),
    };
    tell(story.name, &explored, began);
    explored
}

/// Beside the two crashes that are judged in every state.
const NOBODY_RETURNS: Mishaps = Mishaps { kills: 0, losses: 0 };
const ONE_RETURNS: Mishaps = Mishaps { kills: 1, losses: 0 };
const TWO_RETURN: Mishaps = Mishaps { kills: 2, losses: 0 };
const A_LOSS: Mishaps = Mishaps { kills: 0, losses: 1 };
const A_KILL_AND_A_LOSS: Mishaps = Mishaps { kills: 1, losses: 1 };

const fn job(kind: Kind, configuration: &'static str, shards: &'static [&'static str]) -> Job {
    Job { kind, configuration, shards, rows: Rows::OfChance, input: "1" }
}

const TWO: &[&str] = &["s3://b/0.csv", "s3://b/1.csv"];
const ONE: &[&str] = &["s3://b/0.csv"];
const A: Job = job(Kind::Run, "a", TWO);
const A1: Job = job(Kind::Run, "a", ONE);

fn stories() -> Vec<Story> {
    use worker::Kind::{Overwrite, Run};
    vec![
        Story {
            name: "two workers, two shards",
            before: vec![],
            workers: vec![A, A],
            last: A,
            mishaps: NOBODY_RETURNS,
        },
        Story {
            name: "two workers, two shards, one returns",
            before: vec![],
            workers: vec![A, A],
            last: A,
            mishaps: ONE_RETURNS,
        },
        Story {
            name: "two workers, one shard, two return",
            before: vec![],
            workers: vec![A1, A1],
            last: A1,
            mishaps: TWO_RETURN,
        },
        Story {
            name: "two workers, lost answers",
            before: vec![],
            workers: vec![A1, A1],
            last: A1,
            mishaps: A_KILL_AND_A_LOSS,
        },
        Story {
            name: "identical rows, two shards, two return",
            before: vec![],
            workers: vec![Job { rows: Rows::Same, ..A }, Job { rows: Rows::Same, ..A }],
            last: Job { rows: Rows::Same, ..A },
            mishaps: TWO_RETURN,
        },
        Story {
            name: "two configurations at once",
            before: vec![],
            workers: vec![A1, job(Run, "b", ONE)],
            last: job(Overwrite, "a", ONE),
            mishaps: A_KILL_AND_A_LOSS,
        },
        Story {
            name: "an old job and one that overwrites",
            before: vec![A1],
            workers: vec![A, job(Overwrite, "b", TWO)],
            last: job(Overwrite, "b", TWO),
            mishaps: ONE_RETURNS,
        },
    ]
}

fn stories_over_an_output() -> Vec<Story> {
    use worker::Kind::{Overwrite, Retire, Retry};
    vec![
        Story {
            name: "two that overwrite",
            before: vec![A1],
            workers: vec![job(Overwrite, "b", ONE), job(Overwrite, "c", ONE)],
            last: job(Overwrite, "b", ONE),
            mishaps: A_LOSS,
        },
        Story {
            name: "two retries",
            before: vec![A1],
            workers: vec![job(Retry, "a", ONE), job(Retry, "a", ONE)],
            last: A1,
            mishaps: ONE_RETURNS,
        },
        Story {
            name: "a retry and a run",
            before: vec![A1],
            workers: vec![job(Retry, "a", ONE), A],
            last: A,
            mishaps: ONE_RETURNS,
        },
        Story {
            name: "an input that changed",
            before: vec![A1],
            workers: vec![A1, Job { input: "2", ..A1 }],
            last: Job { input: "2", ..A1 },
            mishaps: ONE_RETURNS,
        },
        Story {
            name: "a shard is retired while another worker does it; lists in parts become shorter in the same way",
            before: vec![A],
            workers: vec![job(Retire, "a", ONE), A],
            last: A,
            mishaps: ONE_RETURNS,
        },
    ]
}

#[test]
fn no_interleaving_of_two_workers_loses_or_doubles_a_row() {
    let mut states = 0;
    for story in stories().into_iter().chain(stories_over_an_output()) {
        let explored = explore(&story, None);
        assert!(explored.fault.is_none(), "{}: {}", story.name, explored.fault.unwrap_or_default());
        states += explored.states;
    }
    println!("{states} states explored, all of them");
    assert!(states > 50_000, "the stories have become too small to say anything");
}

#[test]
fn random_walks_of_three_workers_lose_and_double_no_row() {
    use worker::Kind::{Overwrite, Retry, Run};
    const SHARDS: &[&str] = &["s3://b/0.csv", "s3://b/1.csv", "s3://b/2.csv"];
    const RUN: Job = Job { kind: Run, configuration: "a", shards: SHARDS, rows: Rows::OfChance, input: "1" };
    let many = Mishaps { kills: 4, losses: 3 };
    for (seed, workers) in [
        (1, [RUN, RUN, RUN]),
        (2, [RUN, Job { kind: Retry, ..RUN }, RUN]),
        (3, [RUN, Job { kind: Overwrite, configuration: "b", ..RUN }, RUN]),
    ] {
        let last = Job { kind: Overwrite, configuration: "a", ..RUN };
        let before = vec![Job { shards: &SHARDS[..2], ..RUN }];
        let workers = workers.to_vec();
        let story = Story { name: "three workers", before, workers, last, mishaps: many };
        let explored = explore(&story, Some((400, seed)));
        assert!(explored.fault.is_none(), "seed {seed}: {}", explored.fault.unwrap_or_default());
    }
}

/// The protocol of versions before 0.2: parts of one name for all, and a record that takes over.
#[test]
fn both_faults_of_the_old_protocol_are_found() {
    let check = |objects: &Objects| old::fault_of(objects);
    let killed = |number: usize, life: u32| old::program("a", number as u32 + 10 * life, false);
    let mut explorer = Explorer::new(&killed, &check);
    let began = Instant::now();
    let explored = explorer.exhaust(&Objects::new(), 2, Mishaps { kills: 1, losses: 0 }, MOST);
    tell("the old protocol, a worker killed over another's commit", &explored, began);
    let fault = explored.fault.expect("a worker that dies between its parts and its record");
    assert!(fault.contains("is not what its record says"), "{fault}");
    println!("{fault}");

    let mut before = Objects::new();
    run_alone(&old::program("a", 0, false), &mut before);
    let frozen = |number: usize, _: u32| match number {
        0 => old::program("a", 1, true),
        _ => old::program("b", 2, true),
    };
    let mut explorer = Explorer::new(&frozen, &check);
    let began = Instant::now();
    let explored = explorer.exhaust(&before, 2, Mishaps { kills: 0, losses: 0 }, MOST);
    tell("the old protocol, a frozen job that wakes after --overwrite", &explored, began);
    let fault = explored.fault.expect("its rows stand under the new record");
    assert!(fault.contains("is not what its record says"), "{fault}");
    println!("{fault}");
}

/// What the explorations rest on: the same answers lead to the same requests.
#[test]
fn a_single_worker_does_every_shard_once() {
    let mut objects = Objects::new();
    let job = stories().remove(0).last;
    run_alone(&program(&job, 0), &mut objects);
    assert_eq!(fault_of(&objects, &job), None);
    let again: BTreeMap<_, _> = objects.clone();
    run_alone(&program(&job, 1), &mut objects);
    assert_eq!(objects, again, "nothing to do");
}
