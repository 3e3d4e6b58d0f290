//! `recaption caption MODEL IMAGE...`: one line per image, `path TAB similarity TAB caption`.

use anyhow::Context;
use recaption_onnx::runtime::SessionOptions;
use recaption_stages::{
    caption::{Lane, LaneSettings},
    decode::DecodeOptions,
    filter::Outcome,
    prepare::{PrepareSettings, PreparedSample, squares},
};

use super::args::CaptionArgs;
use crate::{
    config::{Layers, RunConfig},
    run::{ExitCode, RunModel},
};

/// Captions files one after another; a bad file is told and the rest goes on.
pub fn caption(args: &CaptionArgs) -> anyhow::Result<ExitCode> {
    let mut layers = Layers::default();
    super::add_environment(&mut layers)?;
    layers.set("model.captioner", args.model.to_string_lossy().into_owned(), "MODEL")?;
    if let Some(scorer) = &args.scorer {
        layers.set("model.scorer", scorer.to_string_lossy().into_owned(), "--scorer")?;
    }
    layers.set("input.shards", "-", "IMAGE")?;
    layers.set("output.url", "-", "stdout")?;
    for assignment in &args.set {
        layers.add_assignment(assignment)?;
    }
    args.provider.add_to(&mut layers)?;
    let config = RunConfig::build(&layers)?;
    let mut model = RunModel::open(&config)?;
    let options =
        SessionOptions { execution: model.resolve(&config)?, ..SessionOptions::on_cpu(config.threads) };
    let settings = LaneSettings {
        caption: model.settings.clone(),
        seed: config.seed,
        keep_prompt: config.captioning.keep_prompt,
        filter: config.filter.clone(),
        embed_images: false,
        keep_features: false,
    };
    let lane = Lane::load(&model.folder, model.scorer.as_ref(), &options, settings)?;
    let (to_lane, input) = crossbeam_channel::unbounded();
    let mut failed = false;
    for (index, path) in args.images.iter().enumerate() {
        match read(path, &model, config.decode) {
            Ok(sample) => {
                to_lane.send(PreparedSample { index: index as u64, ..sample }).context("no lane")?
            }
            Err(error) => {
                failed = true;
                tracing::error!("{}: {error:#}", path.display());
            }
        }
    }
    drop(to_lane);
    let mut lines = std::collections::BTreeMap::new();
    lane.run(&input, |finished| {
        let path = args.images[finished.index as usize].display();
        match finished.outcome {
            Outcome::Caption(row) => {
                let chosen = row.candidates.chosen();
                lines.insert(
                    finished.index,
                    format!("{path}\t{:.4}\t{}\n", chosen.similarity.get(), chosen.text),
                );
            }
            Outcome::Reject(reject) => {
                failed = true;
                tracing::error!("{path}: {}", reject.detail);
            }
        }
        true
    })?;
    lines.values().for_each(|line| super::print(line));
    Ok(if failed { ExitCode::Failed } else { ExitCode::Done })
}

fn read(path: &std::path::Path, model: &RunModel, decode: DecodeOptions) -> anyhow::Result<PreparedSample> {
    let bytes = std::fs::read(path)?;
    let suffix = path.extension().map(|s| s.to_string_lossy().to_lowercase());
    let settings = PrepareSettings {
        preprocess: model.folder.spec.preprocessing,
        scorer: model.scorer_preprocessing(),
        decode,
        keep_stored: false,
    };
    let prepared = squares(&bytes, suffix.as_deref().unwrap_or_default(), &settings)?;
    Ok(PreparedSample {
        shard: 0,
        index: 0,
        // As a folder would name it, so that a sampled caption is the run's.
        key: path.file_name().map_or_else(String::new, |name| {
            let name = name.to_string_lossy();
            recaption_stages::webdataset::split_stem(&name).0.to_owned()
        }),
        suffix: suffix.unwrap_or_default(),
        stored: bytes::Bytes::new(),
        width: prepared.width,
        height: prepared.height,
        sha256: String::new(),
        pixels: prepared.captioner,
        scorer_pixels: prepared.scorer,
        org_caption: None,
        url: None,
        meta: None,
        held: None,
    })
}
