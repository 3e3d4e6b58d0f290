//! Finds the threshold of a second pass.

use std::sync::Arc;

use anyhow::Context;
use recaption_output::second_pass::{CoarseHistogram, CopyCounts, Cutoff, SourceDataset};

use super::{concurrency::for_each_shard, job::FilterJob};

/// Returns the threshold and the rows on both sides of it. Reads the score's column once for a given threshold, twice for a
/// share. The threshold is `None` where no row has the score.
///
/// # Errors
/// When the source cannot be read, or changes between the two readings.
pub(super) async fn find_threshold(
    source: &SourceDataset,
    job: &FilterJob,
) -> anyhow::Result<(Option<f32>, CopyCounts)> {
    let shared = Arc::new(source.clone());
    let by = job.by;
    let count = source.shards.len();
    let share = match job.cutoff {
        Cutoff::AtLeast(least) => {
            let mut totals = CopyCounts::default();
            let work = |i: usize| {
                let source = Arc::clone(&shared);
                async move {
                    let mut counts = CopyCounts::default();
                    let take = |score: Option<f32>| {
                        counts.read += 1;
                        counts.selected += u64::from(score.is_some_and(|score| score >= least));
                        counts.missing += u64::from(score.is_none());
                    };
                    source.scores(&source.shards[i], by, take).await?;
                    Ok(counts)
                }
            };
            for_each_shard("counting", count, work, |counts| totals.add(counts)).await?;
            return Ok((Some(least), totals));
        }
        Cutoff::KeepTop(share) => share,
    };
    let mut coarse = CoarseHistogram::default();
    let work = |i: usize| {
        let source = Arc::clone(&shared);
        async move {
            let mut counts = CoarseHistogram::default();
            source.scores(&source.shards[i], by, |score| counts.push(score)).await?;
            Ok(counts)
        }
    };
    for_each_shard("first reading", count, work, |counts| coarse.merge(&counts)).await?;
    let mut totals =
        CopyCounts { read: coarse.scored + coarse.missing, selected: 0, missing: coarse.missing };
    let Some(mut fine) = coarse.refine(share.of(coarse.scored)) else { return Ok((None, totals)) };
    let empty = Arc::new(fine.clone());
    let work = |i: usize| {
        let (source, mut counts) = (Arc::clone(&shared), (*empty).clone());
        async move {
            let take = |score: Option<f32>| score.into_iter().for_each(|score| counts.push(score));
            source.scores(&source.shards[i], by, take).await?;
            Ok(counts)
        }
    };
    for_each_shard("second reading", count, work, |counts| fine.merge(&counts)).await?;
    let (threshold, selected) = fine.threshold().with_context(|| {
        format!("{} changed between two readings. Run the same command again", source.location.url())
    })?;
    totals.selected = selected;
    Ok((Some(threshold), totals))
}
