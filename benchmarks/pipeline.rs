//! How near the whole pipeline comes to its parts.
//!
//!     cargo bench --bench pipeline [-- SCENES [ROUNDS]]
//!
//! Measures, each alone and in the same run: decode + resize on one thread; model + token choice + scoring on one thread;
//! and the whole pipeline on all cores, from tar files to committed Parquet. Their bound is
//! `cores / (decode + model core-seconds per caption)`; printed is what the pipeline reaches of it. Core-seconds are the
//! process's CPU time, so that a busy machine does not make the parts look slow and the pipeline good.

use std::{fs::File, io::BufWriter, path::Path, sync::Arc, time::Instant};

use anyhow::{Context, Result};
use recaption::{
    config::{Layers, RunConfig},
    run::{Reporter, RunModel, RunOptions, Stop, run},
    scenes::{TextKind, write_shard},
};
use recaption_caption::{CaptionWorker, CaptionWorkerSettings, ImageQueue, filter::Filter};
use recaption_image::{DecodeOptions, PrepareSettings, prepare_sample};
use recaption_input::{
    read::{ReadRequest, ReadSettings, read_shard},
    shards::list_shards,
};
use recaption_messages::{ByteBudget, PreparedSample, ReadCounters, ReadItem, ReadSink, Sample};
use recaption_onnx::{Bundled, Precision, export, runtime::SessionOptions};
use recaption_store::Stores;

const SHARDS: u32 = 4;
const SEED: u64 = 77;

struct Round {
    decode: f64,
    model: f64,
    pipeline: f64,
}

fn main() -> Result<()> {
    // cargo passes `--bench`.
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let scenes = numbers.first().copied().unwrap_or(4000);
    let rounds = numbers.get(1).copied().unwrap_or(3);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pipeline-bench");
    let config = set_up(&dir, scenes)?;
    let cores = config.resources.threads as f64;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let samples = runtime.block_on(read_all(&config))?;
    println!("{} scenes in {SHARDS} shards, {cores} cores, median of {rounds} rounds", samples.len());
    println!(
        "{:>14} {:>14} {:>14} {:>14} {:>7}",
        "decode ms", "model ms", "bound img/s", "pipeline img/s", "ratio"
    );
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let round = measure(&config, &runtime, &dir, &samples)?;
        let bound = cores / (round.decode + round.model);
        ratios.push(1.0 / round.pipeline / bound);
        println!(
            "{:>14.3} {:>14.3} {bound:>14.1} {:>14.1} {:>7.3}",
            1e3 * round.decode,
            1e3 * round.model,
            1.0 / round.pipeline,
            1.0 / round.pipeline / bound
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!("pipeline over bound: {:.3} (asked: 0.95)", ratios[ratios.len() / 2]);
    Ok(())
}

fn set_up(dir: &Path, scenes: u32) -> Result<RunConfig> {
    let shards = dir.join("shards");
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(&shards)?;
    for shard in 0..SHARDS {
        let file = File::create(shards.join(format!("{shard:05}.tar")))?;
        write_shard(BufWriter::new(file), SEED, shard, scenes / SHARDS, TextKind::Alt)?;
    }
    Bundled::Base.write_checkpoint(&dir.join("checkpoint"))?;
    export(&dir.join("checkpoint"), &dir.join("model"), Precision::Fp32)?;
    let text = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let mut layers = Layers::default();
    layers.set("model.captioner", text("model"), "bench")?;
    layers.set("input.shards", text("shards"), "bench")?;
    layers.set("output.url", text("output"), "bench")?;
    Ok(RunConfig::build(&layers)?)
}

async fn read_all(config: &RunConfig) -> Result<Vec<Sample>> {
    let shards = list_shards(&mut Stores::default(), &config.input.shards, config.input.read.format).await?;
    let budget = ByteBudget::new(1 << 30);
    let mut samples = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let (to, mut found) = tokio::sync::mpsc::channel(64);
        let reading = async {
            let (settings, counters, sink) =
                (ReadSettings::default(), ReadCounters::default(), ReadSink::Ordered(to));
            let request = ReadRequest {
                number,
                shard,
                settings: &settings,
                budget: &budget,
                counters: &counters,
                previous: None,
                sink: &sink,
            };
            read_shard(request).await
        };
        let gathering = async {
            while let Some(found) = found.recv().await {
                if let ReadItem::Sample(sample) = found {
                    samples.push(sample);
                }
            }
        };
        tokio::join!(reading, gathering).0?;
    }
    Ok(samples)
}

fn copy(sample: &Sample) -> Sample {
    Sample {
        shard: sample.shard,
        index: sample.index,
        key: sample.key.clone(),
        image: sample.image.clone(),
        suffix: sample.suffix.clone(),
        org_caption: sample.org_caption.clone(),
        meta: sample.meta.clone(),
        url: sample.url.clone(),
        permit: None,
    }
}

/// Seconds of each per caption.
fn measure(
    config: &RunConfig,
    runtime: &tokio::runtime::Runtime,
    dir: &Path,
    samples: &[Sample],
) -> Result<Round> {
    let model = RunModel::open(config)?;
    let settings = PrepareSettings {
        preprocess: model.folder.spec.preprocessing,
        scorer: model.scorer_preprocessing(),
        decode: DecodeOptions::default(),
        keep_stored: false,
    };
    let n = samples.len() as f64;
    let copies: Vec<Sample> = samples.iter().map(copy).collect();
    let before = cpu_seconds()?;
    let prepared: Vec<PreparedSample> =
        copies.into_iter().filter_map(|s| prepare_sample(s, &settings).ok()).collect();
    let decode = (cpu_seconds()? - before) / n;

    let worker_settings = CaptionWorkerSettings {
        caption: model.settings,
        seed: 0,
        keep_prompt: false,
        filter: Filter::default(),
        itm_top_k: 0,
        match_original: false,
        embed_images: false,
        keep_features: false,
    };
    let worker = CaptionWorker::load(
        &model.folder,
        model.scorer.as_ref(),
        &SessionOptions::on_cpu(1),
        worker_settings,
    )?;
    let (to_lane, input) = crossbeam_channel::unbounded();
    for sample in prepared {
        to_lane.send(sample)?;
    }
    drop(to_lane);
    let before = cpu_seconds()?;
    let captions = std::sync::atomic::AtomicU32::new(0);
    worker.run(&ImageQueue::new(input), |_| {
        captions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    })?;
    let model_seconds = (cpu_seconds()? - before) / f64::from(captions.into_inner());

    let output = dir.join("output");
    if output.exists() {
        std::fs::remove_dir_all(&output)?;
    }
    let start = Instant::now();
    let report = runtime.block_on(run(
        config,
        RunOptions::default(),
        &Arc::new(Stop::default()),
        &Reporter::Silent,
    ))?;
    let pipeline = start.elapsed().as_secs_f64() / n;
    anyhow::ensure!(report.counts.captioned == samples.len() as u64, "the pipeline lost something: {report}");
    Ok(Round { decode, model: model_seconds, pipeline })
}

/// User and system time of this process so far.
fn cpu_seconds() -> Result<f64> {
    /// Kernel clock ticks per second, as user space sees them on every Linux architecture that Rust supports.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').context("unexpected /proc/self/stat")?.1.split_whitespace().collect();
    let ticks =
        |i: usize| -> Result<f64> { Ok(fields.get(i).context("short /proc/self/stat")?.parse::<f64>()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}
