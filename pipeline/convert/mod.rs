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
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use recaption_output::second_pass::SourceDataset;
use recaption_store::Stores;

pub use job::{ColumnPreset, ConvertJob, SidecarCaptions, TargetFormat};
pub use record::{ConvertReport, MissingImage};

use self::{
    group::{Converter, convert_group},
    inputs::InputShards,
    plan::{Group, groups},
    record::{Claim, GroupRecord, Records},
    target::Target,
};

/// Groups in work at the same time.
const CONCURRENT_GROUPS: usize = 4;
/// Groups of earlier attempts looked at at the same time.
const CONCURRENT_LOOKS: usize = 16;
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
    delete_stale(&converter, &found, &done, &todo).await?;
    let mut records = convert_groups(&converter, todo).await?;
    records.iter().for_each(|(_, group)| report.add(group, true));
    done.iter().for_each(|(_, group)| report.add(group, false));
    records.extend(done);
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

/// A group to be written, with the record of an earlier attempt whose files are whole but lack rows.
type Planned = (Group, Option<GroupRecord>);

/// Divides groups into those that are written and those that are not, or not whole.
async fn divide(
    target: &Target,
    source: &SourceDataset,
    groups: Vec<Group>,
    found: &Records,
) -> anyhow::Result<(Records, Vec<Planned>)> {
    let looked_at = stream::iter(groups).map(|group| async move {
        let record = found
            .get(&group.number())
            .filter(|record| record.fingerprint == group.fingerprint(&source.shards));
        let is_whole = match record {
            Some(record) => target.is_whole(record).await?,
            None => false,
        };
        anyhow::Ok((group, record.filter(|_| is_whole).cloned()))
    });
    let (mut done, mut todo) = (Records::new(), Vec::new());
    let mut looked_at = std::pin::pin!(looked_at.buffered(CONCURRENT_LOOKS));
    while let Some((group, record)) = looked_at.try_next().await? {
        match record {
            Some(record) if record.is_complete() => drop(done.insert(group.number(), record)),
            earlier => todo.push((group, earlier)),
        }
    }
    Ok((done, todo))
}

/// Deletes files that an earlier state of the source had, before others are written under their names. Those of `done` stay, and so
/// do those that are written again as they were.
async fn delete_stale(
    converter: &Converter,
    found: &Records,
    done: &Records,
    todo: &[Planned],
) -> anyhow::Result<()> {
    let Converter { source, target, .. } = converter;
    let planned: BTreeMap<u64, String> =
        todo.iter().map(|(group, _)| (group.number(), group.fingerprint(&source.shards))).collect();
    let stays = |number: u64, record: &GroupRecord| {
        done.contains_key(&number) || planned.get(&number) == Some(&record.fingerprint)
    };
    let (kept, stale): (Vec<_>, Vec<_>) = found.iter().partition(|(number, record)| stays(**number, record));
    let files = kept.iter().flat_map(|(_, record)| &record.files);
    let keep: HashSet<String> =
        files.flat_map(|file| file.folders.iter().chain([&file.path])).cloned().collect();
    for (number, record) in stale {
        tracing::info!(group = number, "deleting files of an earlier state of the output");
        target.delete(*number, record, &keep).await?;
    }
    Ok(())
}

/// Converts groups, several at a time. After the first error no further group is begun.
async fn convert_groups(converter: &Arc<Converter>, todo: Vec<Planned>) -> anyhow::Result<Records> {
    let (mut records, mut first, count) = (Records::new(), None, todo.len());
    let mut results = stream::iter(todo)
        .map(|(group, earlier)| {
            let converter = Arc::clone(converter);
            tokio::spawn(async move { (group.number(), convert_group(&converter, &group, earlier).await) })
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
