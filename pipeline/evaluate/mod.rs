//! `recaption eval MODEL SHARDS`: captions shards that have reference captions and measures how good the captions are.
//!
//! Takes the same way as a run, up to the rows, and writes nothing. References are the samples' own captions, and where a
//! sample's JSON has a list of texts called `captions`, those too. What is read is held until the end: words, two
//! embeddings and a similarity per sample.

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
    run::{Devices, Progress, Reporter, RunContext, RunModel, Stop, StreamRequest, self_test, stream},
};

/// Captions the configured shards and measures the captions; nothing is written.
///
/// # Errors
/// Bad configuration, an unusable model, inputs that cannot be listed, a model that fails, no sample at all.
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
    let request =
        StreamRequest { begin: (0..shards.len()).collect(), shards, claims: None, keep_features: true };
    let context = RunContext { config, model: &model, devices: &devices, stop, progress: &progress };
    let gathered = stream(context, request, |_, events| gather::gather(events, urls)).await?;
    drop(bar);
    if stop.requested() {
        bail!("interrupted: numbers of a part would not be those of the whole");
    }
    if gathered.samples.is_empty() {
        bail!("no sample was captioned, so there is nothing to measure: {}", gathered.rejected());
    }
    let report = move || EvalReport::of(gathered, model.is_circular());
    tokio::task::spawn_blocking(report).await.context("measuring broke down")
}
