//! Shards that go. First what makes them exist, then their rows; what is under way is written down before, so that rows
//! which a killed run left behind are taken away by the next one.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use object_store::{Error, ObjectStoreExt};

use super::{Ledger, Records, remove, write_json};
use crate::store::{Location, StoreError};

/// Folder of the removals under way, below the output.
pub const REMOVALS: &str = "_recaption/removals";

/// Age from which rows without a record are nobody's work, also where clocks differ.
const STRAY_AGE: TimeDelta = TimeDelta::hours(24);

impl Ledger {
    fn removal(&self, shard: &str) -> Location {
        self.out.child(REMOVALS).child(&format!("{shard}.json"))
    }

    /// Removes shards, by the records that they had when it was decided. One that another worker has done again meanwhile
    /// stays.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn remove_shards(&self, shards: &Records) -> Result<(), StoreError> {
        if shards.is_empty() {
            return Ok(());
        }
        let now = self.list().await?;
        let is_new = |shard: &String, names: &[_]| {
            now.get(shard).is_some_and(|now| now.iter().any(|n| !names.contains(n)))
        };
        let gone: Vec<&String> =
            shards.iter().filter(|(shard, names)| !is_new(shard, names)).map(|(shard, _)| shard).collect();
        for shard in &gone {
            write_json(&self.removal(shard), &serde_json::json!({ "shard": shard })).await?;
            for name in &shards[*shard] {
                self.revoke(shard, name).await?;
            }
            self.finish_removal(shard).await?;
        }
        // A worker may have committed one just now, whose rows went too: then it is nobody's, and done again.
        let now = self.list().await?;
        for shard in gone {
            for name in now.get(shard).into_iter().flatten() {
                let commit = self.find(shard, name).await?;
                let there = match &commit {
                    Some(commit) => {
                        self.exists(&commit.captions.path).await? && self.exists(&commit.rejects.path).await?
                    }
                    None => true,
                };
                if !there {
                    self.revoke(shard, name).await?;
                }
            }
        }
        Ok(())
    }

    /// Shards that have rows and no record, for longer than any commit takes: of a worker that died between the two.
    ///
    /// # Errors
    /// When the output cannot be listed.
    pub async fn strays(&self) -> Result<Vec<String>, StoreError> {
        let (records, young) = (self.list().await?, Utc::now() - STRAY_AGE);
        let mut strays = BTreeSet::new();
        for table in ["captions", "rejects"] {
            for meta in self.out.child(table).list().await? {
                let shard = meta
                    .location
                    .filename()
                    .and_then(|name| name.strip_prefix("part-")?.strip_suffix(".parquet"));
                let stray = shard.filter(|shard| !records.contains_key(*shard) && meta.last_modified < young);
                strays.extend(stray.map(str::to_owned));
            }
        }
        Ok(strays.into_iter().collect())
    }

    async fn exists(&self, path: &str) -> Result<bool, StoreError> {
        let place = self.out.child(path);
        match place.store.head(&place.path).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(StoreError::Store { url: place.url(), source }),
        }
    }

    /// Shards that were to be removed when a run died.
    ///
    /// # Errors
    /// When the output cannot be listed.
    pub async fn removals(&self) -> Result<Vec<String>, StoreError> {
        self.names_below(REMOVALS).await
    }

    /// Removes the rows of a shard that has no record any more.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn finish_removal(&self, shard: &str) -> Result<(), StoreError> {
        for table in ["captions", "rejects"] {
            remove(&self.out.child(table).child(&format!("part-{shard}.parquet"))).await?;
        }
        self.forget_removal(shard).await
    }

    /// Gives up a removal: the shard is there again, or about to be.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn forget_removal(&self, shard: &str) -> Result<(), StoreError> {
        remove(&self.removal(shard)).await
    }
}
