//! The commit protocol, model-checked: for every interleaving of two workers, which may be killed, frozen or lose a response
//! at any step, the next command ends with every row once, and every part matches its record.
//!
//! The workers run the program's own code (`CommitLog`, `Committer`, `OutputScan`); a run's plan is repeated here in a few
//! lines. The protocol of versions before 0.2 is kept in `protocol/old.rs`, to show that the exploration finds its faults.

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

use explore::{Exploration, Explorer, FaultBudget, Program, run_alone};
use store::Objects;
use worker::{Job, Kind, Rows, problem_of, program};

/// Most states of one exploration. All explorations together take about a minute.
const MAX_STATES: usize = 3_000_000;

/// Two or three workers on one output.
struct Scenario {
    name: &'static str,
    /// Jobs that ran before, one after another.
    before: Vec<Job>,
    workers: Vec<Job>,
    /// The command that is run when all workers are dead.
    last: Job,
    faults: FaultBudget,
}

fn report(name: &str, exploration: &Exploration, began: Instant) {
    println!(
        "{name}: {} states, {} steps, {:.1} s",
        exploration.states,
        exploration.steps,
        began.elapsed().as_secs_f64()
    );
}

fn explore(scenario: &Scenario, random_walks: Option<(usize, u64)>) -> Exploration {
    let began = Instant::now();
    let mut objects = Objects::new();
    for job in &scenario.before {
        run_alone(&program(job, 100), &mut objects);
    }
    let programs = |number: usize, life: u32| -> Program {
        program(&scenario.workers[number], life * 10 + number as u32)
    };
    let check = |objects: &Objects| problem_of(objects, &scenario.last);
    let mut explorer = Explorer::new(&programs, &check);
    let exploration = match random_walks {
        None => explorer.explore_all(&objects, scenario.workers.len(), scenario.faults, MAX_STATES),
        Some(ways) => explorer.random_walks(&objects, scenario.workers.len(), scenario.faults, ways),
    };
    report(scenario.name, &exploration, began);
    exploration
}

/// Every state is checked as if both workers crashed there; these are restarts and lost responses beside.
const NO_RESTART: FaultBudget = FaultBudget { restarts: 0, lost_responses: 0 };
const ONE_RESTART: FaultBudget = FaultBudget { restarts: 1, lost_responses: 0 };
const TWO_RESTARTS: FaultBudget = FaultBudget { restarts: 2, lost_responses: 0 };
const ONE_LOSS: FaultBudget = FaultBudget { restarts: 0, lost_responses: 1 };
const ONE_RESTART_ONE_LOSS: FaultBudget = FaultBudget { restarts: 1, lost_responses: 1 };

