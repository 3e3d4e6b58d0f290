//! A request -> what is to be done: the shard as its store has it now, compared with what the output has of it.
//!
//! | file | what |
//! |---|---|
//! | `names` | URL or path -> a place in a store |
//! | `lists` | a list -> its parts |
//! | `folders` | a folder of images -> its files |
//! | `records` | what the output has of a shard |

mod folders;
mod lists;
mod names;
mod records;

use std::sync::Arc;

use recaption_input::shards::{ListError, ShardRef, is_folder, look_up_object};
use recaption_messages::ReadError;
use recaption_schemas::{Counts, FailureClass, redact_text};
use recaption_store::{Location, StoreError, Stores};
use tokio::sync::Semaphore;

use self::{folders::Folders, lists::ListParts, records::Compared};
pub(super) use self::{
    names::{NamedShard, Names},
    records::Records,
};
use crate::{
    config::InputConfig,
    run::{ShardFailure, Task},
};

/// Look-ups at the same time.
const CONCURRENT_LOOKUPS: usize = 32;

/// What is to be done with a shard.
#[derive(Debug)]
pub(super) enum Lookup {
    /// It is to be processed.
    ToDo(Box<Task>),
    /// An equal record is there.
    Done(Box<Counts>),
    /// It cannot be read, or it is unknown whether it is done.
    Failed(Box<LookupFailure>),
}

/// Why a shard cannot be processed.
#[derive(Debug)]
pub(super) struct LookupFailure {
    /// Fingerprint of the input as far as it is known.
    pub fingerprint: String,
    /// What happened.
    pub failure: ShardFailure,
}

/// Looks up shards, one by one.
#[derive(Debug)]
pub(super) struct ShardLookup {
    lists: ListParts,
    folders: Folders,
    records: Records,
    places: Semaphore,
}

impl ShardLookup {
    /// Looks up shards for an output that has these records.
    #[must_use]
    pub(super) fn new(stores: &mut Stores, input: &InputConfig, output: &Location, records: Records) -> Self {
        let patterns = input.shards.iter().filter(|pattern| !pattern.starts_with('@'));
        // A pattern that is no place is no folder.
        let roots = patterns.filter(|pattern| is_folder(pattern)).filter_map(|root| stores.locate(root).ok());
        Self {
            folders: Folders::new(input.read.format, roots.collect()),
            lists: ListParts::new(Arc::clone(&input.read), output.clone()),
            records,
            places: Semaphore::new(CONCURRENT_LOOKUPS),
        }
    }

    /// Takes back what the output has of a shard that was looked up and is not done.
    pub(super) fn put_back(&self, task: &Task) {
        self.records.put_back(task);
    }

    /// Looks up a shard and what the output has of it.
    pub(super) async fn look_up(&self, named: &NamedShard) -> Lookup {
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        let shard = match self.find(named).await {
            Ok(shard) => shard,
            Err(failure) => return Lookup::Failed(failure),
        };
        let fingerprint = shard.fingerprint();
        match self.records.compare(shard).await {
            Ok(Compared::ToDo(task)) => Lookup::ToDo(task),
            Ok(Compared::Done(counts)) => Lookup::Done(counts),
            Err(error) => Lookup::Failed(failed(named, fingerprint, &error)),
        }
    }

    /// Finds a shard that can be read.
    async fn find(&self, named: &NamedShard) -> Result<ShardRef, Box<LookupFailure>> {
        let url = named.url();
        let missing = |what: String, fingerprint: String| {
            let error =
                ReadError { url: url.clone(), what, class: FailureClass::Missing, is_retryable: false };
            Box::new(LookupFailure { fingerprint, failure: ShardFailure::of_input(&error) })
        };
        if named.is_folder {
            return match self.folders.find(&named.location, &url).await {
                Ok(Some(folder)) => Ok(folder),
                Ok(None) => {
                    let what = "no image is directly in this folder; if it holds shards, name these";
                    Err(missing(what.to_owned(), String::new()))
                }
                Err(error) => Err(list_error(named, String::new(), error)),
            };
        }
        let object = available(look_up_object(named.location.clone()).await, &url)?;
        let fingerprint = object.fingerprint();
        let parts = self.lists.of(object, |list| self.records.is_done(list)).await;
        let parts = parts.map_err(|error| list_error(named, fingerprint.clone(), error))?;
        let Some(part) = parts.get(named.part) else {
            let what = match parts.len() {
                1 => "it is one shard, without parts".to_owned(),
                n => format!("the list has {n} parts, from 0 to {}", n - 1),
            };
            return Err(missing(what, fingerprint));
        };
        // The parts may have been found with a signature that has expired since.
        Ok(available(part.clone(), &url)?.at(named.location.clone()))
    }
}

/// Returns the shard unless it is unavailable.
fn available(shard: ShardRef, url: &str) -> Result<ShardRef, Box<LookupFailure>> {
    let Some(error) = shard.lookup_error() else { return Ok(shard) };
    let class = if error.is_missing { FailureClass::Missing } else { FailureClass::Transport };
    let what = error.message.clone();
    let error = ReadError { url: url.to_owned(), what, class, is_retryable: !error.is_missing };
    let failure = ShardFailure::of_input(&error);
    Err(Box::new(LookupFailure { fingerprint: shard.fingerprint(), failure }))
}

/// The failure of a shard whose output, list or folder could not be looked at.
fn failed(named: &NamedShard, fingerprint: String, error: &dyn std::fmt::Display) -> Box<LookupFailure> {
    let what = redact_text(&error.to_string());
    let error = ReadError { url: named.url(), what, class: FailureClass::Transport, is_retryable: true };
    Box::new(LookupFailure { fingerprint, failure: ShardFailure::of_input(&error) })
}

fn list_error(named: &NamedShard, fingerprint: String, error: ListError) -> Box<LookupFailure> {
    match error {
        ListError::Store(error @ StoreError::Store { .. }) => failed(named, fingerprint, &error),
        error => {
            let mut failure = failed(named, fingerprint, &error);
            failure.failure.class = FailureClass::Data;
            failure.failure.is_retryable = false;
            failure
        }
    }
}
