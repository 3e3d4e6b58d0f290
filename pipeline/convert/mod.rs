//! `recaption convert`: a finished output, with its images, into what trainers load.
//!
//! ```text
//! commit records -> files -> rows of the captions parts + images of rows or input shards -> webdataset | Parquet | folders
//! ```
//! | file | what |
//! |---|---|
//! | `job`, `source`, `target`, `record` | what is asked for, read, claimed and recorded |
//! | `plan` | which shards of the source go into which files |
//! | `inputs`, `samples` | rows with their images |
//! | `sink`, `columns`, `folder` | files of each format |
//! | `beside` | sidecars beside the images |
//! | `group`, `card` | one group of files; what describes the whole dataset |
//!
//! Bytes follow from the source and the options alone. Every group of files has a record, written after it, so that a rerun does only
//! what is missing. Memory holds a row group and some images for each group in work.

mod beside;
mod card;
mod columns;
mod folder;
mod group;
mod inputs;
mod job;
mod plan;
mod record;
mod samples;
mod sink;
mod source;
mod target;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use futures::{StreamExt, stream};
use recaption_output::second_pass::SourceDataset;
use recaption_store::Stores;

pub use job::{ColumnPreset, ConvertJob, SidecarCaptions, TargetFormat};
pub use record::{ConvertReport, MissingImage};

use self::{
    group::{Converter, convert_group},
    inputs::InputShards,
    plan::{Group, groups},
    record::{Claim, Records},
    target::Target,
};

/// Groups in work at the same time.
const CONCURRENT_GROUPS: usize = 4;
/// How often progress is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Converts an output.
///
/// # Errors
/// The source is no complete output, the target holds something else, or a store fails. The same command then continues where
/// this one stopped. Images that are gone are no errors here: the report lists them.
pub async fn convert(job: &ConvertJob) -> anyhow::Result<ConvertReport> {
    let begun = SystemTime::now();
    let mut stores = Stores::new(job.stores);
    let location = stores.locate(&job.source)?;
    let source = source::open(location, job).await?;
    let Some(url) = &job.target else { return beside::write_sidecars(job, &source, stores).await };
    let target = Target::open(&mut stores, url, &source.location)?;
    let claim = Claim::of(job, &source);
    let found = target.claim(&claim, job).await?;
    let groups = plan(job, &source);
    let inputs = if job.needs_images() {
        let inputs =
            InputShards::open(stores, source.location.clone(), &source.configuration, &job.inputs).await?;
        Some(Arc::new(inputs))
    } else {
        None
    };
    let mut report = ConvertReport::begin(job, &source, Some(target.location.url()));
    let (done, todo) = divide(&target, &source, groups, &found).await?;
    tracing::info!(rows = report.rows, groups = todo.len(), done = done.len(), "planned");
    let has_written = !todo.is_empty();
    let converter = Arc::new(Converter { job: job.clone(), source, target, inputs });
    let mut records = convert_groups(&converter, todo).await?;
    records.iter().for_each(|(_, group)| report.add(group, true));
    done.iter().for_each(|(_, group)| report.add(group, false));
    records.extend(done);
    delete_others(&converter.target, &found, &records).await?;
    card::describe(&converter, &records).await?;
    if has_written {
        converter.target.delete_staged(begun).await;
    }
    Ok(report)
}

fn plan(job: &ConvertJob, source: &SourceDataset) -> Vec<Group> {
    let rows: Vec<u64> = source.shards.iter().map(|shard| shard.captions.rows).collect();
    if job.format == TargetFormat::Sidecar {
        // A folder for each shard, whatever its size.
        let one = |at: usize| groups(&rows[at..=at], u64::MAX);
        let shards = (0..rows.len()).flat_map(|at| one(at).into_iter().map(move |group| (at, group)));
        let number = |(number, (at, mut group)): (u64, (usize, Group))| {
            group.shards = vec![at];
            group.files.iter_mut().for_each(|file| file.number = number);
            group
        };
        return (0..).zip(shards).map(number).collect();
    }
    groups(&rows, job.rows_per_shard)
}

/// Divides groups into those that are written and those that are not, or not whole.
async fn divide(
    target: &Target,
    source: &SourceDataset,
    groups: Vec<Group>,
    found: &Records,
) -> anyhow::Result<(Records, Vec<Group>)> {
    let (mut done, mut todo) = (Records::new(), Vec::new());
    for group in groups {
        let number = group.number();
        let record = found.get(&number).filter(|record| {
            record.fingerprint == group.fingerprint(&source.shards) && record.missing.is_empty()
        });
        match record {
            Some(record) if target.is_whole(record).await? => drop(done.insert(number, record.clone())),
            _ => todo.push(group),
        }
    }
    Ok((done, todo))
}

/// Converts groups, several at a time. After the first error no further group is begun.
async fn convert_groups(converter: &Arc<Converter>, todo: Vec<Group>) -> anyhow::Result<Records> {
    let (mut records, mut first, count) = (Records::new(), None, todo.len());
    let mut results = stream::iter(todo)
        .map(|group| {
            let converter = Arc::clone(converter);
            tokio::spawn(async move { (group.number(), convert_group(&converter, &group).await) })
        })
        .buffer_unordered(CONCURRENT_GROUPS);
    let (mut ended, mut logged) = (0, Instant::now());
    while let Some(result) = results.next().await {
        let (number, result) = result.context("a conversion broke down")?;
        ended += 1;
        match result {
            Ok(record) => drop(records.insert(number, record)),
            Err(error) => {
                first.get_or_insert(error);
                break;
            }
        }
        if logged.elapsed() >= LOG_EVERY {
            logged = Instant::now();
            tracing::info!(groups_done = ended, groups = count, "converting");
        }
    }
    first.map_or(Ok(records), Err)
}

/// Deletes groups that an earlier state of the source had.
async fn delete_others(target: &Target, found: &Records, records: &Records) -> anyhow::Result<()> {
    let files = || records.values().flat_map(|group| &group.files);
    let keep: HashSet<String> =
        files().flat_map(|file| file.folders.iter().chain([&file.path])).cloned().collect();
    for (number, group) in found.iter().filter(|(number, _)| !records.contains_key(number)) {
        tracing::info!(group = number, "deleting files that the source has no rows for any more");
        target.delete(*number, group, &keep).await?;
    }
    Ok(())
}
