//! Threads and channels of a run. The only place that knows all stages.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use anyhow::{Context, anyhow};
use crossbeam_channel::Sender;
use recaption_caption::CaptionWorkerSettings;
use recaption_image::{PrepareSettings, prepare_sample};
use recaption_input::shards::ShardRef;
use recaption_messages::{ByteBudget, PreparedSample, ReadItem, SampleOutcome, SampleResult};
use recaption_output::commits::{CommitResult, Committer, Workers};
use recaption_schemas::FailureClass;
use recaption_store::Location;
use tokio::sync::{Semaphore, mpsc};

use super::{
    RunModel,
    captioners::start_captioners,
    collector::{Collector, Event},
    devices::Devices,
    guard::FailureGuard,
    plan::{Mismatch, Plan},
    progress::Progress,
    queue::Queue,
    readers::{Watch, read_all},
    shard_writer::{Finish, Output, ShardResult},
    stop::Stop,
};
use crate::config::{Images, RunConfig};

/// Samples waiting between readers and decoders.
const SAMPLE_QUEUE: usize = 64;
/// Outcomes waiting for the collector.
const EVENT_QUEUE: usize = 256;
/// Images in decoding per decoding thread: one at work, one ready.
const DECODES_PER_THREAD: usize = 2;
/// Shards read but not yet committed, at most. Small shards need many to keep the models busy.
const SHARD_WINDOW: usize = 64;
/// What every stage of a run shares.
pub struct Shared {
    pub(super) shards: Vec<ShardRef>,
    pub(super) queue: Queue,
    pub(super) watch: Option<Watch>,
    pub(super) stop: Arc<Stop>,
    pub(super) progress: Arc<Progress>,
    pub(super) window: Arc<Semaphore>,
    pub(super) budget: ByteBudget,
    /// First error that ends the run.
    fatal: Mutex<Option<anyhow::Error>>,
}

impl Shared {
    /// Ends the run with its first error.
    pub fn fail(&self, error: anyhow::Error) {
        let mut fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
        fatal.get_or_insert(error);
        self.stop.abort();
    }
}

/// Runs the plan's shards of these numbers to their end, or to the stop.
///
/// # Errors
/// When the models cannot be loaded or fail, or a stage breaks down. Shards that fail are results, not errors.
pub async fn execute(
    config: &RunConfig,
    model: &RunModel,
    devices: &Arc<Devices>,
    (plan, output, workers): (&Plan, &Arc<Output>, &Option<Arc<Workers>>),
    begin: Vec<usize>,
    (stop, progress): (&Arc<Stop>, &Arc<Progress>),
) -> anyhow::Result<Vec<ShardResult>> {
    let shards = plan.todo.iter().map(|task| task.shard.clone()).collect();
    let (commit_log, location) = (output.committer.commit_log.clone(), output.location.clone());
    let watch = Watch::new(commit_log, location, Arc::clone(&plan.todo), workers.clone());
    let guard = FailureGuard::new(config.max_failure_ratio);
    let collector = Collector::new(Arc::clone(output), Arc::clone(&plan.todo), guard);
    let wanted = Wanted { shards, begin, watch: Some(watch), keep_features: false };
    stream(config, (model, devices), wanted, (stop, progress), |shared, events| {
        collect(shared, collector, events)
    })
    .await
}

/// What is read, and what outcomes carry.
pub struct Wanted {
    /// All that have a number.
    pub shards: Vec<ShardRef>,
    /// Numbers, in the order in which they are begun.
    pub begin: Vec<usize>,
    /// Looks what other workers did meanwhile.
    pub watch: Option<Watch>,
    /// Whether outcomes carry embeddings.
    pub keep_features: bool,
}

