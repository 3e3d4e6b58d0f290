//! What is to be done: inputs against commit records.

use std::{collections::BTreeMap, sync::Arc};

use recaption_stages::{
    commits::{Ledger, RecordName, configuration_fingerprint},
    schemas::ShardId,
    shards::ShardRef,
};

/// An output that was made with another configuration. Ends the program with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error(
    "the output was made with another configuration; {differences}. Choose another output, or replace this one with --overwrite"
)]
pub struct Mismatch {
    /// Keys with both values.
    pub differences: String,
}

/// One shard to be done.
pub struct Task {
    /// The input.
    pub shard: ShardRef,
    /// Fingerprints of input and configuration.
    pub name: RecordName,
    /// Records of the same shard that no longer hold; they go before its parts are replaced.
    pub stale: Vec<RecordName>,
}

/// The shards of a run.
pub struct Plan {
    /// To be done, in input order.
    pub todo: Arc<Vec<Task>>,
    /// Shards that need nothing.
    pub done: Vec<ShardId>,
    /// Shards in the output that are not among the inputs.
    pub orphans: usize,
    /// Keys that change rows.
    pub configuration: BTreeMap<String, String>,
}

impl Plan {
    /// Compares inputs and records. One listing, and at most one record is opened.
    ///
    /// # Errors
    /// [`Mismatch`] when the output holds rows of another configuration and `overwrite` is off; errors of the store.
    pub async fn make(
        shards: Vec<ShardRef>,
        ledger: &Ledger,
        configuration: BTreeMap<String, String>,
        overwrite: bool,
    ) -> anyhow::Result<Self> {
        let mut records = ledger.list().await?;
        let fingerprint = configuration_fingerprint(&configuration);
        if !overwrite {
            let other = records.iter().find_map(|(shard, names)| {
                names
                    .iter()
                    .find(|n| n.configuration != fingerprint)
                    .map(|name| (shard.clone(), name.clone()))
            });
            if let Some((shard, name)) = other {
                let commit = ledger.read(&shard, &name).await?;
                return Err(
                    Mismatch { differences: differences(&commit.configuration, &configuration) }.into()
                );
            }
        }
        let (mut todo, mut done) = (Vec::new(), Vec::new());
        for shard in shards {
            let name = RecordName { input: shard.fingerprint(), configuration: fingerprint.clone() };
            let mut stale = records.remove(shard.id.as_str()).unwrap_or_default();
            // A shard that cannot be looked at now keeps what it has, but is reported.
            if stale.contains(&name) && stale.len() == 1 && shard.missing.is_none() {
                done.push(shard.id);
                continue;
            }
            if shard.missing.is_some() {
                stale.clear();
            }
            todo.push(Task { shard, name, stale });
        }
        Ok(Self { todo: Arc::new(todo), done, orphans: records.len(), configuration })
    }

    /// Bytes to be read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.todo.iter().map(|t| t.shard.size).sum()
    }
}

/// The keys that differ, with both values.
pub(crate) fn differences(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> String {
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let show = |v: Option<&String>| v.map_or("unset".to_owned(), |v| v.chars().take(80).collect());
    let lines: Vec<String> = keys
        .into_iter()
        .filter(|k| old.get(*k) != new.get(*k))
        .map(|k| format!("`{k}` was {}, is {}", show(old.get(k)), show(new.get(k))))
        .collect();
    lines.join("; ")
}
