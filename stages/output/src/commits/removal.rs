//! Shards that go. First what makes them exist, then their rows; what is under way is written down before, so that rows
//! which a killed run left behind are taken away by the next one.

use std::collections::BTreeMap;

use chrono::{TimeDelta, Utc};

use super::{CommitLog, Facts, Seen, Standing, Survey, remove, write_json};
use recaption_store::{Location, StoreError};

/// Folder of the removals under way, below the output.
pub const PENDING_DELETIONS: &str = "_recaption/removals";

/// Age from which rows without a record are nobody's work, also where clocks differ.
const STRAY_AGE: TimeDelta = TimeDelta::hours(24);

impl CommitLog {
    fn removal(&self, shard: &str) -> Location {
        self.out.child(PENDING_DELETIONS).child(&format!("{shard}.json"))
    }

    /// Removes shards, by the records and parts that they had when it was decided. One that another worker has done again
    /// meanwhile stays.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn remove_shards(
        &self,
        shards: &BTreeMap<String, (Vec<Standing>, Vec<Seen>)>,
    ) -> Result<(), StoreError> {
        if shards.is_empty() {
            return Ok(());
        }
        let now = self.list().await?;
        let is_new = |standing: &[Standing]| {
            standing.iter().map(|one| &one.file).any(|file| {
                let names = now.get(file).map_or(&[][..], Vec::as_slice);
                names.iter().any(|name| !standing.iter().any(|one| one.file == *file && one.name == *name))
            })
        };
        for (shard, (standing, parts)) in shards.iter().filter(|(_, (standing, _))| !is_new(standing)) {
            write_json(&self.removal(shard), &serde_json::json!({ "shard": shard })).await?;
            for one in standing {
                remove(&self.out.child(&one.path())).await?;
            }
            let named = standing.iter().filter_map(|one| one.facts.as_ref()).flat_map(Facts::parts);
            for part in named.filter(|part| is_part(&part.path)) {
                remove(&self.out.child(&part.path)).await?;
            }
            self.finish_removal(shard, parts).await?;
        }
        self.revoke_what_lost_its_parts(shards).await
    }

    /// A worker may have committed one of these just now, with parts that went too: then it is nobody's, and done again.
    async fn revoke_what_lost_its_parts(
        &self,
        shards: &BTreeMap<String, (Vec<Standing>, Vec<Seen>)>,
    ) -> Result<(), StoreError> {
        let now = self.list().await?;
        for shard in shards.keys() {
            for name in now.get(shard).into_iter().flatten() {
                let Ok(Some(commit)) = self.find(shard, name).await else { continue };
                if !self.is_there(&commit.captions).await? || !self.is_there(&commit.rejects).await? {
                    self.revoke(shard, name).await?;
                }
            }
        }
        Ok(())
    }

    /// Shards that have rows and no record, for longer than any commit takes: of a worker that died between the two.
    #[must_use]
    pub fn strays(survey: &Survey) -> Vec<String> {
        survey.strays(Utc::now() - STRAY_AGE)
    }

    /// Shards that were to be removed when a run died.
    ///
    /// # Errors
    /// When the output cannot be listed.
    pub async fn removals(&self) -> Result<Vec<String>, StoreError> {
        self.names_below(PENDING_DELETIONS).await
    }

    /// Removes these parts of a shard that has no record any more.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn finish_removal(&self, shard: &str, parts: &[Seen]) -> Result<(), StoreError> {
        for part in parts {
            remove(&self.out.child(&part.path)).await?;
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

/// Whether a path that a record names is one of a part: what a stranger wrote there is not followed elsewhere.
fn is_part(path: &str) -> bool {
    path.split_once('/').is_some_and(|(table, file)| {
        super::survey::TABLES.contains(&table) && recaption_schemas::shard_of_part(file).is_some()
    })
}
