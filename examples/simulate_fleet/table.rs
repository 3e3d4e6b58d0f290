//! What is printed.

use std::fmt::Write;

use crate::simulation::{Outcome, RequestKind, Scenario};

/// The columns.
pub(crate) const HEADER: &str = "\
scenario    workers   shards  died  recl.  lost  twice  redone    hours    ideal   ratio    tail   end s  plan s  claims  GET/sh  PUT/sh  LIST/sh  writes/s  reads/s     503  retried  CPU s";

/// What the columns are.
pub(crate) const LEGEND: &str = "
died, recl.        machines that died without notice, and that were reclaimed with one, before the last record
lost               shards without exactly one record and its two parts; more are an error
twice              shards that two machines captioned to their end; redone: attempts that ended with their machine
hours, ideal       until the last record; machines that are never idle, lose nothing and need no store
ratio, tail        hours / ideal; the difference in times of the longest shard
end s              from the last record until the last process ended
plan s             longest time that a process took to plan
claims             attempts to claim a shard, per shard
GET/sh, ...        requests per shard, planning and heartbeats included
writes/s, reads/s  highest number of requests in one second, to one partition of the bucket
503, retried       requests that were refused because of their rate; requests that were sent again for another reason
";

/// Returns the row of a scenario.
pub(crate) fn row(scenario: &Scenario, outcome: &Outcome) -> String {
    let shards = scenario.setting.work.shards;
    let per_shard = |kinds: &[RequestKind]| {
        kinds.iter().map(|kind| outcome.served(*kind)).sum::<u64>() as f64 / shards as f64
    };
    format!(
        "{:<11} {:>7} {:>8} {:>5} {:>6} {:>5} {:>6} {:>7} {:>8.3} {:>8.3} {:>7.4} {:>7.2} {:>7.1} {:>7.1} {:>7.3} {:>7.2} {:>7.2} {:>8.3} {:>9} {:>8} {:>7} {:>8} {:>6.1}",
        scenario.name,
        scenario.workers,
        shards,
        outcome.deaths,
        outcome.reclaims,
        outcome.lost + outcome.inconsistent + outcome.left,
        outcome.captioned_twice,
        outcome.lost_attempts,
        outcome.makespan / 3600.0,
        outcome.ideal / 3600.0,
        outcome.ratio(),
        (outcome.makespan - outcome.ideal) / outcome.longest,
        outcome.ending,
        outcome.planning,
        outcome.served_in("out/_recaption/claims", RequestKind::Put) as f64 / shards as f64,
        per_shard(&[RequestKind::Get, RequestKind::Head]),
        per_shard(&[RequestKind::Put]),
        per_shard(&[RequestKind::List]),
        outcome.peaks.writes,
        outcome.peaks.reads,
        outcome.refused(),
        outcome.retried,
        outcome.real_seconds,
    )
}

/// Returns the requests of each folder, and errors of processes.
pub(crate) fn requests(scenario: &Scenario, outcome: &Outcome) -> String {
    let shards = scenario.setting.work.shards as f64;
    let mut text = String::new();
    for (folder, kind, count) in &outcome.requests {
        let per_shard = count.served as f64 / shards;
        let _ = writeln!(
            text,
            "    {:<24} {:<6} {:>10} {:>9.3} per shard {:>8} refused",
            folder,
            kind.name(),
            count.served,
            per_shard,
            count.refused
        );
    }
    let _ = writeln!(
        text,
        "    {} plans, {} attempts failed, {} processes started again",
        outcome.plans,
        outcome.failed,
        outcome.crashed.len()
    );
    for error in outcome.crashed.iter().take(5) {
        let _ = writeln!(text, "    {error}");
    }
    text
}
