//! The output that is converted: it must be complete, unless a part of it will do.

use recaption_output::{commits::CommitLog, second_pass::SourceDataset};
use recaption_store::{Location, StoreKind, read_json};
use serde::Deserialize;

use super::job::ConvertJob;
use crate::{config::ConfigError, filter::FILTER_RECORD, finalize::is_complete, run::LastRun};

/// Folder of the records of runs.
const RUNS: &str = "_recaption/runs";

/// How a run ended.
#[derive(Deserialize)]
struct RunEnd {
    #[serde(default)]
    interrupted: bool,
    #[serde(default)]
    shards_incomplete: usize,
    #[serde(default)]
    shards_not_selected: usize,
}

/// Opens the source.
///
/// # Errors
/// When it is no output, or is incomplete and a part of it will not do.
pub(super) async fn open(location: Location, job: &ConvertJob) -> anyhow::Result<SourceDataset> {
    if location.kind == StoreKind::Http {
        let what = "a web server cannot be listed, and the shards of an output are found by listing";
        return Err(ConfigError { origin: location.url(), what: what.to_owned() }.into());
    }
    let source = SourceDataset::open(location).await?;
    if let Some(why) = incomplete(&source).await? {
        if !job.allow_partial {
            let what = format!(
                "{why}; finish it with `recaption run` first, or convert what is there with --allow-partial"
            );
            return Err(ConfigError { origin: source.location.url(), what }.into());
        }
        tracing::warn!(output = source.location.url(), why, "converting a part of an output");
    }
    Ok(source)
}

/// Returns why an output is not complete, as far as its records tell.
async fn incomplete(source: &SourceDataset) -> anyhow::Result<Option<String>> {
    if source.failed > 0 {
        return Ok(Some(format!("{} shards failed and have no rows", source.failed)));
    }
    let location = &source.location;
    if read_json::<serde_json::Value>(&location.child(FILTER_RECORD)).await?.is_some() {
        return Ok(None);
    }
    if !is_complete(location).await?
        && let Some(why) = left_by_last_run(location).await?
    {
        return Ok(Some(why));
    }
    let orphaned = CommitLog::new(location.clone()).scan().await?.parts_without_record().count();
    Ok((orphaned > 0)
        .then(|| format!("{orphaned} parts belong to no commit record: a run is in progress, or died")))
}

/// Returns what the last run left, as its record tells.
async fn left_by_last_run(location: &Location) -> anyhow::Result<Option<String>> {
    let Ok(last) = LastRun::of(location).await else {
        return Ok(Some("no run over this output has ended yet".to_owned()));
    };
    let record = location.child(RUNS).child(&format!("{}.json", last.run));
    let end = read_json::<RunEnd>(&record).await?;
    let not_selected = end.as_ref().map_or(0, |end| end.shards_not_selected);
    if not_selected > 0 {
        tracing::warn!(
            shards = not_selected,
            "the last run selected only some shards (--limit, --sample, --since, retry); others may have no rows yet"
        );
    }
    if let Some(end) = end.filter(|end| end.interrupted || end.shards_incomplete > 0) {
        return Ok(Some(format!(
            "its last run was interrupted and left {} shards incomplete",
            end.shards_incomplete
        )));
    }
    Ok(None)
}