/// Reads, decodes and captions shards; hands everything that happens to `consume`, which ends when nothing more does.
///
/// # Errors
/// As [`execute`], and what `consume` says.
pub async fn stream<T, F: Future<Output = anyhow::Result<T>>>(
    config: &RunConfig,
    (model, devices): (&RunModel, &Arc<Devices>),
    wanted: Wanted,
    (stop, progress): (&Arc<Stop>, &Arc<Progress>),
    consume: impl FnOnce(Arc<Shared>, mpsc::Receiver<Event>) -> F,
) -> anyhow::Result<T> {
    let shared = Arc::new(Shared {
        shards: wanted.shards,
        queue: Queue::new(wanted.begin),
        watch: wanted.watch,
        stop: Arc::clone(stop),
        progress: Arc::clone(progress),
        window: Arc::new(Semaphore::new(SHARD_WINDOW.max(config.concurrent_shards))),
        budget: ByteBudget::new(config.buffer_bytes),
        fatal: Mutex::new(None),
    });
    let (to_events, events) = mpsc::channel(EVENT_QUEUE);
    let (to_captioners, from_decoders) = crossbeam_channel::bounded(model.settings.max_slots.max(8));
    let settings = worker_settings(config, model, wanted.keep_features);
    let workers =
        start_captioners((model, devices), (config, settings), &shared, from_decoders, &to_events).await?;
    let (to_decoders, samples) = mpsc::channel(SAMPLE_QUEUE);
    let decoding = tokio::spawn(decode_all(
        Arc::clone(&shared),
        decoders(config, &shared)?,
        prepare_settings(config, model),
        samples,
        to_captioners,
        to_events.clone(),
    ));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..config.concurrent_shards {
        readers.spawn(read_all(
            Arc::clone(&shared),
            Arc::clone(&config.read),
            to_decoders.clone(),
            to_events.clone(),
        ));
    }
    drop((to_decoders, to_events));
    let results = consume(Arc::clone(&shared), events).await;
    while let Some(done) = readers.join_next().await {
        done.context("a reader broke down")?;
    }
    decoding.await.context("the decoding stage broke down")?;
    for worker in workers {
        tokio::task::spawn_blocking(move || worker.join())
            .await?
            .map_err(|_| anyhow!("a captioning thread panicked"))?;
    }
    if let Some(error) = shared.fatal.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    results
}

/// What all shards of a run have in common.
pub fn describe_output(
    config: &RunConfig,
    model: &RunModel,
    (location, committer): (&Location, Committer),
) -> Arc<Output> {
    let decode: serde_json::Map<String, serde_json::Value> = committer
        .configuration
        .iter()
        .filter_map(|(key, value)| {
            let number = (key != "caption.prompt").then(|| value.parse().ok()).flatten();
            Some((key.strip_prefix("caption.")?.to_owned(), number.unwrap_or_else(|| value.as_str().into())))
        })
        .chain([("seed".to_owned(), config.seed.into())])
        .collect();
    let decode = serde_json::Value::Object(decode);
    Arc::new(Output {
        location: location.clone(),
        committer,
        settings: config.reject_settings(),
        model: model.folder.digest.clone(),
        scorer: model.scorer.as_ref().map(|scorer| scorer.digest.clone()),
        decode: decode.to_string(),
        embed: config.images == Images::Embed,
    })
}

fn prepare_settings(config: &RunConfig, model: &RunModel) -> Arc<PrepareSettings> {
    Arc::new(PrepareSettings {
        preprocess: model.folder.spec.preprocessing,
        scorer: model.scorer_preprocessing(),
        decode: config.decode,
        keep_stored: config.images == Images::Embed,
    })
}

fn worker_settings(config: &RunConfig, model: &RunModel, keep_features: bool) -> CaptionWorkerSettings {
    CaptionWorkerSettings {
        caption: model.settings.clone(),
        seed: config.seed,
        keep_prompt: config.captioning.keep_prompt,
        filter: config.filter.clone(),
        embed_images: config.images == Images::Embed,
        keep_features,
    }
}

/// Counts an outcome.
pub(super) fn count(progress: &Progress, finished: &SampleResult) {
    progress.finished.fetch_add(1, Relaxed);
    if matches!(finished.outcome, SampleOutcome::Reject(_)) {
        progress.rejected.fetch_add(1, Relaxed);
    }
}

fn decoders(config: &RunConfig, shared: &Arc<Shared>) -> anyhow::Result<rayon::ThreadPool> {
    let shared = Arc::clone(shared);
    rayon::ThreadPoolBuilder::new()
        .num_threads(config.threads)
        .thread_name(|i| format!("decode-{i}"))
        .panic_handler(move |_| shared.fail(anyhow!("a decoding thread panicked")))
        .build()
        .context("cannot start the decoding threads")
}

