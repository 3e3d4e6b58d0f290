//! The input shards of an output, from which images are read again.
//!
//! A shard is found by the URL in its commit record. How it is read follows from the configuration that its rows were made with:
//! everything about reading that changes rows is recorded there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use recaption_input::{
    read::{ReadSettings, Splitter},
    shards::{ShardRef, list_shards},
};
use recaption_store::{Location, StoreKind, Stores};
use tokio::sync::Mutex;

use crate::config::{Layers, RunConfig};

/// Finds input shards.
pub(super) struct InputShards {
    settings: Arc<ReadSettings>,
    /// The source, which holds the parts of lists.
    source: Location,
    state: Mutex<State>,
}

struct State {
    stores: Stores,
    /// Shards that were found: those of `--input`, and all parts of lists.
    known: HashMap<String, ShardRef>,
    only_known: bool,
}

impl InputShards {
    /// Prepares for shards of an output with this configuration. With `patterns`, only the shards that these name are found.
    ///
    /// # Errors
    /// When the patterns name nothing, or a key of the environment is malformed.
    pub(super) async fn open(
        mut stores: Stores,
        source: Location,
        configuration: &BTreeMap<String, String>,
        patterns: &[String],
    ) -> anyhow::Result<Self> {
        let mut layers = Layers::default();
        layers.add_process_environment()?;
        for (key, value) in configuration {
            if key.starts_with("input.") || key.starts_with("fetch.") {
                add_recorded(&mut layers, key, value)?;
            }
        }
        let settings = RunConfig::build_requiring(&layers, &[])?.input.read;
        let mut known = HashMap::new();
        if !patterns.is_empty() {
            let shards = list_shards(&mut stores, patterns, settings.format).await?;
            let splitter = Splitter { settings: &settings, output: &source, can_write: false };
            let shards = splitter.split(shards, |_| false).await?.shards;
            known.extend(shards.into_iter().map(|shard| (shard.url.clone(), shard)));
        }
        let state = State { stores, known, only_known: !patterns.is_empty() };
        Ok(Self { settings, source, state: Mutex::new(state) })
    }

    /// Returns how shards are read.
    pub(super) fn settings(&self) -> &Arc<ReadSettings> {
        &self.settings
    }

    /// Returns the shard of a commit record.
    ///
    /// # Errors
    /// Why it cannot be read, in one line.
    pub(super) async fn find(self: &Arc<Self>, url: &str) -> Result<ShardRef, String> {
        let (inputs, url) = (Arc::clone(self), url.to_owned());
        let runtime = tokio::runtime::Handle::current();
        // Listing cannot move between threads, so it has one of its own.
        let found = tokio::task::spawn_blocking(move || runtime.block_on(inputs.look_up(&url)));
        found.await.map_err(|error| format!("internal error: {error}"))?
    }

    async fn look_up(&self, url: &str) -> Result<ShardRef, String> {
        let mut state = self.state.lock().await;
        if let Some(shard) = state.known.get(url) {
            return Ok(shard.clone());
        }
        if state.only_known {
            // Shards that moved are those of the same name. Every image is compared with its row.
            let mut named = state.known.values().filter(|shard| name_of(&shard.url) == name_of(url));
            if let (Some(shard), None) = (named.next(), named.next()) {
                return Ok(shard.clone());
            }
            return Err(format!("{url} is not among the shards that --input names"));
        }
        let list = url.rsplit_once("#part=").map_or(url, |(list, _)| list);
        let location = state.stores.locate(list).map_err(|e| e.to_string())?;
        let mut pattern = match location.kind {
            StoreKind::Local => location.local_path().to_string_lossy().into_owned(),
            StoreKind::Bucket | StoreKind::Http | StoreKind::Hub => list.to_owned(),
        };
        if list.ends_with('/') && !pattern.ends_with('/') {
            pattern.push('/');
        }
        let shards = list_shards(&mut state.stores, &[pattern], self.settings.format).await;
        let shards = shards.map_err(|e| e.to_string())?;
        let splitter = Splitter { settings: &self.settings, output: &self.source, can_write: false };
        let shards = splitter.split(shards, |_| false).await.map_err(|e| e.to_string())?.shards;
        let found = shards.iter().find(|shard| shard.url == url).cloned();
        if shards.iter().any(|shard| shard.list_part().is_some()) {
            state.known.extend(shards.into_iter().map(|shard| (shard.url.clone(), shard)));
        }
        match found {
            None => Err(format!("{url} does not exist any more")),
            Some(shard) => match shard.lookup_error() {
                Some(error) => Err(error.to_string()),
                None => Ok(shard),
            },
        }
    }
}

/// Adds a key of commit records, which hold lists as one line and names of columns without quotes.
fn add_recorded(layers: &mut Layers, key: &str, value: &str) -> anyhow::Result<()> {
    const ORIGIN: &str = "the output's configuration";
    match key {
        "input.image_suffixes" | "fetch.opt_out" => {
            let parts = value.split(", ").filter(|part| !part.is_empty());
            layers.set(key, parts.map(toml::Value::from).collect::<Vec<_>>(), ORIGIN)?;
        }
        _ if key.ends_with("_column") => layers.set(key, value, ORIGIN)?,
        _ => layers.add_assignment(&format!("{key}={value}"))?,
    }
    Ok(())
}

/// Returns the last part of a shard's URL.
fn name_of(url: &str) -> &str {
    url.trim_end_matches('/').rsplit('/').next().unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_keys_are_read_as_they_were_set() {
        let mut layers = Layers::default();
        let recorded = [
            ("fetch.opt_out", "noai, noimageai"),
            ("input.image_suffixes", "png, jpg"),
            ("input.url_column", "1"),
            ("input.rows_per_shard", "7"),
        ];
        for (key, value) in recorded {
            add_recorded(&mut layers, key, value).unwrap();
        }
        let read = RunConfig::build_requiring(&layers, &[]).unwrap().input.read;
        assert_eq!(read.fetcher.as_ref().unwrap().settings().opt_out, ["noai", "noimageai"]);
        assert_eq!(read.image_suffixes, ["png", "jpg"]);
        assert_eq!((read.columns.url.as_deref(), read.rows_per_shard), (Some("1"), 7));
        add_recorded(&mut layers, "fetch.opt_out", "").unwrap();
        let read = RunConfig::build_requiring(&layers, &[]).unwrap().input.read;
        assert!(read.fetcher.as_ref().unwrap().settings().opt_out.is_empty());
    }
}
