//! `recaption preview`: captions a sample of the configured input as a run would, and writes nothing to the output.
//!
//! Shares the data flow of a run up to the rows, but for reading: of each shard only the samples at some places are read (see
//! [`recaption_input::read::sample_shard`]). The places depend on the seed and on the input, so that the sample is the same
//! whatever the threads. The output is neither read nor written: it need not exist.
//!
//! | file | what |
//! |---|---|
//! | `places` | how the sample is spread over the shards |
//! | `gather`, `samples` | results, by shard and position |
//! | `result`, `record` | what a preview is, and `preview.json` |
//! | `folder`, `text` | the preview's folder, and what is printed |

mod folder;
mod gather;
mod places;
mod record;
mod result;
mod samples;
mod text;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, sync::atomic::Ordering::Relaxed};

use anyhow::{Context, bail};
use recaption_input::{
    read::Splitter,
    shards::{ShardRef, list_shards},
};
use recaption_store::{Location, Stores};

pub use self::{
    record::{PREVIEW_FORMAT, PreviewRecord},
    result::Preview,
    samples::{PreviewCaption, PreviewReject},
};
use crate::{
    config::RunConfig,
    report::{ReportBuilder, ReportSource},
    run::{
        Devices, Progress, Reporter, RunContext, RunModel, Sampling, ShardSource, Stop, StreamRequest, Tasks,
        self_test, stream,
    },
};

/// Default number of samples.
pub const DEFAULT_SAMPLES: u64 = 100;
/// Most samples of a preview, whose images are in memory together.
pub const MAX_SAMPLES: u64 = 5000;

/// How a preview is made.
#[derive(Clone, Debug)]
pub struct PreviewOptions {
    /// Samples that are read, at most.
    pub samples: u64,
    /// Seed of the sample.
    pub seed: u64,
    /// Folder of the page and the record.
    pub dir: PathBuf,
}

/// Captions a sample and writes its page and record.
///
/// # Errors
/// Fails on a bad configuration, a folder that holds something else, an unusable model, inputs that cannot be listed, a model
/// that fails while captioning, an interruption, and when no sample could be read.
pub async fn preview(
    config: &RunConfig,
    options: &PreviewOptions,
    stop: &Arc<Stop>,
    reporter: &Reporter,
) -> anyhow::Result<Preview> {
    folder::check(&options.dir, config)?;
    let mut model = RunModel::open(config)?;
    let Some(shards) = stop.unless_requested(list(config)).await else { bail!("interrupted") };
    let (shards, listing_bytes) = shards?;
    let executions = model.resolve(config)?;
    self_test(config, &model, &executions).await?;
    let devices = Arc::new(Devices::new(&executions));
    let sampling = Arc::new(Sampling::new(places::spread(&shards, options.samples, options.seed)));
    let mut progress = Progress::of_shards(&shards).on(&devices).expecting(Some(options.samples));
    progress.shards = sampling.shards().len().into();
    let progress = Arc::new(progress);
    let request = StreamRequest {
        tasks: Arc::new(Tasks::of_shards(shards.iter().cloned())),
        source: Arc::new(ShardSource::fixed(sampling.shards(), None)),
        keep_features: false,
        sampling: Some(Arc::clone(&sampling)),
        limit: None,
    };
    // The page shows images, whether rows carry them or not; captions do not depend on it.
    let mut with_images = config.clone();
    with_images.output.embed_images = true;
    let bar = reporter.start(&progress);
    let context =
        RunContext { config: &with_images, model: &model, devices: &devices, stop, progress: &progress };
    let mut gathered = stream(context, request, |_, events| gather::gather(events, &progress)).await?;
    drop(bar);
    if stop.requested() {
        bail!("interrupted before all samples were captioned; nothing was written");
    }
    for (number, shard) in shards.iter().enumerate() {
        if let Some(error) = shard.lookup_error() {
            gathered.failed.insert(number, error.to_string());
        }
    }
    let measured = Measured { config, options, model: &model, devices: &devices, shards: &shards };
    let preview = measured.preview(gathered, &sampling, listing_bytes + progress.read.bytes.load(Relaxed));
    let write = {
        let (dir, mut preview) = (options.dir.clone(), preview?);
        move || {
            let html = page(&mut preview)?;
            folder::write(&dir, &html, &preview.record)?;
            anyhow::Ok(preview)
        }
    };
    tokio::task::spawn_blocking(write).await.context("writing the preview panicked")?
}

/// Lists the shards as a run has them, parts of long lists being shards; returns the bytes that were read of lists too.
async fn list(config: &RunConfig) -> anyhow::Result<(Vec<ShardRef>, u64)> {
    let read = &config.input.read;
    let shards = list_shards(&mut Stores::new(config.stores), &config.input.shards, read.format).await?;
    let splitter = Splitter { settings: read, output: &Location::nowhere(), can_write: false };
    let split = splitter.split(shards, |_| false).await?;
    Ok((split.shards, split.bytes_read))
}

