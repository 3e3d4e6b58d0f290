//! Runs work for many shards at the same time.

use std::{
    future::Future,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{StreamExt, stream};
use recaption_output::second_pass::SecondPassError;

/// Shards in work at the same time, at most: each holds a row group or two.
const MAX_WORKERS: usize = 8;
/// Shards in work at the same time, at least: one hides the other's latency.
const MIN_WORKERS: usize = 2;
/// How often progress is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

fn workers() -> usize {
    std::thread::available_parallelism().map_or(MIN_WORKERS, Into::into).clamp(MIN_WORKERS, MAX_WORKERS)
}

/// Runs `work` for shards `0..count`, several at a time, and passes each result to `take`. After the first error no further
/// shard is begun, and those in flight end first, so that their uploads are completed or aborted. `doing` is logged.
///
/// # Errors
/// The first error of `work`.
pub(super) async fn for_each_shard<T, W>(
    doing: &str,
    count: usize,
    work: impl Fn(usize) -> W,
    mut take: impl FnMut(T),
) -> anyhow::Result<()>
where
    T: Send + 'static,
    W: Future<Output = Result<T, SecondPassError>> + Send + 'static,
{
    let failed = AtomicBool::new(false);
    let mut first = None;
    let mut results = stream::iter(0..count)
        .take_while(|_| std::future::ready(!failed.load(Relaxed)))
        .map(|i| tokio::spawn(work(i)))
        .buffer_unordered(workers());
    let (mut done, mut logged) = (0, Instant::now());
    while let Some(result) = results.next().await {
        match result.context("a worker broke down").and_then(|r| Ok(r?)) {
            Ok(result) => take(result),
            Err(error) => {
                failed.store(true, Relaxed);
                first.get_or_insert(error);
            }
        }
        done += 1;
        if logged.elapsed() >= LOG_EVERY {
            logged = Instant::now();
            tracing::info!(doing, shards_done = done, shards = count, "progress");
        }
    }
    first.map_or(Ok(()), Err)
}
