//! `recaption worker`: the models are loaded once, and a driver names the shards, one JSON object per line.
//!
//! ```text
//! stdin -> requests -> lookup -> session -> the pipeline of crate::run -> session -> answers -> stdout
//! ```
//! Schedulers place, restart and watch; a worker processes shards, and commits them as a run does: several workers, and runs, may
//! share an output. Nothing here decides what is done next, or how often: that is the driver's. The lines are a contract,
//! `docs/src/worker-protocol.md`.
//!
//! | file | what |
//! |---|---|
//! | `protocol` | the lines |
//! | `requests`, `answers` | stdin and stdout, each with a thread of its own |
//! | `lookup` | a URL -> the shard, and what the output has of it |
//! | `open_requests` | what is not answered |
//! | `session`, `outcomes` | the worker at work |
//! | `failures`, `totals` | failure records, run record and metrics |
//! | `parent` | the end of the process that started the worker |

mod answers;
mod failures;
mod lookup;
mod open_requests;
mod outcomes;
mod parent;
mod protocol;
mod requests;
mod session;
mod totals;

use std::{
    io::BufReader,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use anyhow::{Context, bail};
use recaption_output::{
    commits::{CommitLog, Committer, OutputScan, Workers, configuration_fingerprint},
    open_output,
};
use recaption_store::{Location, Stores};

pub(crate) use self::{answers::Answers, parent::Parent, protocol::ErrorClass};
use self::{
    failures::FailureRecords,
    lookup::{Names, Records, ShardLookup},
    protocol::{Answer, PROTOCOL, Ready},
    requests::Lines,
    session::Session,
    totals::Totals,
};
use crate::{
    config::RunConfig,
    metrics::{Monitor, RunFacts, serve},
    run::{
        Collector, Devices, FailureGuard, Output, Progress, Reporter, RunContext, RunModel, RunReport,
        ShardSource, Stop, StreamRequest, Tasks, WorkerClaims, join_workers, refuse_others,
        refuse_output_among_inputs, self_test, stream, warn_circular,
    },
};

/// Bytes that are read from stdin at once.
const STDIN_BUFFER: usize = 64 << 10;

/// A stop was requested before the worker was ready: its driver knows of no request that was taken.
#[derive(Debug, thiserror::Error)]
#[error("stopped before the worker was ready; nothing was done")]
pub(crate) struct StoppedEarly;

/// What a worker is started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerJob<'a> {
    /// The configuration; inputs may be missing.
    pub config: &'a RunConfig,
    /// Set by signals, by the parent's end and by errors.
    pub stop: &'a Arc<Stop>,
    /// What metrics are read from.
    pub monitor: &'a Arc<Monitor>,
    /// Where answers go.
    pub answers: &'a Answers,
}

/// Processes the shards that stdin names, and answers on stdout. Returns the report of all, which is written to the output too.
///
/// # Errors
/// Bad configuration, an output of another configuration, an unusable model, an output that cannot be listed or written, a model
/// that fails, too many samples that fail, and [`StoppedEarly`]. Shards that fail are answers, not errors.
pub(crate) async fn work(job: WorkerJob<'_>) -> anyhow::Result<RunReport> {
    let WorkerJob { config, monitor, .. } = job;
    // A port that is in use is an error before models are loaded.
    let _server = match &config.monitoring.address {
        Some(address) => Some(serve(monitor, address).await?),
        None => None,
    };
    let mut stores = Stores::new(config.stores);
    monitor.watch_stores(stores.counters());
    let model = RunModel::open(config)?;
    let output = open_output(&mut stores, &config.output.url)?;
    refuse_output_among_inputs(&mut stores, config, &output)?;
    // Joined before the records are listed, as a run does.
    let workers = join_workers(config, &output, monitor).await;
    let report = work_joined(job, (stores, output), model, &workers).await;
    if let Some(workers) = workers.and_then(Arc::into_inner) {
        workers.leave().await;
    }
    report
}

/// What an output has, as far as a worker needs it: records and parts, deletions that are not finished, shards that failed.
type Found = (OutputScan, Vec<String>, Vec<String>);

