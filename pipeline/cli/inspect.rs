//! `recaption inspect MODEL|CHECKPOINT|OUTPUT`: what a folder holds, from its own records.

use std::path::Path;

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt, stream};
use recaption_onnx::{ModelFolder, checkpoint::CheckpointKind, model::MODEL_FILE};
use recaption_output::commits::{CommitLog, RecordName};
use recaption_schemas::{Counts, ShardCommit};
use recaption_store::{Location, StoreError, Stores};

use super::args::InspectArgs;
use crate::{
    config::{self, ConfigError},
    pull::{CheckpointSource, describe},
    run::ExitCode,
    terminal::print,
};

/// Commit records read at the same time.
const CONCURRENCY: usize = 32;

/// Describes a model folder, a checkpoint, else an output.
pub(super) fn inspect(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    if !args.path.contains("://") && Path::new(&args.path).join(MODEL_FILE).is_file() {
        return model(Path::new(&args.path));
    }
    let checkpoint = match CheckpointSource::parse(&args.path)
        .map_err(|what| ConfigError { origin: args.path.clone(), what })
    {
        // Datasets on the hub have URLs of their own.
        _ if args.path.starts_with("hf://datasets/") => None,
        Ok(hub @ CheckpointSource::Hub(_)) => Some(hub.resolve()?),
        Ok(CheckpointSource::Directory(dir)) => Some(dir).filter(|dir| CheckpointKind::of(dir).is_some()),
        Err(error) => return Err(error.into()),
    };
    if let Some(dir) = checkpoint {
        print(&describe(&dir)?);
        return Ok(ExitCode::Done);
    }
    let output = Stores::new(config::environment_store_settings()?).locate(&args.path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(describe_output(&output))
}

fn model(dir: &Path) -> anyhow::Result<ExitCode> {
    let folder = ModelFolder::open(dir)?;
    let s = &folder.spec;
    let d = &s.dimensions;
    print(&format!(
        "model          {} ({}, {} parameters, opset {})\ndigest         {}\nsource         sha256 {}\n",
        s.architecture.as_str(),
        s.precision,
        s.parameters,
        s.opset,
        folder.digest,
        s.source_sha256
    ));
    let (tokens, layers) = match &d.decoder {
        Some(d) => (
            format!("{} tokens for the decoder", d.image_tokens),
            match d.text_layers {
                _ if !s.architecture.scores() => {
                    format!("decoder {}; captions only, another model scores (--scorer)", d.decoder_layers)
                }
                // model.json counts the layers that run at every step.
                0 => format!("decoder {}, reads embeddings; the text tower only scores", d.decoder_layers),
                layers => format!("text {layers}, decoder {}", d.decoder_layers),
            },
        ),
        None => {
            let image = d.fusion.map_or("features alone".to_owned(), |fusion| {
                format!("features, and {} tokens to match texts with (ITM)", fusion.image_tokens)
            });
            (image, "two towers; scores captions, generates none (--scorer)".to_owned())
        }
    };
    print(&format!(
        "image          {0} x {0}, {1:?}, {2:?}, {tokens}\ntext           vocabulary {3}, context {4}, {5}\nlayers         {layers}\ntokenizer      {6}\n",
        s.image_size,
        s.preprocessing.resize_mode,
        s.preprocessing.interpolation,
        d.vocab_size,
        d.context_length,
        if s.architecture.scores() { format!("embedding {}", d.embed_dim) } else { "no embedding".into() },
        if folder.has_tokenizer() { "yes" } else { "no: `run` and `caption` need one" }
    ));
    if let Some(sigmoid) = &s.sigmoid {
        print(&format!(
            "probability    1 / (1 + exp(-({} * similarity + {})))\n",
            sigmoid.scale, sigmoid.bias
        ));
    }
    let mut damaged = false;
    for (file, whole) in s.files.iter().zip(folder.unchanged()?) {
        damaged |= !whole;
        let word = if whole { "ok" } else { "CHANGED since the export" };
        print(&format!("{:<22} {:>12} bytes  {word}\n", file.name, file.size));
    }
    Ok(if damaged { ExitCode::Failed } else { ExitCode::Done })
}

/// Reads all commit records. One that cannot be used is reported, and the others are shown.
async fn read_commits(
    commit_log: &CommitLog,
    names: Vec<(String, RecordName)>,
) -> anyhow::Result<Vec<ShardCommit>> {
    let commits = stream::iter(names).map(|(shard, name)| async move {
        match commit_log.read(&shard, &name).await {
            Err(error @ StoreError::Record { .. }) => {
                tracing::warn!(%error, "unusable commit record; `recaption run` will process its shard again");
                Ok(None)
            }
            read => anyhow::Ok(read.map(Some)?),
        }
    });
    let commits = commits.buffer_unordered(CONCURRENCY);
    commits.try_filter_map(|commit| std::future::ready(Ok(commit))).try_collect().await
}

async fn describe_output(output: &Location) -> anyhow::Result<ExitCode> {
    let commit_log = CommitLog::new(output.clone());
    let records = commit_log.list().await?;
    let failures = commit_log.failures().await?;
    if records.is_empty() && failures.is_empty() {
        bail!(
            "{} is neither a model folder nor an output: it has no model.json and no commit records",
            output.url()
        );
    }
    let names =
        records.into_iter().flat_map(|(shard, names)| names.into_iter().map(move |n| (shard.clone(), n)));
    let commits = read_commits(&commit_log, names.collect()).await?;
    let mut counts = Counts::default();
    let (mut bytes, mut damaged) = (0, Vec::new());
    for commit in &commits {
        counts.add(&commit.counts);
        bytes += commit.captions.bytes + commit.rejects.bytes;
        if let Some(damage) = &commit.damaged {
            damaged.push(format!("damaged   {}: {}\n", commit.shard, damage.detail));
        }
    }
    damaged.sort();
    print(&format!(
        "output    {}\nshards    {} done, {} failed, {} damaged\nsamples   {} read = {} captioned + {} rejected\n",
        output.url(),
        commits.len(),
        failures.len(),
        damaged.len(),
        counts.read,
        counts.captioned,
        counts.rejected
    ));
    for (reason, n) in &counts.reasons {
        print(&format!("          {n:>8} {reason}\n"));
    }
    print(&format!("parquet   {:.1} MB\n", bytes as f64 / 1e6));
    if let Some(commit) = commits.first() {
        for (key, value) in &commit.configuration {
            print(&format!("setting   {key} = {value}\n"));
        }
    }
    damaged.iter().for_each(|line| print(line));
    failures.iter().for_each(|shard| print(&format!("failed    {shard}\n")));
    Ok(ExitCode::Done)
}
