//! Small fleets in virtual time: nothing is lost, little is done twice, and the end comes when it should.
//!
//! `examples/simulate_fleet` has the same simulation with a command line, and its larger scenarios.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]
#![allow(dead_code, unreachable_pub, reason = "the example uses all of it")]

use std::{path::Path, process::Command, time::Duration};

use recaption_store::StoreSettings;

#[path = "../examples/simulate_fleet/simulation/mod.rs"]
mod simulation;

use simulation::{
    Hazards, Network, Outcome, RateLimits, RequestKind, Scenario, Setting, Work, plan, simulate,
};

const LANES: usize = 2;

fn fleet(workers: usize, shards: usize) -> Scenario {
    let work = Work { shards, shard_bytes: 100_000_000, shard_seconds: 60.0, spread: 0.2 };
    let setting = Setting {
        work,
        network: Network::REGIONAL,
        settings: StoreSettings::default(),
        lease: Duration::from_secs(20),
        lanes: LANES,
        is_dealt: true,
        plan_window: Duration::from_secs(60),
    };
    let (limits, hazards) = (RateLimits::S3, Hazards::NONE);
    Scenario { name: "test".to_owned(), workers, setting, limits, hazards, seed: 7 }
}

/// Runs a scenario, and checks what holds in all of them.
fn outcome_of(scenario: &Scenario) -> Outcome {
    let outcome = simulate(scenario).expect("the simulation ends");
    assert_eq!((outcome.lost, outcome.inconsistent, outcome.left), (0, 0, 0), "{outcome:?}");
    assert!(outcome.makespan >= outcome.ideal, "{outcome:?}");
    let twice = outcome.captioned_twice as usize;
    assert!(twice <= LANES * scenario.workers, "more than its shards in flight per worker: {outcome:?}");
    outcome
}

/// Seconds that a fleet may need beyond the ideal: the last shard of every lane, begun when the others ran dry, and a minute of
/// planning.
fn tail(outcome: &Outcome) -> f64 {
    (LANES + 1) as f64 * outcome.longest + 60.0
}

#[test]
fn calm_fleets_do_every_shard_once() {
    for is_dealt in [false, true] {
        let mut scenario = fleet(20, 400);
        scenario.setting.is_dealt = is_dealt;
        let outcome = outcome_of(&scenario);
        assert_eq!(
            (outcome.captioned_twice, outcome.lost_attempts, outcome.failed),
            (0, 0, 0),
            "{outcome:?}"
        );
        assert!(outcome.makespan < outcome.ideal + tail(&outcome), "{outcome:?}");
        assert_eq!(outcome.refused(), 0, "{outcome:?}");
        let puts = outcome.served_in("out/_recaption/claims", RequestKind::Put) as f64 / 400.0;
        assert!(puts < 1.5, "{puts} attempts at a claim per shard, dealt: {is_dealt}");
    }
}

#[test]
fn shards_of_dead_machines_are_done_by_others() {
    let mut scenario = fleet(20, 400);
    scenario.hazards = Hazards { deaths: 0.3, reclaims: 0.3, replaced: 0.5, late: 0.2, ..Hazards::NONE };
    let outcome = outcome_of(&scenario);
    assert!(outcome.deaths > 0 && outcome.reclaims > 0 && outcome.lost_attempts > 0, "{outcome:?}");
    assert!(outcome.makespan < outcome.ideal + 2.0 * tail(&outcome), "{outcome:?}");
}

#[test]
fn stragglers_cost_their_last_shards_alone() {
    let mut scenario = fleet(20, 400);
    scenario.hazards = Hazards { stragglers: 0.2, straggler_speed: 0.25, ..Hazards::NONE };
    let outcome = outcome_of(&scenario);
    assert!(outcome.makespan < outcome.ideal + 4.0 * tail(&outcome), "{outcome:?}");
}

#[test]
fn lost_responses_and_a_slow_store_lose_and_double_nothing() {
    let mut scenario = fleet(10, 100);
    scenario.hazards = Hazards { deaths: 0.2, ..Hazards::NONE };
    scenario.setting.network = Network {
        latency: Duration::from_millis(400),
        page_latency: Duration::from_secs(1),
        bytes_per_second: 20e6,
        resets: 0.03,
        lost_responses: 0.05,
        silent: 0.002,
    };
    let outcome = outcome_of(&scenario);
    assert!(outcome.retried > 0, "{outcome:?}");
}

#[test]
fn refused_requests_slow_a_fleet_down_and_nothing_else() {
    let mut scenario = fleet(20, 200);
    scenario.limits = RateLimits { writes: 8.0, reads: 12.0, by_folder: false };
    let outcome = outcome_of(&scenario);
    assert!(outcome.refused() > 0, "{outcome:?}");
}

#[test]
fn equal_seeds_give_equal_fleets() {
    let mut scenario = fleet(8, 60);
    scenario.hazards = Hazards { deaths: 0.2, ..Hazards::NONE };
    let run = || {
        let outcome = outcome_of(&scenario);
        (outcome.makespan, outcome.served(RequestKind::Put), outcome.captioned_twice)
    };
    assert_eq!(run(), run());
}

#[test]
fn plans_have_every_shard() {
    let planned = plan(fleet(1, 20_500).setting, RateLimits::S3).expect("planned");
    assert_eq!(planned.tasks, 20_500);
    assert!(planned.pages >= 21, "{planned:?}");
}

/// The tables of the page are those that the script prints.
#[test]
fn tables_of_the_scaling_page_are_the_scripts() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = Command::new("python3")
        .args(["scripts/scaling_costs.py", "--check", "docs/src/scaling.md"])
        .current_dir(repository)
        .output()
        .expect("python3 runs");
    assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
}
