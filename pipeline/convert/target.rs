//! The target of a conversion: claimed before anything is written, and what earlier attempts left in it.

use std::{collections::HashSet, time::SystemTime};

use futures::{StreamExt, TryStreamExt, stream};
use recaption_output::overlap;
use recaption_store::{Location, StoreKind, Stores, read_json, write_json};

use super::{
    folder::below,
    job::ConvertJob,
    record::{CLAIM, Claim, GROUPS, GroupRecord, RECORDS, Records},
};
use crate::config::ConfigError;

/// Records read, and files deleted, at the same time.
const CONCURRENCY: usize = 32;

/// Where a dataset is written.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The place.
    pub location: Location,
}

impl Target {
    /// Opens the target.
    ///
    /// # Errors
    /// When it cannot be written to, or overlaps the source.
    pub(super) fn open(stores: &mut Stores, url: &str, source: &Location) -> anyhow::Result<Self> {
        let location = stores.locate(url)?;
        let refuse = |what: String| ConfigError { origin: "--out".to_owned(), what };
        if matches!(location.kind, StoreKind::Http | StoreKind::Hub) {
            return Err(refuse(format!("{} cannot be written to", location.url())).into());
        }
        if overlap(source, &location) {
            let what = format!(
                "{} and the output {} overlap; write the dataset to a location outside of it",
                location.url(),
                source.url()
            );
            return Err(refuse(what).into());
        }
        Ok(Self { location })
    }

    /// Claims the target, and returns the groups that are there by their numbers.
    ///
    /// # Errors
    /// When it holds something else and may not be overwritten.
    pub(super) async fn claim(&self, claim: &Claim, job: &ConvertJob) -> anyhow::Result<Records> {
        let place = below(&self.location, CLAIM)?;
        let found: Option<serde_json::Value> = read_json(&place).await?;
        let parsed = found.as_ref().and_then(|found| serde_json::from_value::<Claim>(found.clone()).ok());
        let refuse = |what: String| ConfigError { origin: "--out".to_owned(), what };
        if parsed.as_ref() == Some(claim) {
            return self.groups().await;
        }
        if found.is_some() {
            let other = parsed.map_or("another version".to_owned(), |other| describe(&other));
            if !job.overwrite {
                let what = format!(
                    "{} holds another conversion ({other}; this one is {}). Choose another place, or replace it with --overwrite",
                    self.location.url(),
                    describe(claim)
                );
                return Err(refuse(what).into());
            }
            for (number, group) in self.groups().await? {
                self.delete(number, &group, &HashSet::new()).await?;
            }
        } else {
            let (folders, objects) = self.location.list_level().await?;
            let stranger = folders
                .iter()
                .chain(objects.iter().map(|meta| &meta.location))
                .find(|path| path.filename() != Some(RECORDS));
            if let Some(stranger) = stranger {
                let what = format!(
                    "{} is not empty and holds no conversion: {} is there. Choose another place",
                    self.location.url(),
                    self.location.url_of(stranger)
                );
                return Err(refuse(what).into());
            }
        }
        write_json(&place, claim).await?;
        Ok(Records::new())
    }

    /// Deletes incomplete files that killed conversions left on this machine, by their names `NAME#N`. Those put since `begun` may be
    /// another conversion's.
    pub(super) async fn delete_staged(&self, begun: SystemTime) {
        if self.location.kind != StoreKind::Local {
            return;
        }
        let mut folders = vec![self.location.local_path()];
        let walked = tokio::task::spawn_blocking(move || {
            while let Some(folder) = folders.pop() {
                for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                    let Ok(meta) = entry.metadata() else { continue };
                    let name = entry.file_name().to_string_lossy().into_owned();
                    let is_staged = name.rsplit_once('#').is_some_and(|(_, n)| n.parse::<u32>().is_ok());
                    if meta.is_dir() {
                        folders.push(entry.path());
                    } else if is_staged && meta.modified().is_ok_and(|time| time < begun) {
                        // What stays is invisible to readers of the store.
                        let _ = std::fs::remove_file(entry.path());
                    }
                }
            }
        });
        let _ = walked.await;
    }

    /// Reads the records of the groups.
    async fn groups(&self) -> anyhow::Result<Records> {
        let folder = below(&self.location, GROUPS)?;
        let records = folder.list().await?.into_iter().filter_map(|meta| {
            let number = meta.location.filename()?.strip_suffix(".json")?.parse().ok()?;
            Some((number, folder.at(meta.location)))
        });
        let read =
            stream::iter(records.collect::<Vec<(u64, Location)>>()).map(|(number, place)| async move {
                // A record that cannot be parsed is written again.
                let record = read_json::<serde_json::Value>(&place).await.ok().flatten();
                anyhow::Ok(record.and_then(|record| Some((number, serde_json::from_value(record).ok()?))))
            });
        let read = read.buffer_unordered(CONCURRENCY);
        read.try_filter_map(|found| std::future::ready(Ok(found))).try_collect().await
    }

    /// Writes the record of a group, after its files.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn record(&self, number: u64, record: &GroupRecord) -> anyhow::Result<()> {
        Ok(write_json(&below(&self.location, &record_path(number))?, record).await?)
    }

    /// Deletes a group that is not needed any more: its files, but for those of `keep`, then its record.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn delete(
        &self,
        number: u64,
        group: &GroupRecord,
        keep: &HashSet<String>,
    ) -> anyhow::Result<()> {
        for file in &group.files {
            let is_ours = |path: &str| !path.is_empty() && !path.starts_with(RECORDS);
            for folder in file.folders.iter().filter(|folder| is_ours(folder) && !keep.contains(*folder)) {
                let folder = below(&self.location, folder)?;
                let files = folder.list().await?.into_iter().map(|meta| folder.at(meta.location));
                let deleted = stream::iter(files).map(|file| async move { file.delete().await });
                deleted.buffer_unordered(CONCURRENCY).try_collect::<Vec<()>>().await?;
            }
            if is_ours(&file.path) && !keep.contains(&file.path) {
                below(&self.location, &file.path)?.delete().await?;
            }
        }
        // Last, so that a rerun goes on after an interruption.
        Ok(below(&self.location, &record_path(number))?.delete().await?)
    }

    /// Returns whether the files of a group are all there with their sizes.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn is_whole(&self, group: &GroupRecord) -> anyhow::Result<bool> {
        use object_store::ObjectStoreExt;
        for file in &group.files {
            let mut bytes = 0;
            for folder in &file.folders {
                bytes +=
                    below(&self.location, folder)?.list().await?.iter().map(|meta| meta.size).sum::<u64>();
            }
            if !file.folders.is_empty() && bytes < file.bytes {
                return Ok(false);
            }
            if file.path.is_empty() {
                continue;
            }
            let place = below(&self.location, &file.path)?;
            match place.store.head(&place.path).await {
                Ok(meta) if !file.folders.is_empty() || meta.size == file.bytes => {}
                Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(false),
                Err(source) => {
                    return Err(recaption_store::StoreError::Store { url: place.url(), source }.into());
                }
            }
        }
        Ok(true)
    }
}

fn record_path(number: u64) -> String {
    format!("{GROUPS}/{number:06}.json")
}

fn describe(claim: &Claim) -> String {
    let options: Vec<String> = claim.options.iter().map(|(name, value)| format!("{name} {value}")).collect();
    format!("--to {} of {}, {}", claim.to, claim.source, options.join(", "))
}
