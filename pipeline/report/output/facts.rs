//! What the records of an output say about it as a whole.

use std::collections::BTreeMap;

use recaption_schemas::redact_url;
use recaption_store::{Location, read_json};
use serde_json::Value;

use super::parts::FoundParts;
use crate::{filter::FILTER_RECORD, report::source::ReportSource};

/// Records of runs that are listed, the latest.
const RUNS: usize = 5;
/// Records that are read to find them: runs that found nothing to do are left out.
const MAX_RECORDS: usize = 50;

/// Collects what a report says about an output. `given` is its name as the user wrote it.
///
/// # Errors
/// Returns an error when records cannot be read.
pub(super) async fn source(
    given: &str,
    output: &Location,
    found: &FoundParts,
) -> anyhow::Result<ReportSource> {
    let mut facts = vec![
        ("output".to_owned(), output.url()),
        ("shards".to_owned(), shards(found)),
        ("Parquet".to_owned(), format!("{:.1} MB", found.bytes as f64 / 1e6)),
    ];
    let input = &found.counts.input;
    for (name, count) in [
        ("samples without an original caption", input.without_caption),
        ("further images of samples that have several", input.extra_images),
        ("texts cut to the scorer's context", found.counts.texts_cut),
    ] {
        if count > 0 {
            facts.push((name.to_owned(), count.to_string()));
        }
    }
    if let Some(filter) = read_json::<Value>(&output.child(FILTER_RECORD)).await? {
        facts.push(("made by recaption filter from".to_owned(), text(&filter, "source").to_owned()));
    }
    let mut digests = BTreeMap::new();
    for (n, run) in runs(output).await?.iter().enumerate() {
        if n == 0 {
            for (role, key) in [("captioner", "model"), ("scorer", "scorer")] {
                if !text(run, key).is_empty() {
                    digests.insert(role.to_owned(), text(run, key).to_owned());
                }
            }
            if !text(run, "model_name").is_empty() {
                facts.push(("captioner".to_owned(), text(run, "model_name").to_owned()));
            }
        }
        facts.push((format!("run {}", text(run, "run")), describe_run(run)));
    }
    let mut configuration = BTreeMap::new();
    if let Some(commit) = &found.commit {
        configuration.clone_from(&commit.configuration);
        digests.entry("captioner".to_owned()).or_insert_with(|| commit.model.clone());
    }
    // The page is sent to others: no secrets of a URL.
    let given = if given.contains("://") { redact_url(given) } else { given.to_owned() };
    let name = given.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let title = format!("Captions of {}", if name.is_empty() { &given } else { name });
    Ok(ReportSource { title, output: Some(given), configuration, digests, facts })
}

fn shards(found: &FoundParts) -> String {
    let mut text = format!("{} done", found.parts.len());
    for (count, what) in [
        (found.failed, "failed"),
        (found.damaged, "damaged"),
        (found.invalid, "with an unusable record, left out"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Formats the totals and the rate of a run.
fn describe_run(run: &Value) -> String {
    let read = run.pointer("/counts/read").and_then(Value::as_u64).unwrap_or(0);
    let seconds = run.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
    let mut line = format!("{read} samples in {seconds:.1} s");
    if seconds > 0.0 {
        line.push_str(&format!(", {:.1} images/s", read as f64 / seconds));
    }
    if !text(run, "provider").is_empty() {
        line.push_str(&format!(", {}", text(run, "provider")));
    }
    if run.get("interrupted").and_then(Value::as_bool) == Some(true) {
        line.push_str(", interrupted");
    }
    if !text(run, "version").is_empty() {
        line.push_str(&format!(", recaption {}", text(run, "version")));
    }
    line
}

/// Reads the records of the latest runs that read anything, the latest first.
async fn runs(output: &Location) -> anyhow::Result<Vec<Value>> {
    let folder = output.child("_recaption/runs");
    let mut places: Vec<Location> = folder
        .list()
        .await?
        .into_iter()
        .map(|meta| folder.at(meta.location))
        .filter(|place| place.path.as_ref().ends_with(".json"))
        .collect();
    // Names begin with the time.
    places.sort_by(|a, b| b.path.filename().cmp(&a.path.filename()));
    let mut runs = Vec::new();
    for place in places.into_iter().take(MAX_RECORDS) {
        match read_json::<Value>(&place).await {
            Ok(Some(run)) if run.pointer("/counts/read").and_then(Value::as_u64) != Some(0) => runs.push(run),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "unusable record of a run"),
        }
        if runs.len() == RUNS {
            break;
        }
    }
    Ok(runs)
}
