//! Records of runs -> their sums.
//!
//! A process that was killed has left no record, so these sums are of processes that ended. Samples that they read and the rows of
//! the output differ: shards are processed twice, again after a change, or retired.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use recaption_output::layout::RUNS;
use recaption_store::{Location, StoreError, read_json};
use serde::{Deserialize, Serialize};

/// Records read at the same time.
const CONCURRENCY: usize = 64;

/// Sums over the records of all runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct RunTotals {
    /// Processes that ended with a record.
    pub(crate) processes: usize,
    /// Those that were interrupted.
    pub(crate) interrupted: usize,
    /// Records that cannot be read.
    pub(crate) unreadable: usize,
    /// Start of the first, RFC 3339.
    pub(crate) first_started: String,
    /// End of the last, RFC 3339.
    pub(crate) last_finished: String,
    /// Seconds of all processes together.
    pub(crate) seconds: f64,
    /// Samples of shards that they committed.
    pub(crate) samples_read: u64,
    /// Shards that they committed.
    pub(crate) shards_done: u64,
    /// Shards that one of them computed although another had committed them.
    pub(crate) shards_done_twice: u64,
    /// Requests to stores that were retried.
    pub(crate) requests_retried: u64,
    /// Decoders that panicked.
    pub(crate) decoder_panics: u64,
    /// Recaption's versions.
    pub(crate) versions: BTreeSet<String>,
    /// Digests of captioners.
    pub(crate) models: BTreeSet<String>,
    /// Execution providers.
    pub(crate) providers: BTreeSet<String>,
}

/// What is used of a record. Records of older versions lack some of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RunRecord {
    version: String,
    model: String,
    provider: Option<String>,
    started: String,
    finished: String,
    seconds: f64,
    interrupted: bool,
    shards_done: u64,
    shards_done_twice: u64,
    requests_retried: u64,
    decoder_panics: u64,
    counts: RunCounts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RunCounts {
    read: u64,
}

/// Lists the records of runs, in the order of their names.
///
/// # Errors
/// Returns an error when they cannot be listed.
pub(crate) async fn list_runs(output: &Location) -> Result<Vec<Location>, StoreError> {
    let folder = output.child(RUNS);
    let mut places: Vec<Location> =
        folder.list().await?.into_iter().map(|meta| folder.at(meta.location)).collect();
    places.retain(|place| place.path.as_ref().ends_with(".json"));
    places.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(places)
}

impl RunTotals {
    /// Reads all records of an output, in the order of their names. One that cannot be parsed is counted and logged.
    ///
    /// # Errors
    /// Returns an error when they cannot be listed, or one cannot be read for a transient reason.
    pub(crate) async fn of(output: &Location) -> Result<Self, StoreError> {
        let places = list_runs(output).await?;
        let records = stream::iter(places).map(|place| async move {
            match read_json::<RunRecord>(&place).await {
                Ok(record) => Ok(record.map(Some)),
                Err(error @ StoreError::Record { .. }) => {
                    tracing::warn!(%error, "unusable record of a run");
                    Ok(Some(None))
                }
                Err(error) => Err(error),
            }
        });
        records
            .buffered(CONCURRENCY)
            .try_fold(Self::default(), |mut totals, record| async move {
                match record {
                    Some(Some(record)) => totals.add(record),
                    Some(None) => totals.unreadable += 1,
                    None => {}
                }
                Ok(totals)
            })
            .await
    }

    fn add(&mut self, record: RunRecord) {
        self.processes += 1;
        self.interrupted += usize::from(record.interrupted);
        self.seconds += record.seconds;
        self.samples_read += record.counts.read;
        self.shards_done += record.shards_done;
        self.shards_done_twice += record.shards_done_twice;
        self.requests_retried += record.requests_retried;
        self.decoder_panics += record.decoder_panics;
        if self.first_started.is_empty() || record.started < self.first_started {
            self.first_started = record.started;
        }
        if record.finished > self.last_finished {
            self.last_finished = record.finished;
        }
        for (all, one) in [
            (&mut self.versions, record.version),
            (&mut self.models, record.model),
            (&mut self.providers, record.provider.unwrap_or_default()),
        ] {
            if !one.is_empty() {
                all.insert(one);
            }
        }
    }
}
