//! `recaption filter OUT (--keep-top FRACTION | --min-similarity X | --min-itm X) --to NEW`.

use anyhow::Context;
use recaption_output::second_pass::{Cutoff, ScoreColumn};

use super::{
    args::{FilterArgs, ScoreArg},
    logging,
};
use crate::{
    config::{self, ConfigError},
    filter::{self, FilterJob},
    run::ExitCode,
    runtime::on_runtime,
    terminal::print,
};

/// Runs the pass and prints its report.
pub(super) fn filter(args: &FilterArgs, format: logging::Format) -> anyhow::Result<ExitCode> {
    let by = score_column(args)?;
    let least = args.cut.min_similarity.or(args.cut.min_itm);
    let cutoff = match (args.cut.keep_top, least) {
        (Some(share), _) => Cutoff::KeepTop(share),
        (None, least) => Cutoff::AtLeast(least.context("neither --keep-top nor a threshold")?),
    };
    let job = FilterJob {
        source: args.output.clone(),
        output: args.to.clone(),
        by,
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

/// Returns the column that decides: the one that was named, else the threshold's.
fn score_column(args: &FilterArgs) -> Result<ScoreColumn, ConfigError> {
    let cut = &args.cut;
    let refused = |flag: &str, by: &str, instead: &str| {
        let what = format!("a threshold of another column than --by {by}: {instead}");
        Err(ConfigError::new(flag.to_owned(), what))
    };
    match args.by {
        Some(by @ (ScoreArg::Itm | ScoreArg::OrgItm)) if cut.min_similarity.is_some() => {
            let by = if matches!(by, ScoreArg::Itm) { "itm" } else { "org_itm" };
            refused("--min-similarity", by, "use --min-itm")
        }
        Some(by @ (ScoreArg::Similarity | ScoreArg::OrgSimilarity)) if cut.min_itm.is_some() => {
            let by = if matches!(by, ScoreArg::Similarity) { "similarity" } else { "org_similarity" };
            refused("--min-itm", by, "use --min-similarity, or leave out --by")
        }
        Some(ScoreArg::Itm) => Ok(ScoreColumn::Itm),
        Some(ScoreArg::OrgItm) => Ok(ScoreColumn::OrgItm),
        Some(ScoreArg::OrgSimilarity) => Ok(ScoreColumn::OrgSimilarity),
        None if cut.min_itm.is_some() => Ok(ScoreColumn::Itm),
        Some(ScoreArg::Similarity) | None => Ok(ScoreColumn::Similarity),
    }
}
