//! The scenarios by name.

use std::time::Duration;

use recaption_store::StoreSettings;

use crate::{
    Args,
    simulation::{Hazards, Network, RateLimits, Scenario, Setting, Work},
};

/// All scenarios, in the order in which they run.
pub(crate) const NAMES: [&str; 8] =
    ["calm", "deaths", "ten", "stragglers", "spot", "late", "slow-store", "storm"];

/// Shards per machine, where neither a flag nor a scenario says otherwise.
const SHARDS_PER_WORKER: usize = 100;
/// Standard deviation of the logarithm of a shard's time.
const SPREAD: f64 = 0.2;
/// Processes that start within this time share a plan in memory.
const PLAN_WINDOW: Duration = Duration::from_secs(60);

/// S3 from far away, or on a bad day: ten times the latency, a tenth of the bandwidth, and every fault.
const SLOW: Network = Network {
    latency: Duration::from_millis(300),
    page_latency: Duration::from_secs(1),
    bytes_per_second: 20e6,
    resets: 0.01,
    lost_responses: 0.005,
    silent: 0.001,
};

/// Returns a scenario with the sizes of the flags.
pub(crate) fn scenario(name: &str, args: &Args) -> Scenario {
    let deaths = Hazards { deaths: 0.01, ..Hazards::NONE };
    let stragglers = Hazards { stragglers: 0.02, ..deaths };
    let spot = Hazards { reclaims: 0.2, replaced: 0.8, ..deaths };
    let late = Hazards { late: 0.5, ..deaths };
    let storm = Hazards { deaths: 0.05, reclaims: 0.2, replaced: 0.8, late: 0.2, ..stragglers };
    let (hazards, network, per_worker) = match name {
        "calm" => (Hazards::NONE, Network::REGIONAL, SHARDS_PER_WORKER),
        "ten" => (deaths, Network::REGIONAL, 10),
        "stragglers" => (stragglers, Network::REGIONAL, SHARDS_PER_WORKER),
        "spot" => (spot, Network::REGIONAL, SHARDS_PER_WORKER),
        "late" => (late, Network::REGIONAL, SHARDS_PER_WORKER),
        "slow-store" => (deaths, SLOW, SHARDS_PER_WORKER),
        "storm" => (storm, SLOW, SHARDS_PER_WORKER),
        _ => (deaths, Network::REGIONAL, SHARDS_PER_WORKER),
    };
    let work = Work {
        shards: args.workers * args.shards_per_worker.unwrap_or(per_worker),
        shard_bytes: args.shard_bytes,
        shard_seconds: args.shard_seconds,
        spread: SPREAD,
    };
    let setting = Setting {
        work,
        network,
        settings: StoreSettings::default(),
        lease: Duration::from_secs(args.claim_seconds),
        lanes: args.lanes,
        is_dealt: !args.plain,
        plan_window: PLAN_WINDOW,
    };
    let limits = RateLimits { by_folder: args.split_bucket, ..RateLimits::S3 };
    Scenario { name: name.to_owned(), workers: args.workers, setting, limits, hazards, seed: args.seed }
}
