//! Results of samples, sorted by shard and position.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use recaption_messages::{SampleOutcome, ShardEvent};

use crate::run::{Events, Progress};

/// Everything that was captioned.
#[derive(Debug)]
pub(super) struct Gathered {
    /// Ends of samples by shard and position.
    pub(super) outcomes: BTreeMap<(usize, u64), SampleOutcome>,
    /// Shards that could not be read, with the error.
    pub(super) failed: BTreeMap<usize, String>,
    /// Shards that are damaged, with the damage.
    pub(super) damaged: BTreeMap<usize, String>,
    /// Time from the start, when the models are loaded, to the last sample's end.
    pub(super) time: Duration,
}

/// Receives all events, and counts the shards that were read.
///
/// # Errors
/// Fails when the number of results of a shard differs from the number of its samples.
pub(super) async fn gather(mut events: Events, progress: &Progress) -> anyhow::Result<Gathered> {
    let started = Instant::now();
    let (outcomes, failed, damaged) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut gathered = Gathered { outcomes, failed, damaged, time: Duration::ZERO };
    // Per shard: samples that its reader counted, results that arrived.
    let mut counts: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    while let Some(event) = events.recv().await {
        match event {
            ShardEvent::Begun { .. }
            | ShardEvent::CommittedByOther { .. }
            | ShardEvent::ClaimedByOther { .. } => {}
            ShardEvent::Sample(result) => {
                gathered.time = started.elapsed();
                counts.entry(result.shard).or_default().1 += 1;
                gathered.outcomes.insert((result.shard, result.index), result.outcome);
            }
            ShardEvent::Read { shard, contents } => {
                progress.committed.fetch_add(1, Relaxed);
                counts.entry(shard).or_default().0 = contents.samples;
                if let Some(damage) = contents.damage {
                    gathered.damaged.insert(shard, damage.detail);
                }
            }
            ShardEvent::Failed { shard, error } => {
                progress.failed.fetch_add(1, Relaxed);
                counts.remove(&shard);
                gathered.failed.insert(shard, error.what);
            }
        }
    }
    gathered.outcomes.retain(|(shard, _), _| !gathered.failed.contains_key(shard));
    for (shard, (read, ended)) in counts {
        if read != ended && !gathered.failed.contains_key(&shard) {
            anyhow::bail!("internal error: shard {shard}: {read} samples but {ended} results");
        }
    }
    Ok(gathered)
}
