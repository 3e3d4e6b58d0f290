//! A whole simulation: machines come, work, die; then the output is checked.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use fastrand::Rng;
use recaption::run::Stop;
use recaption_schemas::{ShardCommit, ShardId};
use tokio::{
    task::LocalSet,
    time::{sleep, timeout},
};

use super::{
    limits::{PeakRates, RateLimits, RequestCount, RequestKind},
    machine::{End, Fate, Hazards, Presence, ideal_seconds},
    objects::{Bucket, Inputs},
    process::Process,
    world::{OUTPUT, Setting, World},
};

/// Seconds after which a scheduler starts a process again that ended with an error.
const RESTART: Duration = Duration::from_secs(30);
/// A simulation that takes this many times the ideal is stopped: something waits forever.
const MAX_RATIO: f64 = 20.0;

/// A fleet, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Its name in the table.
    pub name: String,
    /// Number of machines.
    pub workers: usize,
    /// Shards, network and processes.
    pub setting: Setting,
    /// Limits of the store.
    pub limits: RateLimits,
    /// What happens to machines.
    pub hazards: Hazards,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

/// How a simulation ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Machines that died without notice.
    pub deaths: usize,
    /// Machines that were reclaimed.
    pub reclaims: usize,
    /// Shards without a record.
    pub lost: usize,
    /// Shards with several records, and parts that no record names, or that a record names and that are missing.
    pub inconsistent: usize,
    /// Shards that a plan over the finished output would do again.
    pub left: usize,
    /// Shards that were captioned to their end more than once.
    pub captioned_twice: u64,
    /// Attempts that failed for a transient reason.
    pub failed: u64,
    /// Attempts that ended with their machine.
    pub lost_attempts: u64,
    /// Errors of processes that were started again.
    pub crashed: Vec<String>,
    /// Plans that were made.
    pub plans: u64,
    /// Longest time of planning, in seconds.
    pub planning: f64,
    /// Seconds from the start to the last record.
    pub makespan: f64,
    /// Seconds from the last record until the last process ended by itself.
    pub ending: f64,
    /// Seconds that the machines need that are never idle, lose nothing and need no store.
    pub ideal: f64,
    /// Longest time of a shard on an average machine, in seconds.
    pub longest: f64,
    /// Requests by folder and kind, until the last worker left.
    pub requests: Vec<(String, RequestKind, RequestCount)>,
    /// Highest rates.
    pub peaks: PeakRates,
    /// Further attempts at requests, without those after 503.
    pub retried: u64,
    /// Seconds that the simulation took.
    pub real_seconds: f64,
}

impl Outcome {
    /// Returns the makespan over the ideal.
    pub(crate) fn ratio(&self) -> f64 {
        self.makespan / self.ideal
    }

    /// Returns the requests of a kind, refused ones not included.
    pub(crate) fn served(&self, kind: RequestKind) -> u64 {
        self.requests.iter().filter(|(_, of, _)| *of == kind).map(|(_, _, count)| count.served).sum()
    }

    /// Returns the requests of a kind to a folder, refused ones not included.
    pub(crate) fn served_in(&self, folder: &str, kind: RequestKind) -> u64 {
        let of = self.requests.iter().filter(|(name, of, _)| name == folder && *of == kind);
        of.map(|(_, _, count)| count.served).sum()
    }

    /// Returns the requests that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.requests.iter().map(|(_, _, count)| count.refused).sum()
    }
}

/// Simulates a scenario, in virtual time on this thread.
///
/// # Errors
/// When the runtime cannot be started, planning fails, or the simulation does not end.
pub(crate) fn simulate(scenario: &Scenario) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    fastrand::seed(scenario.seed);
    LocalSet::new().block_on(&runtime, run(scenario))
}

async fn run(scenario: &Scenario) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let Scenario { workers, setting, limits, hazards, seed, .. } = scenario;
    let mut random = Rng::with_seed(*seed);
    let inputs = Inputs { shards: setting.work.shards, bytes: setting.work.shard_bytes };
    let world = Arc::new(World::new(Bucket::new(inputs, *limits), (*setting, *workers), &mut random)?);
    let duration = world.total_seconds() / *workers as f64;
    let fates: Vec<Fate> = (0..*workers).map(|_| Fate::draw(hazards, duration, &mut random)).collect();
    let machines: Vec<_> = (0u32..)
        .zip(&fates)
        .map(|(index, fate)| tokio::task::spawn_local(machine(Arc::clone(&world), index, *fate)))
        .collect();
    let all = async {
        for machine in machines {
            machine.await.context("a machine broke down")?;
        }
        anyhow::Ok(())
    };
    let longest = Duration::from_secs_f64(duration * MAX_RATIO + 3600.0);
    timeout(longest, all).await.context("the simulation does not end: a process waits forever")??;
    let mut outcome = outcome(&world, &fates);
    outcome.left = world.plan_afresh().await?.tasks.len();
    outcome.real_seconds = began.elapsed().as_secs_f64();
    Ok(outcome)
}

/// The life of a machine, and of the one that replaces it.
async fn machine(world: Arc<World>, index: u32, fate: Fate) {
    sleep(fate.joins).await;
    live(&world, index, &fate, fate.end).await;
    if let (Some(_), Some(replacement)) = (fate.end, fate.replacement) {
        sleep(replacement).await;
        live(&world, index, &fate, None).await;
    }
}

