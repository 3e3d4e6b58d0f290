//! Reads some samples of each shard instead of whole shards: `recaption preview`.

use std::sync::{Mutex, PoisonError};

use recaption_input::read::{Places, ReadRequest, ShardSample, sample_shard};
use recaption_messages::{ReadStop, ShardContents};

/// Which samples of each shard are read, and what is found out about the shards meanwhile.
#[derive(Debug)]
pub(crate) struct Sampling {
    /// By number of the shard.
    places: Vec<Places>,
    found: Mutex<Vec<(usize, ShardSample)>>,
}

impl Sampling {
    /// Takes the places of all shards, by number.
    #[must_use]
    pub(crate) fn new(places: Vec<Places>) -> Self {
        Self { places, found: Mutex::default() }
    }

    /// Returns the numbers of the shards that have places.
    pub(crate) fn shards(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|shard| !self.places[*shard].is_empty()).collect()
    }

    /// Reads the samples of a shard.
    pub(super) async fn read(&self, request: ReadRequest<'_>) -> Result<ShardContents, ReadStop> {
        let number = request.number;
        let Some(places) = self.places.get(number) else { return Ok(ShardContents::default()) };
        let found = sample_shard(request, places).await?;
        let contents = found.contents.clone();
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push((number, found));
        Ok(contents)
    }

    /// Takes what was found, by number of the shard.
    pub(crate) fn take_found(&self) -> Vec<(usize, ShardSample)> {
        let mut found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        found.sort_by_key(|(number, _)| *number);
        found
    }
}
