//! What a pass has to do: the source's shards against what the new dataset's place holds.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use recaption_stages::{
    commits::{Ledger, RecordName, configuration_fingerprint, list_below, remove},
    select::{Source, SourceShard},
    store::Location,
};

use crate::{
    config::ConfigError,
    run::{Mismatch, differences},
};

/// Folders of parts.
const TABLES: [&str; 2] = ["captions", "rejects"];

/// One shard to be copied.
pub struct Task {
    /// The shard.
    pub shard: SourceShard,
    /// The name of its new commit record.
    pub name: RecordName,
    /// Records in the new dataset that no longer hold.
    pub stale: Vec<RecordName>,
}

/// The shards of a pass.
pub struct Plan {
    /// To be copied.
    pub todo: Arc<Vec<Task>>,
    /// Shards that an earlier attempt copied.
    pub done: usize,
    /// Records of shards that the source does not have; they go first.
    strangers: Vec<(String, RecordName)>,
    /// Parts that no shard of the source has; they go first.
    strange_parts: Vec<Location>,
}

impl Plan {
    /// Compares the source with what is there.
    ///
    /// # Errors
    /// When the place holds another dataset and `overwrite` is off ([`Mismatch`] or [`ConfigError`]), or files that are
    /// none of ours; errors of the store.
    pub async fn make(
        source: &Source,
        output: &Location,
        ledger: &Ledger,
        configuration: &BTreeMap<String, String>,
        overwrite: bool,
    ) -> anyhow::Result<Self> {
        let mut records = ledger.list().await?;
        let fingerprint = configuration_fingerprint(configuration);
        let other = records.iter().find_map(|(shard, names)| {
            names.iter().find(|n| n.configuration != fingerprint).map(|name| (shard.clone(), name.clone()))
        });
        if let Some((shard, name)) = other.filter(|_| !overwrite) {
            let commit = ledger.read(&shard, &name).await?;
            return Err(Mismatch { differences: differences(&commit.configuration, configuration) }.into());
        }
        let (mut todo, mut done) = (Vec::new(), 0);
        for shard in &source.shards {
            let name = RecordName { input: shard.name.input.clone(), configuration: fingerprint.clone() };
            let stale = records.remove(&shard.id).unwrap_or_default();
            if stale == [name.clone()] {
                done += 1;
            } else {
                todo.push(Task { shard: shard.clone(), name, stale });
            }
        }
        let strangers: Vec<_> = records
            .into_iter()
            .flat_map(|(id, names)| names.into_iter().map(move |n| (id.clone(), n)))
            .collect();
        let strange_parts = strange_parts(source, output).await?;
        let first = strangers.first().map(|(id, _)| format!("shard {id}"));
        let first = first.or_else(|| strange_parts.first().map(Location::url));
        if let Some(first) = first.filter(|_| !overwrite) {
            let what = format!(
                "{} holds what the source does not have: {first}. Choose another place, or replace this one with --overwrite",
                output.url()
            );
            return Err(ConfigError { origin: "--to".to_owned(), what }.into());
        }
        Ok(Self { todo: Arc::new(todo), done, strangers, strange_parts })
    }

    /// Clears what will not be replaced, and the record that says the dataset is complete.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn clear(&self, output: &Location, ledger: &Ledger) -> anyhow::Result<()> {
        if self.todo.is_empty() && self.strangers.is_empty() && self.strange_parts.is_empty() {
            return Ok(());
        }
        super::forget_record(output).await?;
        for (shard, name) in &self.strangers {
            ledger.revoke(shard, name).await?;
        }
        for part in &self.strange_parts {
            remove(part).await?;
        }
        Ok(())
    }
}

/// Parts in the output's folders that no shard of the source has.
async fn strange_parts(source: &Source, output: &Location) -> anyhow::Result<Vec<Location>> {
    let name_of = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let ours: HashSet<String> = source.shards.iter().map(|shard| name_of(&shard.captions.path)).collect();
    let mut strange = Vec::new();
    for table in TABLES {
        for place in list_below(&output.child(table)).await? {
            let name = place.path.filename().unwrap_or_default();
            if !name.ends_with(".parquet") || ours.contains(name) {
                continue;
            }
            if !name.starts_with("part-") {
                let what =
                    format!("{} is no part of ours and would be read as one; move it away", place.url());
                return Err(ConfigError { origin: "--to".to_owned(), what }.into());
            }
            strange.push(place);
        }
    }
    Ok(strange)
}
