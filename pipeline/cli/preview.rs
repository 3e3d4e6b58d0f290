//! `recaption preview`.

use std::sync::Arc;

use anyhow::Context;

use super::{args::PreviewArgs, logging::Format};
use crate::{
    config::RunConfig,
    preview,
    run::{self, ExitCode, Reporter, Stop},
    runtime::on_runtime,
    terminal::print,
};

/// Captions a sample and prints it.
pub(super) fn preview(args: &PreviewArgs, format: Format) -> anyhow::Result<ExitCode> {
    let config = RunConfig::build_requiring(&args.settings.layers()?, &["model.captioner", "input.shards"])?;
    let options = preview::PreviewOptions {
        samples: args.samples,
        seed: args.seed.unwrap_or(config.resources.seed),
        dir: args.dir.clone(),
    };
    let preview = on_runtime(async {
        let stop = Arc::new(Stop::default());
        run::install_signal_handlers(&stop, None).context("cannot install signal handlers")?;
        preview::preview(&config, &options, &stop, &Reporter::Auto).await
    })?;
    match format {
        Format::Text => print(&preview.to_string()),
        Format::Json => print(&format!("{}\n", serde_json::to_string(&preview)?)),
    }
    Ok(preview.exit_code())
}