async fn work_joined(
    job: WorkerJob<'_>,
    (stores, output): (Stores, Location),
    mut model: RunModel,
    workers: &Option<Arc<Workers>>,
) -> anyhow::Result<RunReport> {
    let WorkerJob { config, stop, monitor, .. } = job;
    let mut report = RunReport::begin_without_plan(config, &model, &output);
    let commit_log = CommitLog::new(output.clone());
    let Some(found) = stop.unless_requested(look_at(&commit_log, &model, config)).await else {
        bail!(StoppedEarly)
    };
    let (found, committer) = found?;
    warn_circular(&model);
    let executions = model.resolve(config)?;
    report.self_test = self_test(config, &model, &executions).await?;
    let devices = Arc::new(Devices::new(&executions));
    let described = Output::new(config, &model, &output, committer);
    let progress = Arc::new(Progress::default().on(&devices).writing(&described.meter));
    if let Some(workers) = workers {
        let progress = Arc::clone(&progress);
        workers.report_progress(move || progress.outcomes.finished() + progress.read.bytes.load(Relaxed));
    }
    monitor.describe(RunFacts {
        output: report.output.clone(),
        model: report.model.clone(),
        scorer: report.scorer.clone().unwrap_or_default(),
    });
    monitor.watch(&progress);
    let _bar = Reporter::Auto.start(&progress);
    let context = RunContext { config, model: &model, devices: &devices, stop, progress: &progress };
    let stopped = serve_requests(job, context, (stores, found), (&described, workers), &mut report).await;
    report.computed_by(&devices, &progress);
    report.end_with(stopped?);
    report.decoder_panics = recaption_image::panics();
    report.interrupted = stop.requested();
    report.write(&output).await.context("the worker's record could not be written")?;
    Ok(report)
}

/// Scans the output, and rejects one of another configuration.
async fn look_at(
    commit_log: &CommitLog,
    model: &RunModel,
    config: &RunConfig,
) -> anyhow::Result<(Found, Committer)> {
    let found = tokio::try_join!(commit_log.scan(), commit_log.pending_deletions(), commit_log.failures())?;
    let keys = model.row_keys(config);
    refuse_others(&found.0, commit_log, (&configuration_fingerprint(&keys), &keys)).await?;
    let committer = commit_log.committer(keys, false).await?;
    Ok((found, committer))
}

/// Runs one pass of the pipeline, whose shards are the requests'. Returns how many requests were answered `stopped`.
async fn serve_requests(
    job: WorkerJob<'_>,
    context: RunContext<'_>,
    (mut stores, (scan, deleted, failed)): (Stores, Found),
    (output, workers): (&Arc<Output>, &Option<Arc<Workers>>),
    report: &mut RunReport,
) -> anyhow::Result<usize> {
    let WorkerJob { config, stop, monitor, answers } = job;
    let commit_log = output.committer.commit_log.clone();
    let configuration = configuration_fingerprint(&output.committer.configuration);
    let records = Records::new(commit_log.clone(), (scan, deleted), configuration, workers.clone());
    let lookup = ShardLookup::new(&mut stores, &config.input, &output.location, records);
    let names = Names::new(stores, &config.input).await?;
    let failures = FailureRecords::new(commit_log.clone(), failed);
    let tasks = Arc::new(Tasks::default());
    let location = output.location.clone();
    let claims = WorkerClaims::new(commit_log, location, Arc::clone(&tasks), workers.clone());
    let source = Arc::new(ShardSource::open(Some(claims)));
    let guard = FailureGuard::new(config.resources.max_failure_ratio);
    let collector = Collector::new(Arc::clone(output), Arc::clone(&tasks), guard);
    let request = StreamRequest { tasks, source, keep_features: false, sampling: None, limit: None };
    stream(context, request, |state, events| async move {
        if stop.requested() {
            bail!(StoppedEarly);
        }
        let lines = Lines::start(BufReader::with_capacity(STDIN_BUFFER, std::io::stdin()))
            .context("stdin cannot be read")?;
        answers.send(Answer::Ready(ready(config, context, report)), None);
        let totals = Totals::new(report, monitor);
        let session = Session::new(answers, (names, lookup), failures, state, totals);
        Ok(session.run(collector, lines, events).await)
    })
    .await
}

fn ready(config: &RunConfig, context: RunContext<'_>, report: &RunReport) -> Ready {
    Ready {
        protocol: PROTOCOL,
        version: report.version,
        pid: std::process::id(),
        run: report.run.clone(),
        output: report.output.clone(),
        model: report.model.clone(),
        provider: context.devices.all().first().map_or("", |device| device.execution.as_str()),
        // One is read by each reader, and one waits.
        in_flight: config.input.concurrent_shards + 1,
    }
}
