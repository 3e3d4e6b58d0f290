//! Readers -> decoders -> captioners -> collector: starts the threads and channels of a pass over shards, and ends them.

use std::{future::Future, sync::Arc};

use anyhow::{Context, anyhow};
use recaption_image::PrepareSettings;
use recaption_messages::ReadSink;
use tokio::sync::mpsc;

use super::{
    captioners::start_captioners,
    context::{RunContext, RunState},
    decoders::Decoders,
    events::{Events, events},
    read_limit::ReadLimit,
    readers::read_all,
    sampling::Sampling,
    source::{ShardSource, Tasks},
};

/// Samples waiting between readers and decoders.
const SAMPLE_QUEUE: usize = 64;
/// Prepared samples waiting for the captioners, at least; a full batch may wait.
pub(crate) const MIN_CAPTION_QUEUE: usize = 8;
/// Shards read but not yet committed, at most. Small shards need many to keep the models busy.
const SHARD_WINDOW: usize = 64;

/// What is read, and what results carry.
pub(crate) struct StreamRequest {
    /// All shards that have a number.
    pub tasks: Arc<Tasks>,
    /// Which of them are read, and which is next.
    pub source: Arc<ShardSource>,
    /// Whether results carry the scorer's features.
    pub keep_features: bool,
    /// Which samples of the shards are read; `None` reads all.
    pub sampling: Option<Arc<Sampling>>,
    /// After how many samples no further shard is begun; `None` begins all.
    pub limit: Option<u64>,
}

/// Reads, decodes and captions shards. Everything that happens reaches `consume`, which ends when the events end.
///
/// # Errors
/// When the models cannot be loaded or fail, a stage breaks down, or `consume` fails.
pub(crate) async fn stream<T, F: Future<Output = anyhow::Result<T>>>(
    context: RunContext<'_>,
    request: StreamRequest,
    consume: impl FnOnce(Arc<RunState>, Events) -> F,
) -> anyhow::Result<T> {
    let RunContext { config, model, .. } = context;
    let settings = context.model.worker_settings(context.config, request.keep_features);
    let window = SHARD_WINDOW.max(config.input.concurrent_shards);
    let parts = (request.sampling, request.limit.map(ReadLimit::new));
    let state = Arc::new(RunState::new(context, (request.tasks, request.source), parts, window));
    let progress = context.progress;
    let (to_collector, events) = events(progress);
    let caption_queue = model.settings.max_slots.max(MIN_CAPTION_QUEUE);
    let (to_captioners, prepared) = crossbeam_channel::bounded(caption_queue);
    progress.decode_queue.set_capacity(SAMPLE_QUEUE);
    progress.caption_queue.set_capacity(caption_queue);
    progress.write.set_places(window);
    let captioners = start_captioners(context, settings, &state, prepared, &to_collector).await?;
    progress.begin();
    let (to_decoders, samples) = mpsc::channel(SAMPLE_QUEUE);
    let decoders = Decoders::start(
        &state,
        config.resources.threads,
        prepare_settings(context),
        to_captioners,
        to_collector.clone(),
    )?;
    let decoding = tokio::spawn(decoders.run(samples));
    let sink = ReadSink::Routed { samples: to_decoders, events: to_collector.clone() };
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..config.input.concurrent_shards {
        readers.spawn(read_all(
            Arc::clone(&state),
            Arc::clone(&config.input.read),
            sink.clone(),
            to_collector.clone(),
        ));
    }
    drop((sink, to_collector));
    let results = consume(Arc::clone(&state), events).await;
    if results.is_err() {
        // Readers may wait for shards that nobody adds any more.
        state.stop.abort();
    }
    while let Some(done) = readers.join_next().await {
        done.context("a reader broke down")?;
    }
    decoding.await.context("the decoding stage broke down")?;
    for captioner in captioners {
        tokio::task::spawn_blocking(move || captioner.join())
            .await?
            .map_err(|_| anyhow!("a captioning thread panicked"))?;
    }
    match state.take_error() {
        Some(error) => Err(error),
        None => results,
    }
}

fn prepare_settings(context: RunContext<'_>) -> PrepareSettings {
    PrepareSettings {
        preprocess: context.model.folder.spec.preprocessing,
        scorer: context.model.scorer_preprocessing(),
        decode: context.config.input.decode,
        keep_stored: context.config.output.carries_images(),
    }
}
