//! `recaption filter OUT (--keep-top FRACTION | --min-similarity X) --to NEW`.

use anyhow::Context;
use recaption_output::second_pass::{Cutoff, ScoreColumn};

use super::{
    args::{FilterArgs, ScoreArg},
    logging,
};
use crate::{
    config,
    filter::{self, FilterJob},
    run::ExitCode,
    runtime::on_runtime,
    terminal::print,
};

/// Runs the pass and prints its report.
pub(super) fn filter(args: &FilterArgs, format: logging::Format) -> anyhow::Result<ExitCode> {
    let cutoff = match (args.cut.keep_top, args.cut.min_similarity) {
        (Some(share), _) => Cutoff::KeepTop(share),
        (None, least) => Cutoff::AtLeast(least.context("neither --keep-top nor --min-similarity")?),
    };
    let job = FilterJob {
        source: args.output.clone(),
        output: args.to.clone(),
        by: match args.by {
            ScoreArg::Similarity => ScoreColumn::Similarity,
            ScoreArg::OrgSimilarity => ScoreColumn::OrgSimilarity,
        },
        cutoff,
        column: args.column.clone(),
        overwrite: args.overwrite,
        stores: config::environment_store_settings()?,
    };
    let report = on_runtime(filter::filter(&job))?;
    match format {
        logging::Format::Text => print(&report.to_string()),
        logging::Format::Json => print(&format!("{}\n", serde_json::to_string(&report)?)),
    }
    Ok(ExitCode::Done)
}
