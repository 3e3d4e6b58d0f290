//! The record of an output's last run, from which `status`, `retry` and `finalize` know inputs and settings.

use std::future::ready;

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt, stream};
use recaption_store::{Location, StoreError, read_json};
use serde::Deserialize;

use crate::config::{ExplicitSettings, Layers};
use crate::filter::FILTER_RECORD;

/// Earlier records that are read at the same time.
const CONCURRENCY: usize = 16;

/// The record of the last run, as far as another run needs it.
#[derive(Clone, Debug, Deserialize)]
pub struct LastRun {
    /// Its id.
    pub run: String,
    /// When it ended, RFC 3339.
    pub finished: String,
    /// Where it was started.
    #[serde(default)]
    pub directory: String,
    /// Keys that were set, without secrets; records of version 0.1 before its release call them `typed`.
    #[serde(alias = "typed")]
    pub explicit_settings: ExplicitSettings,
}

impl LastRun {
    /// Returns the latest record of an output.
    ///
    /// # Errors
    /// Returns an error when there is none, or it cannot be read.
    pub async fn of(output: &Location) -> anyhow::Result<Self> {
        let url = output.url();
        match Self::find(output).await? {
            Some(last) => Ok(last),
            None if is_made_by_filter(output).await? => bail!(
                "{url} was made by `recaption filter`, which has nothing pending: see it with `recaption inspect {url}`"
            ),
            None => bail!("{url} is not an output of `recaption run`: it has no record of a run"),
        }
    }

    /// Returns the latest record of an output, `None` if no run has ended there.
    ///
    /// # Errors
    /// Returns an error when it cannot be listed or read.
    pub(crate) async fn find(output: &Location) -> anyhow::Result<Option<Self>> {
        let Some(place) = latest_first(output).await?.into_iter().next() else { return Ok(None) };
        read_json(&place).await?.with_context(|| format!("{} is gone", place.url())).map(Some)
    }

    /// Returns this record if its run had inputs, else the latest one whose run had: a worker has none. `None` if no run had.
    ///
    /// # Errors
    /// Returns an error when the records cannot be listed or read. One that is malformed is passed over.
    pub(crate) async fn with_inputs(&self, output: &Location) -> anyhow::Result<Option<Self>> {
        if self.has_inputs() {
            return Ok(Some(self.clone()));
        }
        let records = stream::iter(latest_first(output).await?).map(|place| async move {
            match read_json::<Self>(&place).await {
                Err(error @ StoreError::Record { .. }) => {
                    tracing::warn!(%error, "unusable record of a run");
                    Ok(None)
                }
                record => record,
            }
        });
        let found = records
            .buffered(CONCURRENCY)
            .try_filter_map(|record: Option<Self>| ready(Ok(record.filter(Self::has_inputs))));
        Ok(std::pin::pin!(found).try_next().await?)
    }

    fn has_inputs(&self) -> bool {
        self.explicit_settings.get("input.shards").is_some_and(|inputs| inputs != "[]")
    }

    /// Returns what was set, as a layer that others may replace.
    ///
    /// # Errors
    /// Returns an error for keys that this version does not know.
    pub fn layers(&self) -> anyhow::Result<Layers> {
        let mut layers = Layers::default();
        layers.add_described(&self.explicit_settings, &format!("run {}", self.run))?;
        Ok(layers)
    }
}

/// Lists the records of an output, the latest first.
async fn latest_first(output: &Location) -> Result<Vec<Location>, StoreError> {
    let folder = output.child("_recaption/runs");
    let mut places: Vec<Location> =
        folder.list().await?.into_iter().map(|meta| folder.at(meta.location)).collect();
    places.retain(|place| place.path.as_ref().ends_with(".json"));
    // Names begin with the time.
    places.sort_by(|a, b| b.path.filename().cmp(&a.path.filename()));
    Ok(places)
}

/// Returns whether an output was made by `recaption filter`.
///
/// # Errors
/// Returns an error when that cannot be read.
pub(crate) async fn is_made_by_filter(output: &Location) -> anyhow::Result<bool> {
    Ok(read_json::<serde_json::Value>(&output.child(FILTER_RECORD)).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_with_the_old_key_configure_a_retry() {
        for key in ["typed", "explicit_settings"] {
            let text = format!(
                r#"{{"run": "r", "finished": "f", "{key}": {{"run.seed": "3", "input.shards": "[\"a.tar\"]"}}}}"#
            );
            let last: LastRun = serde_json::from_str(&text).expect("a record");
            let layers = last.layers().expect("known keys");
            assert_eq!(layers.origin("run.seed"), "run r");
            assert_eq!(layers.describe(), last.explicit_settings);
        }
    }
}