/// What a record is made of.
struct Measured<'a> {
    config: &'a RunConfig,
    options: &'a PreviewOptions,
    model: &'a RunModel,
    devices: &'a Devices,
    shards: &'a [ShardRef],
}

impl Measured<'_> {
    fn preview(
        &self,
        gathered: gather::Gathered,
        sampling: &Sampling,
        bytes_read: u64,
    ) -> anyhow::Result<Preview> {
        let url = |shard: usize| self.shards.get(shard).map_or("", |shard| shard.url.as_str());
        let named = |by_shard: BTreeMap<usize, String>| {
            by_shard.into_iter().map(|(shard, what)| (url(shard).to_owned(), what)).collect()
        };
        let (shards_failed, shards_damaged): (BTreeMap<String, String>, _) =
            (named(gathered.failed), named(gathered.damaged));
        let outcomes = gathered.outcomes.into_iter();
        let (captions, rejects) = samples::sort(outcomes.map(|((shard, _), outcome)| (url(shard), outcome)));
        if captions.is_empty() && rejects.is_empty() {
            let failed = shards_failed.iter().map(|(shard, error)| format!("{shard}: {error}"));
            let why = failed.take(MAX_LISTED).collect::<Vec<_>>().join("; ");
            let why = if why.is_empty() { "the shards are empty".to_owned() } else { why };
            bail!("no sample could be read: {why}");
        }
        let mut record = self.record(gathered.time.as_secs_f64(), &captions, &rejects);
        (record.bytes_read, record.shards_failed) = (bytes_read, shards_failed);
        let (mut tar_bytes, mut tar_samples) = (0, 0);
        for (number, found) in sampling.take_found() {
            if let Some(samples) = found.shard_samples {
                record.shard_samples.insert(url(number).to_owned(), samples);
            }
            tar_bytes += found.tar_bytes.0;
            tar_samples += found.tar_bytes.1;
        }
        record.tar_bytes_per_sample = (tar_samples > 0).then(|| tar_bytes as f64 / tar_samples as f64);
        let page = folder::page(&self.options.dir);
        Ok(Preview { record, captions, rejects, shards_damaged, page })
    }

    fn record(&self, seconds: f64, captions: &[PreviewCaption], rejects: &[PreviewReject]) -> PreviewRecord {
        let Self { config, model, devices, .. } = self;
        let mut reasons = BTreeMap::new();
        rejects.iter().for_each(|reject| *reasons.entry(reject.reason.to_owned()).or_default() += 1);
        let (captioned, rejected) = (captions.len() as u64, rejects.len() as u64);
        let images = captioned + rejected;
        let bytes: usize = captions.iter().filter_map(|caption| caption.image.as_ref()).map(Vec::len).sum();
        let scorer = model.scorer.as_ref().map(|scorer| scorer.digest.clone());
        let execution = |device: &crate::run::DeviceReport| device.device;
        PreviewRecord {
            format: PREVIEW_FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            date: chrono::Utc::now().to_rfc3339(),
            seed: self.options.seed,
            images,
            captioned,
            rejected,
            reasons,
            seconds,
            images_per_second: if seconds > 0.0 { images as f64 / seconds } else { 0.0 },
            bytes_per_image: (captioned > 0).then(|| bytes as f64 / captioned as f64),
            tar_bytes_per_sample: None,
            shard_samples: BTreeMap::new(),
            shards: self.shards.len() as u64,
            shards_failed: BTreeMap::new(),
            input_bytes: self.shards.iter().map(ShardRef::bytes).sum(),
            bytes_read: 0,
            configuration: model.row_keys(config),
            model: model.folder.digest.clone(),
            scorer,
            threads: config.resources.threads as u64,
            provider: devices.all().first().map_or("cpu", |device| device.execution.as_str()).to_owned(),
            devices: devices.report().iter().filter_map(execution).collect(),
        }
    }
}

/// Shards that an error names.
const MAX_LISTED: usize = 5;

/// Returns the page, and drops the images.
fn page(preview: &mut Preview) -> anyhow::Result<String> {
    let record = &preview.record;
    let digests = [("captioner", Some(&record.model)), ("scorer", record.scorer.as_ref())];
    let digests = digests.into_iter().filter_map(|(role, digest)| Some((role.to_owned(), digest?.clone())));
    let source = ReportSource {
        title: "Preview".to_owned(),
        output: None,
        configuration: record.configuration.clone(),
        digests: digests.collect(),
        facts: text::facts(record),
    };
    let mut report = ReportBuilder::new(source, record.seed);
    preview.captions.iter_mut().for_each(|caption| report.add_caption(caption.report()));
    preview.rejects.iter().for_each(|reject| report.add_reject(reject.report()));
    report.finish().to_html()
}
