//! `recaption plan`: what a run would do, take and cost, and everything that would make it fail, before it begins.
//!
//! It is the dry run: models are opened, hardware is resolved, inputs are listed and compared with the output by the functions
//! of [`mod@crate::run`], so that plan and run cannot disagree. Problems are collected, not reported one at a time. The only thing
//! written is a small object in the output, which is deleted.
//!
//! | file | what |
//! |---|---|
//! | `problem` | problems and notes |
//! | `models`, `output`, `inputs` | what a run needs, checked |
//! | `work`, `images` | what is done and pending |
//! | `memory`, `disk`, `machine` | what a run takes, and what there is |
//! | `forecast` | hours and cost |
//! | `report`, `text` | the result |
//! | `shards` | the shards to do alone, for a driver of workers |

mod disk;
mod forecast;
mod images;
mod inputs;
mod machine;
mod memory;
mod models;
mod output;
mod problem;
mod report;
mod shards;
mod text;
mod work;

use std::sync::Arc;

use recaption_store::Stores;

pub use self::{
    disk::Disk,
    forecast::{Cost, Forecast, ForecastRequest, WorkersHours},
    images::{ImageSource, Images},
    machine::MachineMemory,
    memory::{Memory, MemoryUse},
    models::Compute,
    problem::{Problem, Subject},
    report::{ByteCounts, PlanReport, ShardCounts},
    shards::{ShardToDo, shards_to_do},
    work::Redo,
};
use self::{
    disk::{DiskUse, disk_of},
    forecast::{fitting_preview, forecast},
    images::count_images,
    inputs::list_inputs,
    memory::{memory_of, slots_of},
    models::Models,
    output::find_output,
    problem::{Findings, text_of},
    work::{Place, Work, find_work},
};
use crate::{
    config::{ConfigError, RunConfig},
    metrics::{check_textfile, serve},
    run::RunOptions,
};

/// What is planned.
#[derive(Debug)]
pub struct PlanJob<'a> {
    /// The configuration. Model, input and output may be missing, if `missing` says so.
    pub config: &'a RunConfig,
    /// Errors of required keys that are not set.
    pub missing: Vec<ConfigError>,
    /// How the run would treat what is there.
    pub options: RunOptions,
    /// What is known about rate and price.
    pub forecast: ForecastRequest,
}

/// Plans a run. What would make it fail is in the report.
pub async fn plan(job: PlanJob<'_>) -> PlanReport {
    let stores = Stores::new(job.config.stores);
    plan_over(stores, job).await
}

/// As [`plan`], over given stores.
pub async fn plan_over(mut stores: Stores, job: PlanJob<'_>) -> PlanReport {
    let PlanJob { config, missing, options, forecast: request } = job;
    let mut findings = Findings::default();
    for error in missing {
        findings.add(Subject::Configuration, error.origin, error.what, "set it");
    }
    try_metrics(config, &mut findings).await;
    let models = Models::find(config, &mut findings).await;
    let output = find_output(&mut stores, config, &mut findings).await;
    let shards = list_inputs(&mut stores, config, &mut findings).await;
    let place = Place { output: output.as_ref(), config, options: &options };
    let work = find_work(place, models.model.as_ref(), shards, &mut findings).await;
    work.note_share(options.task, &mut findings);
    let images = count_images(&work, &config.input.read, &mut findings).await;
    let slots = slots_of(config, &models, &mut findings);
    let compute = models.compute(config, slots.map(|slots| slots.slots));
    let memory = memory_of(config, &models, slots, (&work, &images), &mut findings);
    let to_read = options.limit.map_or(images.pending, |limit| limit.min(images.pending));
    let known = (work.configuration.as_ref(), compute.as_ref());
    let preview = fitting_preview(&request, known, &mut findings);
    let pending = DiskUse { work: &work, images: &images, to_read, preview: preview.as_ref() };
    let disk = disk_of(config, output.as_ref(), pending, &mut findings);
    if let Some(limit) = options.limit.filter(|limit| *limit < images.pending) {
        findings.note(format!(
            "hours and cost are those of --limit {limit}; whole shards are read, so a run reads some more"
        ));
    }
    let forecast = forecast(&request, (to_read, work.pending.len()), preview.as_ref(), &mut findings);
    let Findings { problems, notes } = findings;
    PlanReport {
        output: output.map(|output| output.url()).unwrap_or_default(),
        is_ready: problems.is_empty(),
        shards: shards_of(&work),
        bytes: bytes_of(&work),
        images,
        redo: work.redo,
        compute,
        memory,
        disk,
        forecast,
        notes,
        problems,
    }
}

/// Looks for the folder of the file that takes the metrics, and serves metrics for a moment, where that is configured.
async fn try_metrics(config: &RunConfig, findings: &mut Findings) {
    if let Some(file) = &config.monitoring.file
        && let Err(error) = check_textfile(file)
    {
        let remedy = "create the folder, or leave out run.metrics_file";
        findings.add(Subject::Configuration, file.display().to_string(), text_of(&error), remedy);
    }
    if let Some(address) = &config.monitoring.address
        && let Err(error) = serve(&Arc::default(), address).await
    {
        let remedy = "give another address, or leave out run.metrics_addr";
        findings.add(Subject::Configuration, address, text_of(&error), remedy);
    }
}

fn shards_of(work: &Work) -> ShardCounts {
    let (done, pending) = (work.done.len(), work.pending.len());
    let (not_selected, orphaned) = (work.not_selected, work.orphaned);
    ShardCounts { total: done + pending, done, pending, not_selected, orphaned }
}

fn bytes_of(work: &Work) -> ByteCounts {
    let done = work.done.iter().map(|done| done.shard.bytes()).fold(0, u64::saturating_add);
    let pending = work.pending.iter().map(|pending| pending.shard.bytes()).fold(0, u64::saturating_add);
    ByteCounts { total: done.saturating_add(pending), done, pending }
}
