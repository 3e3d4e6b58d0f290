//! `recaption eval MODEL SHARDS`: captions shards that have reference captions, and measures the captions.
//!
//! Shares the data flow of a run up to the rows, and writes nothing. References are the samples' own captions, and the texts
//! of a list called `captions` in a sample's JSON. Memory grows with the input: words, two feature vectors and a similarity
//! per sample are held until the end.

mod gather;
mod report;
mod scenes;

use std::sync::Arc;

use anyhow::{Context, bail};
use recaption_input::shards::list_shards;
use recaption_store::Stores;

pub use self::{report::EvalReport, scenes::ScenesReport};
use crate::{
    config::RunConfig,
    run::{
        Devices, Progress, Reporter, RunContext, RunModel, ShardSource, Stop, StreamRequest, Tasks,
        self_test, stream,
    },
};

/// Captions the configured shards and measures the captions.
///
/// # Errors
/// Fails on a bad configuration, an unusable model, inputs that cannot be listed, a model that fails while captioning, an
/// interruption, and when no sample was captioned.
pub async fn evaluate(
    config: &RunConfig,
    stop: &Arc<Stop>,
    reporter: &Reporter,
) -> anyhow::Result<EvalReport> {
    let mut model = RunModel::open(config)?;
    let shards =
        list_shards(&mut Stores::new(config.stores), &config.input.shards, config.input.read.format).await?;
    let executions = model.resolve(config)?;
    self_test(config, &model, &executions).await?;
    let devices = Arc::new(Devices::new(&executions));
    let progress = Arc::new(Progress::of_shards(&shards).on(&devices));
    let urls: Vec<String> = shards.iter().map(|shard| shard.url.clone()).collect();
    let bar = reporter.start(&progress);
    let request = StreamRequest {
        source: Arc::new(ShardSource::fixed(0..shards.len(), None)),
        tasks: Arc::new(Tasks::of_shards(shards)),
        keep_features: true,
        sampling: None,
        limit: None,
    };
    let context = RunContext { config, model: &model, devices: &devices, stop, progress: &progress };
    let gathered = stream(context, request, |_, events| gather::gather(events, urls)).await?;
    drop(bar);
    if stop.requested() {
        bail!(
            "interrupted before all samples were captioned; no metrics, since those of a part are not comparable"
        );
    }
    if gathered.samples.is_empty() {
        bail!("no sample was captioned, so there is nothing to measure: {}", gathered.describe_rejects());
    }
    let report = move || EvalReport::new(gathered, model.is_circular());
    tokio::task::spawn_blocking(report).await.context("computing the metrics panicked")
}
