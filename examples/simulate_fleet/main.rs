//! Simulates fleets of workers over one output and compares them with the ideal.
//!
//! ```text
//! cargo run --release --example simulate_fleet                       # all scenarios, 100 workers
//! cargo run --release --example simulate_fleet -- --workers 1000 --scenario deaths
//! cargo run --release --example simulate_fleet -- --plan 1000000     # seconds and memory of a plan
//! ```
//!
//! Exit code 1: a shard was lost, or has something else than one record and its two parts.

mod planning;
mod scenarios;
mod simulation;
mod table;

use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;

use scenarios::{NAMES, scenario};
use simulation::{Hazards, simulate};

/// Simulates fleets of workers over one output, in virtual time.
#[derive(Debug, Parser)]
#[command(name = "simulate_fleet")]
struct Args {
    /// Machines.
    #[arg(long, default_value_t = 100)]
    workers: usize,
    /// Shards per machine; a scenario may have its own number.
    #[arg(long)]
    shards_per_worker: Option<usize>,
    /// Mean seconds that an average machine takes for a shard.
    #[arg(long, default_value_t = 60.0)]
    shard_seconds: f64,
    /// Bytes of a shard.
    #[arg(long, default_value_t = 1_000_000_000)]
    shard_bytes: u64,
    /// Shards that a process does at a time (`input.concurrent_shards`).
    #[arg(long, default_value_t = 2)]
    lanes: usize,
    /// Runs processes that all want all shards, in place of the tasks of an array job.
    #[arg(long)]
    plain: bool,
    /// Seconds after which a worker without heartbeat counts as dead (`run.claim_seconds`).
    #[arg(long, default_value_t = 20)]
    claim_seconds: u64,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Scenarios, of: calm, deaths, ten, stragglers, spot, late, slow-store, storm. Default: all.
    #[arg(long)]
    scenario: Vec<String>,
    /// Share of machines that die without notice, in place of the scenario's.
    #[arg(long)]
    deaths: Option<f64>,
    /// Share of machines that are reclaimed with a notice, in place of the scenario's.
    #[arg(long)]
    reclaims: Option<f64>,
    /// Share of slow machines, in place of the scenario's.
    #[arg(long)]
    stragglers: Option<f64>,
    /// Share of machines that join late, in place of the scenario's.
    #[arg(long)]
    late: Option<f64>,
    /// Gives each folder of the output request limits of its own, as S3 does once it has split a busy bucket.
    #[arg(long)]
    split_bucket: bool,
    /// Prints the requests of each folder.
    #[arg(long)]
    requests: bool,
    /// Plans this many shards instead, and prints seconds and memory.
    #[arg(long, value_name = "SHARDS")]
    plan: Option<usize>,
    /// Shows the program's log at this level.
    #[arg(long)]
    log: Option<tracing::Level>,
}

impl Args {
    fn override_hazards(&self, hazards: &mut Hazards) {
        let set = |to: &mut f64, from: Option<f64>| *to = from.unwrap_or(*to);
        set(&mut hazards.deaths, self.deaths);
        set(&mut hazards.reclaims, self.reclaims);
        set(&mut hazards.stragglers, self.stragglers);
        set(&mut hazards.late, self.late);
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(level) = args.log {
        tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    }
    if let Some(shards) = args.plan {
        print!("{}", planning::measure(shards)?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(unknown) = args.scenario.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("no scenario is called {unknown}; known are {}", NAMES.join(", "));
    }
    let chosen: Vec<&str> = match args.scenario.is_empty() {
        true => NAMES.to_vec(),
        false => args.scenario.iter().map(String::as_str).collect(),
    };
    let mut is_whole = true;
    println!("{}", table::HEADER);
    for name in chosen {
        let mut scenario = scenario(name, &args);
        args.override_hazards(&mut scenario.hazards);
        let outcome = simulate(&scenario)?;
        println!("{}", table::row(&scenario, &outcome));
        if args.requests {
            print!("{}", table::requests(&scenario, &outcome));
        }
        is_whole &= outcome.lost == 0 && outcome.inconsistent == 0 && outcome.left == 0;
    }
    print!("{}", table::LEGEND);
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