/// Runs the program on a machine until nothing is left to do, or until the machine's end.
async fn live(world: &Arc<World>, index: u32, fate: &Fate, end: Option<(Duration, End)>) {
    sleep(fate.boot).await;
    let to = end.map_or(f64::INFINITY, |(at, end)| at.as_secs_f64() + end.notice().as_secs_f64());
    let from = world.bucket.elapsed().as_secs_f64();
    world.seen().presences.push(Presence { from, to, speed: fate.speed });
    let stop = Arc::new(Stop::default());
    let process = async {
        while let Err(error) = Process::run(Arc::clone(world), (index, fate.speed), Arc::clone(&stop)).await {
            world.seen().crashed.push(format!("{error:#}"));
            sleep(RESTART).await;
        }
        let now = world.bucket.elapsed().as_secs_f64();
        let mut seen = world.seen();
        seen.last_end = seen.last_end.max(now);
    };
    let ends = async {
        let Some((at, end)) = end else { return std::future::pending().await };
        sleep(at.saturating_sub(world.bucket.elapsed())).await;
        if let End::Reclaim(notice) = end {
            stop.request_stop();
            sleep(notice).await;
        }
    };
    tokio::select! {
        biased;
        () = ends => {}
        // A process that was told to stop has ended before its machine.
        () = async { process.await; if stop.requested() { std::future::pending().await } } => {}
    }
}

fn outcome(world: &World, fates: &[Fate]) -> Outcome {
    let ended = |is: fn(&End) -> bool| {
        let within = |at: &Duration| at.as_secs_f64() < world.seen().last_commit;
        fates.iter().filter(|fate| fate.end.as_ref().is_some_and(|(at, end)| is(end) && within(at))).count()
    };
    let (deaths, reclaims) = (ended(|e| *e == End::Death), ended(|e| matches!(e, End::Reclaim(_))));
    let (lost, inconsistent) = check(world);
    let (requests, peaks) = world.bucket.traffic(|traffic| {
        let counts = traffic.counts().iter();
        let counts = counts.map(|((folder, kind), count)| (folder.clone(), *kind, *count)).collect();
        (counts, traffic.peaks())
    });
    let seen = world.seen();
    Outcome {
        deaths,
        reclaims,
        lost,
        inconsistent,
        left: 0,
        captioned_twice: seen.captioned.iter().map(|n| u64::from(n.saturating_sub(1))).sum(),
        failed: seen.failed,
        lost_attempts: seen.lost_attempts,
        crashed: seen.crashed.clone(),
        plans: seen.plans,
        planning: seen.planning,
        makespan: seen.last_commit,
        ending: seen.last_end - seen.last_commit,
        ideal: ideal_seconds(&seen.presences, world.total_seconds()),
        longest: world.longest_seconds(),
        requests,
        peaks,
        retried: seen.retried,
        real_seconds: 0.0,
    }
}

/// Counts shards without a record, and whatever else is wrong: shards with several, parts without a record, records without
/// their parts.
fn check(world: &World) -> (usize, usize) {
    let mut records: HashMap<String, usize> = HashMap::new();
    let mut parts: HashMap<String, bool> = HashMap::new();
    for table in ["captions", "rejects"] {
        let prefix = format!("{OUTPUT}/");
        let keys = world.bucket.keys(&format!("{OUTPUT}/{table}")).into_iter();
        parts.extend(keys.filter_map(|key| Some((key.strip_prefix(&prefix)?.to_owned(), false))));
    }
    let mut inconsistent = 0;
    for (_, bytes) in world.bucket.contents(&format!("{OUTPUT}/_recaption/shards")) {
        let Ok(commit) = serde_json::from_slice::<ShardCommit>(&bytes) else {
            inconsistent += 1;
            continue;
        };
        for part in commit.parts() {
            match parts.get_mut(&part.path) {
                Some(named) => *named = true,
                None => inconsistent += 1,
            }
        }
        *records.entry(ShardId::from_url(&commit.shard).as_str().to_owned()).or_default() += 1;
    }
    let shards = world.bucket.inputs().shards;
    let once = (0..shards).filter(|number| records.contains_key(world.shard_id(*number).as_str())).count();
    let several = records.values().filter(|n| **n > 1).count();
    let orphaned = parts.values().filter(|named| !**named).count();
    (shards - once, inconsistent + several + orphaned)
}

/// A plan that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    /// Shards to do.
    pub tasks: usize,
    /// Pages of listings.
    pub pages: u64,
    /// Seconds of virtual time.
    pub seconds: f64,
}

/// Plans over an output without records, in virtual time. The plan is freed when this returns; its memory is the peak.
///
/// # Errors
/// When the runtime cannot be started, or planning fails.
pub(crate) fn plan(setting: Setting, limits: RateLimits) -> anyhow::Result<Planned> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let inputs = Inputs { shards: setting.work.shards, bytes: setting.work.shard_bytes };
        let world = World::new(Bucket::new(inputs, limits), (setting, 1), &mut Rng::with_seed(1))?;
        let plan = world.plan_afresh().await?;
        let pages = world.bucket.traffic(|traffic| traffic.served(RequestKind::List));
        Ok(Planned { tasks: plan.tasks.len(), pages, seconds: world.bucket.elapsed().as_secs_f64() })
    })
}