const fn job(kind: Kind, configuration: &'static str, shards: &'static [&'static str]) -> Job {
    Job { kind, configuration, shards, rows: Rows::Random, input: "1" }
}

const TWO: &[&str] = &["s3://b/0.csv", "s3://b/1.csv"];
const ONE: &[&str] = &["s3://b/0.csv"];
const A: Job = job(Kind::Run, "a", TWO);
const A1: Job = job(Kind::Run, "a", ONE);

fn scenarios() -> Vec<Scenario> {
    use worker::Kind::{Overwrite, Run};
    vec![
        Scenario {
            name: "two workers, two shards",
            before: vec![],
            workers: vec![A, A],
            last: A,
            faults: NO_RESTART,
        },
        Scenario {
            name: "two workers, two shards, one returns",
            before: vec![],
            workers: vec![A, A],
            last: A,
            faults: ONE_RESTART,
        },
        Scenario {
            name: "two workers, one shard, two return",
            before: vec![],
            workers: vec![A1, A1],
            last: A1,
            faults: TWO_RESTARTS,
        },
        Scenario {
            name: "two workers, lost responses",
            before: vec![],
            workers: vec![A1, A1],
            last: A1,
            faults: ONE_RESTART_ONE_LOSS,
        },
        Scenario {
            name: "identical rows, two shards, two return",
            before: vec![],
            workers: vec![Job { rows: Rows::Same, ..A }, Job { rows: Rows::Same, ..A }],
            last: Job { rows: Rows::Same, ..A },
            faults: TWO_RESTARTS,
        },
        Scenario {
            name: "two configurations at once",
            before: vec![],
            workers: vec![A1, job(Run, "b", ONE)],
            last: job(Overwrite, "a", ONE),
            faults: ONE_RESTART_ONE_LOSS,
        },
        Scenario {
            name: "an old job and one that overwrites",
            before: vec![A1],
            workers: vec![A, job(Overwrite, "b", TWO)],
            last: job(Overwrite, "b", TWO),
            faults: ONE_RESTART,
        },
    ]
}

fn scenarios_over_an_output() -> Vec<Scenario> {
    use worker::Kind::{Overwrite, Retire, Retry};
    vec![
        Scenario {
            name: "two that overwrite",
            before: vec![A1],
            workers: vec![job(Overwrite, "b", ONE), job(Overwrite, "c", ONE)],
            last: job(Overwrite, "b", ONE),
            faults: ONE_LOSS,
        },
        Scenario {
            name: "two retries",
            before: vec![A1],
            workers: vec![job(Retry, "a", ONE), job(Retry, "a", ONE)],
            last: A1,
            faults: ONE_RESTART,
        },
        Scenario {
            name: "a retry and a run",
            before: vec![A1],
            workers: vec![job(Retry, "a", ONE), A],
            last: A,
            faults: ONE_RESTART,
        },
        Scenario {
            name: "an input that changed",
            before: vec![A1],
            workers: vec![A1, Job { input: "2", ..A1 }],
            last: Job { input: "2", ..A1 },
            faults: ONE_RESTART,
        },
        Scenario {
            name: "a shard is retired while another worker does it; lists in parts become shorter in the same way",
            before: vec![A],
            workers: vec![job(Retire, "a", ONE), A],
            last: A,
            faults: ONE_RESTART,
        },
    ]
}

#[test]
fn no_interleaving_of_two_workers_loses_or_doubles_a_row() {
    let mut states = 0;
    for scenario in scenarios().into_iter().chain(scenarios_over_an_output()) {
        let exploration = explore(&scenario, None);
        assert!(exploration.fault.is_none(), "{}: {}", scenario.name, exploration.fault.unwrap_or_default());
        states += exploration.states;
    }
    println!("{states} states exploration, all of them");
    assert!(states > 50_000, "the scenarios have become too small");
}

#[test]
fn random_walks_of_three_workers_lose_and_double_no_row() {
    use worker::Kind::{Overwrite, Retry, Run};
    const SHARDS: &[&str] = &["s3://b/0.csv", "s3://b/1.csv", "s3://b/2.csv"];
    const RUN: Job = Job { kind: Run, configuration: "a", shards: SHARDS, rows: Rows::Random, input: "1" };
    let many = FaultBudget { restarts: 4, lost_responses: 3 };
    for (seed, workers) in [
        (1, [RUN, RUN, RUN]),
        (2, [RUN, Job { kind: Retry, ..RUN }, RUN]),
        (3, [RUN, Job { kind: Overwrite, configuration: "b", ..RUN }, RUN]),
    ] {
        let last = Job { kind: Overwrite, configuration: "a", ..RUN };
        let before = vec![Job { shards: &SHARDS[..2], ..RUN }];
        let workers = workers.to_vec();
        let scenario = Scenario { name: "three workers", before, workers, last, faults: many };
        let exploration = explore(&scenario, Some((400, seed)));
        assert!(exploration.fault.is_none(), "seed {seed}: {}", exploration.fault.unwrap_or_default());
    }
}

/// The protocol of versions before 0.2: parts of one name for all attempts; the last record wins.
#[test]
fn both_faults_of_the_old_protocol_are_found() {
    let check = |objects: &Objects| old::problem_of(objects);
    let killed = |number: usize, life: u32| old::program("a", number as u32 + 10 * life, false);
    let mut explorer = Explorer::new(&killed, &check);
    let began = Instant::now();
    let exploration =
        explorer.explore_all(&Objects::new(), 2, FaultBudget { restarts: 1, lost_responses: 0 }, MAX_STATES);
    report("the old protocol, a worker killed over another's commit", &exploration, began);
    let fault = exploration.fault.expect("a worker that dies between its parts and its record");
    assert!(fault.contains("does not match its record"), "{fault}");
    println!("{fault}");

    let mut before = Objects::new();
    run_alone(&old::program("a", 0, false), &mut before);
    let frozen = |number: usize, _: u32| match number {
        0 => old::program("a", 1, true),
        _ => old::program("b", 2, true),
    };
    let mut explorer = Explorer::new(&frozen, &check);
    let began = Instant::now();
    let exploration =
        explorer.explore_all(&before, 2, FaultBudget { restarts: 0, lost_responses: 0 }, MAX_STATES);
    report("the old protocol, a frozen job that wakes after --overwrite", &exploration, began);
    let fault = exploration.fault.expect("its rows stand under the new record");
    assert!(fault.contains("does not match its record"), "{fault}");
    println!("{fault}");
}

/// The explorations assume that equal responses lead to equal requests.
#[test]
fn a_single_worker_does_every_shard_once() {
    let mut objects = Objects::new();
    let job = scenarios().remove(0).last;
    run_alone(&program(&job, 0), &mut objects);
    assert_eq!(problem_of(&objects, &job), None);
    let again: BTreeMap<_, _> = objects.clone();
    run_alone(&program(&job, 1), &mut objects);
    assert_eq!(objects, again, "nothing to do");
}