/// Hands samples to the pool; a full caption channel makes pool threads wait, and this with them.
async fn decode_all(
    shared: Arc<Shared>,
    pool: rayon::ThreadPool,
    settings: Arc<PrepareSettings>,
    mut samples: mpsc::Receiver<ReadItem>,
    to_captioners: Sender<PreparedSample>,
    events: mpsc::Sender<Event>,
) {
    let in_flight = Arc::new(Semaphore::new(pool.current_num_threads() * DECODES_PER_THREAD));
    while let Some(found) = samples.recv().await {
        shared.progress.read.fetch_add(1, Relaxed);
        if shared.stop.is_aborted() {
            continue;
        }
        let sample = match found {
            ReadItem::Sample(sample) => sample,
            ReadItem::Kept { shard, index, previous: was } => {
                let _ = events.send(Event::Kept { shard, index, was }).await;
                shared.progress.finished.fetch_add(1, Relaxed);
                continue;
            }
            ReadItem::Reject { shard, index, reject } => {
                let outcome = SampleOutcome::Reject(Box::new(reject));
                let finished =
                    Box::new(SampleResult { shard, index, outcome, texts_cut: 0, embeddings: None });
                count(&shared.progress, &finished);
                let _ = events.send(Event::Sample(finished)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
        let progress = &shared.progress;
        progress.decode_queue.store(samples.len(), Relaxed);
        progress.caption_queue.store(to_captioners.len(), Relaxed);
        progress.write_queue.store(events.max_capacity() - events.capacity(), Relaxed);
        let (settings, to_captioners, events, shared) =
            (Arc::clone(&settings), to_captioners.clone(), events.clone(), Arc::clone(&shared));
        pool.spawn(move || {
            match prepare_sample(sample, &settings) {
                // A closed channel means that the run is over; the shard is then not committed.
                Ok(prepared) => drop(to_captioners.send(prepared)),
                Err(finished) => {
                    count(&shared.progress, &finished);
                    let _ = events.blocking_send(Event::Sample(finished));
                }
            }
            drop(permit);
        });
    }
    // Wait for the images in hand, then let the pool go from a thread that may block.
    let _ = in_flight
        .acquire_many(u32::try_from(pool.current_num_threads() * DECODES_PER_THREAD).unwrap_or(1))
        .await;
    let _ = tokio::task::spawn_blocking(move || drop(pool)).await;
}

async fn collect(
    shared: Arc<Shared>,
    mut collector: Collector,
    mut events: mpsc::Receiver<Event>,
) -> anyhow::Result<Vec<ShardResult>> {
    let mut results = Vec::new();
    while let Some(event) = events.recv().await {
        if let Err(error) = collector.take(event).await {
            shared.fail(error);
        }
        note(&shared, collector.ended(), &mut results).await;
    }
    note(&shared, collector.finish().await, &mut results).await;
    Ok(results)
}

/// Counts shards that ended.
async fn note(shared: &Shared, ended: Vec<ShardResult>, results: &mut Vec<ShardResult>) {
    for result in ended {
        match &result.outcome {
            Ok(finish) => {
                let (shard, captioned) = match finish {
                    Finish::Here { commit, .. } => (commit.shard.as_str(), commit.counts.captioned),
                    _ => (shared.shards.get(result.shard).map_or("", |shard| &shard.url), 0),
                };
                if !matches!(finish, Finish::Here { committed: CommitResult::Created, .. }) {
                    shared.queue.mix();
                }
                shared.progress.committed.fetch_add(1, Relaxed);
                let elsewhere = !matches!(finish, Finish::Here { .. });
                tracing::debug!(shard, captioned, elsewhere, "committed");
            }
            Err(failure) => {
                if let Some(differences) = &failure.mismatch {
                    shared.fail(Mismatch { differences: differences.clone() }.into());
                } else if failure.ends_run {
                    shared.fail(anyhow!("the output cannot be written: {}", failure.error));
                }
                shared.progress.failed.fetch_add(1, Relaxed);
                if failure.class == FailureClass::Transport {
                    tracing::error!(error = failure.error, "shard failed");
                }
                if let Some(watch) = &shared.watch {
                    watch.give_back(result.shard).await;
                }
            }
        }
        results.push(result);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use recaption_input::read::ReadSettings;

    use super::*;

    /// Shards that are given up keep their places in the window: a reader that waits for one must hear of the stop.
    #[tokio::test]
    async fn a_reader_that_waits_for_a_place_in_a_full_window_stops() {
        for abort in [false, true] {
            let shared = Arc::new(Shared {
                shards: Vec::new(),
                queue: Queue::new([0]),
                watch: None,
                stop: Arc::default(),
                progress: Arc::default(),
                window: Arc::new(Semaphore::new(1)),
                budget: ByteBudget::new(1 << 20),
                fatal: Mutex::new(None),
            });
            let place = Arc::clone(&shared.window).acquire_owned().await.expect("a place");
            let ((to_decoders, _samples), (to_events, mut events)) = (mpsc::channel(1), mpsc::channel(1));
            let settings = Arc::new(ReadSettings::default());
            let reader = tokio::spawn(read_all(Arc::clone(&shared), settings, to_decoders, to_events));
            tokio::task::yield_now().await;
            assert!(!reader.is_finished(), "the window is full");
            if abort {
                shared.fail(anyhow!("an error that ends the run"));
            } else {
                shared.stop.press();
            }
            let ended = tokio::time::timeout(Duration::from_secs(30), reader).await;
            ended.expect("it waits for ever").expect("no panic");
            assert!(events.recv().await.is_none(), "nothing was begun");
            drop(place);
        }
    }
}
