//! What a second pass has to do: the source's shards compared with what the output holds.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use recaption_output::{
    commits::{CommitLog, ExistingPart, ExistingRecord, RecordName, ShardState, configuration_fingerprint},
    second_pass::{CopyTask, SourceDataset},
};
use recaption_schemas::ShardId;
use recaption_store::Location;

use super::record::FILTER_RECORD;
use crate::{config::ConfigError, run::refuse_others};

/// Folders of parts.
const TABLES: [&str; 2] = ["captions", "rejects"];

/// The shards of a pass.
pub(super) struct Plan {
    /// To be copied.
    pub todo: Arc<Vec<CopyTask>>,
    /// Shards that an earlier attempt copied.
    pub done: usize,
    /// Records of shards that the source does not have; deleted first.
    foreign_records: Vec<ExistingRecord>,
    /// Parts of shards that the source does not have; deleted first.
    foreign_parts: Vec<ExistingPart>,
    /// What interrupted attempts left of shards that are done.
    leftovers: Vec<ShardState>,
}

impl Plan {
    /// Compares the source with what is there.
    ///
    /// # Errors
    /// When the place holds another dataset and `overwrite` is off ([`Mismatch`] or [`ConfigError`]), or files that are
    /// none of ours; errors of the store.
    pub(super) async fn make(
        source: &SourceDataset,
        output: &Location,
        commit_log: &CommitLog,
        configuration: &BTreeMap<String, String>,
        overwrite: bool,
    ) -> anyhow::Result<Self> {
        let mut survey = commit_log.scan().await?;
        let fingerprint = configuration_fingerprint(configuration);
        if !overwrite {
            refuse_others(&survey, commit_log, (&fingerprint, configuration)).await?;
        }
        refuse_foreign_files(output).await?;
        let (mut todo, mut done, mut leftovers) = (Vec::new(), 0, Vec::new());
        let mut ours = HashSet::new();
        for shard in &source.shards {
            let name = RecordName { input: shard.name.input.clone(), configuration: fingerprint.clone() };
            let found = survey.take(&shard.url, &name);
            ours.extend([shard.id.clone(), ShardId::old_from_url(&shard.url).to_string()]);
            if found.done.is_some() {
                done += 1;
                leftovers.push(found);
            } else {
                let ShardState { replaces, stale_records, orphaned_parts, .. } = found;
                let shard = shard.clone();
                todo.push(CopyTask { shard, name, replaces, stale_records, orphaned_parts });
            }
        }
        let foreign_parts: Vec<ExistingPart> = survey.parts_except(&ours).collect();
        let foreign_records: Vec<ExistingRecord> = survey.take_records().into_values().flatten().collect();
        let first = foreign_records.first().map(|standing| format!("shard {}", standing.file));
        let first = first.or_else(|| foreign_parts.first().map(|seen| output.child(&seen.path).url()));
        if let Some(first) = first.filter(|_| !overwrite) {
            let what = format!(
                "{} holds what the source does not have: {first}. Choose another output, or replace this one with --overwrite",
                output.url()
            );
            return Err(ConfigError { origin: "--to".to_owned(), what }.into());
        }
        Ok(Self { todo: Arc::new(todo), done, foreign_records, foreign_parts, leftovers })
    }

    /// Deletes what will not be replaced, and the record that marks the dataset as complete.
    ///
    /// # Errors
    /// When the store refuses.
    pub(super) async fn clear(&self, output: &Location, commit_log: &CommitLog) -> anyhow::Result<()> {
        for found in &self.leftovers {
            commit_log.delete_stale(&found.stale_records, &found.orphaned_parts, None).await?;
        }
        if self.todo.is_empty() && self.foreign_records.is_empty() && self.foreign_parts.is_empty() {
            return Ok(());
        }
        output.child(FILTER_RECORD).delete().await?;
        Ok(commit_log.delete_stale(&self.foreign_records, &self.foreign_parts, None).await?)
    }
}

/// Rejects an output with Parquet files that are not parts but would be read as such.
async fn refuse_foreign_files(output: &Location) -> anyhow::Result<()> {
    for table in TABLES {
        for meta in output.child(table).list().await? {
            let name = meta.location.filename().unwrap_or_default();
            if name.ends_with(".parquet") && !name.starts_with("part-") {
                let what = format!(
                    "{} is not a part of this dataset but would be read as one; move it elsewhere",
                    output.url_of(&meta.location)
                );
                return Err(ConfigError { origin: "--to".to_owned(), what }.into());
            }
        }
    }
    Ok(())
}
