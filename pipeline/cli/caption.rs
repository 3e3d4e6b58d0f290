//! `recaption caption MODEL IMAGE...`: one line per image, `path TAB similarity TAB caption`, and `TAB itm` where the scorer matches.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::Context;
use recaption_caption::{CaptionWorker, ImageQueue};
use recaption_image::{DecodeOptions, PrepareSettings, decode_for_models};
use recaption_messages::{PreparedSample, SampleOutcome};
use recaption_onnx::runtime::SessionOptions;

use super::{args::CaptionArgs, run_args::set};
use crate::terminal::print;
use crate::{
    config::{ConfigError, Layers, RunConfig},
    run::{self, ExitCode, RunModel},
};

/// Captions files. One that cannot be read is reported, and the others are captioned.
pub(super) fn caption(args: &CaptionArgs) -> anyhow::Result<ExitCode> {
    let mut layers = Layers::default();
    layers.add_process_environment()?;
    for assignment in &args.set {
        layers.add_assignment(assignment)?;
    }
    layers.set("model.captioner", model_folder(args)?, "MODEL")?;
    set(&mut layers, "model.scorer", args.scorer.as_ref(), "--scorer")?;
    args.provider.add_to(&mut layers)?;
    let config = RunConfig::build_requiring(&layers, &["model.captioner"])?;
    let mut model = RunModel::open(&config)?;
    let options = resolve(&mut model, &config)?;
    let settings = model.worker_settings(&config, false);
    let worker = CaptionWorker::load(&model.folder, model.scorer.as_ref(), &options, settings)?;
    let (to_worker, input) = crossbeam_channel::unbounded();
    let failed = AtomicBool::new(false);
    for (index, path) in args.images.iter().enumerate() {
        match read(path, &model, config.input.decode) {
            Ok(sample) => to_worker
                .send(PreparedSample { index: index as u64, ..sample })
                .context("the captioner ended")?,
            Err(error) => {
                failed.store(true, Relaxed);
                tracing::error!("{}: {error:#}", path.display());
            }
        }
    }
    drop(to_worker);
    let lines = Mutex::new(BTreeMap::new());
    worker.run(&ImageQueue::new(input), |finished| {
        let path = args.images[finished.index as usize].display();
        match finished.outcome {
            SampleOutcome::Caption(row) => {
                let chosen = row.candidates.chosen();
                let itm = chosen.itm.map_or_else(String::new, |itm| format!("\t{:.4}", itm.get()));
                lines.lock().unwrap_or_else(PoisonError::into_inner).insert(
                    finished.index,
                    format!("{path}\t{:.4}\t{}{itm}\n", chosen.similarity.get(), chosen.text),
                );
            }
            SampleOutcome::Reject(reject) => {
                failed.store(true, Relaxed);
                tracing::error!("{path}: {}", reject.detail);
            }
            // Nothing is retried here.
            SampleOutcome::Kept(_) => {}
        }
        Ok(())
    })?;
    let lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
    lines.values().for_each(|line| print(line));
    Ok(if failed.into_inner() { ExitCode::Failed } else { ExitCode::Done })
}

/// The model folder as text. An image in its place is most likely the first of the images.
fn model_folder(args: &CaptionArgs) -> Result<String, ConfigError> {
    if Path::new(&args.model).is_file() {
        let what = "a file where a model folder is expected; the order is: recaption caption MODEL IMAGE...";
        return Err(ConfigError::new(args.model.clone(), what));
    }
    Ok(args.model.clone())
}

/// Resolves the execution provider, and tests it.
fn resolve(model: &mut RunModel, config: &RunConfig) -> anyhow::Result<SessionOptions> {
    let executions = &model.resolve(config)?[..1];
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().context("cannot start the runtime")?;
    runtime.block_on(run::self_test(config, model, executions))?;
    let cuda_graphs = config.model.cuda_graphs;
    Ok(SessionOptions {
        execution: executions[0],
        cuda_graphs,
        ..SessionOptions::on_cpu(config.resources.threads)
    })
}

fn read(path: &std::path::Path, model: &RunModel, decode: DecodeOptions) -> anyhow::Result<PreparedSample> {
    if !std::fs::metadata(path)?.is_file() {
        anyhow::bail!("it is no regular file");
    }
    let bytes = std::fs::read(path)?;
    let suffix = path.extension().map(|s| s.to_string_lossy().to_lowercase());
    let settings = PrepareSettings {
        preprocess: model.folder.spec.preprocessing,
        scorer: model.scorer_preprocessing(),
        decode,
        keep_stored: false,
    };
    let prepared = decode_for_models(&bytes, suffix.as_deref().unwrap_or_default(), &settings)?;
    Ok(PreparedSample {
        shard: 0,
        index: 0,
        // As a folder would name it, so that a sampled caption is the run's.
        key: path.file_name().map_or_else(String::new, |name| {
            let name = name.to_string_lossy();
            recaption_input::webdataset::split_stem(&name).0.to_owned()
        }),
        suffix: suffix.unwrap_or_default(),
        stored: bytes::Bytes::new(),
        width: prepared.width,
        height: prepared.height,
        sha256: String::new(),
        pixels: prepared.captioner.into(),
        scorer_pixels: prepared.scorer.map(Into::into),
        org_caption: None,
        url: None,
        meta: None,
        permit: None,
    })
}
