//! Commit records and claims of some shards, listed together: a page costs one request, whatever it says of a thousand shards.

use std::collections::HashSet;

use recaption_store::{Location, StoreError};

use super::{
    log::CommitLog,
    record::{RecordName, Records},
    workers::Workers,
};
use crate::layout::COMMITS;

/// What was listed of the shards between two of them.
#[derive(Clone, Debug, Default)]
pub struct Between<T> {
    /// What was found.
    pub found: T,
    /// Of shards with names greater than this one, nothing is known: as much as allowed was listed before. `None` where
    /// everything was listed.
    pub known_until: Option<String>,
}

impl CommitLog {
    /// Returns whether a listing of some records costs less than one of all.
    #[must_use]
    pub fn can_list_between(&self) -> bool {
        self.out.can_list_between()
    }

    /// Lists the commit records of the shards from `first` to `last`, at most `max` records where a store can list some.
    ///
    /// # Errors
    /// Returns an error when the output cannot be listed.
    pub async fn list_between(
        &self,
        (first, last): (&str, &str),
        max: usize,
    ) -> Result<Between<Records>, StoreError> {
        let (names, is_cut) = names_between(&self.out.child(COMMITS), (first, last), max).await?;
        let (mut found, mut known_until) = (Records::new(), None);
        for name in names {
            if let Some((shard, record)) = RecordName::parse(&name) {
                found.entry(shard.clone()).or_default().push(record);
                known_until = is_cut.then_some(shard);
            }
        }
        Ok(Between { found, known_until })
    }
}

impl Workers {
    /// Lists the shards from `first` to `last` that are claimed, by whatever worker; at most `max` where a store can list some.
    ///
    /// # Errors
    /// Returns an error when the output cannot be listed.
    pub async fn claimed_between(
        &self,
        (first, last): (&str, &str),
        max: usize,
    ) -> Result<Between<HashSet<String>>, StoreError> {
        let (names, is_cut) = names_between(&self.claims_folder(), (first, last), max).await?;
        let shards = names.iter().filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()));
        let found: HashSet<String> = shards.collect();
        let last = names.last().and_then(|name| name.strip_suffix(".json"));
        Ok(Between { found, known_until: last.filter(|_| is_cut).map(str::to_owned) })
    }
}

/// Lists the names of the files of the shards from `first` to `last`: each begins with the shard's name and a dot.
async fn names_between(
    folder: &Location,
    (first, last): (&str, &str),
    max: usize,
) -> Result<(Vec<String>, bool), StoreError> {
    // The character after the dot is the slash.
    let listed = folder.list_between((first, &format!("{last}/")), max).await?;
    Ok((listed.names, listed.is_cut))
}
