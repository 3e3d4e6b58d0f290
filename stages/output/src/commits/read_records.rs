//! Reads all commit records of an output at once, with the help of the inventory.

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{Error, ObjectStoreExt};
use recaption_store::{ErrorKind, Location, StoreError, StoreKind, user_message};

use super::{
    inventory::{Entry, MIN_NEW_RECORDS},
    log::CommitLog,
    record::{ExistingRecord, RecordName, RecordSummary},
};
use crate::{
    digest::{ContentDigest, digest_of},
    layout::COMMITS,
};

/// Records read at the same time.
const READ_CONCURRENCY: usize = 128;
/// Records of a file system that one thread reads.
const LOCAL_BATCH: usize = 256;

/// A record that was listed.
struct ListedRecord {
    file: String,
    name: RecordName,
    tag: Option<String>,
    location: Location,
    /// Its content, if it was read in a batch.
    content: Option<(ContentDigest, Result<RecordSummary, String>)>,
}

impl CommitLog {
    /// Reads all records, and writes an inventory of them for the next run.
    pub(super) async fn existing_records(&self) -> Result<Vec<ExistingRecord>, StoreError> {
        let folder = self.out.child(COMMITS);
        let mut listed = Vec::new();
        for meta in folder.list().await? {
            if let Some((file, name)) = meta.location.filename().and_then(RecordName::parse) {
                let location = folder.at(meta.location);
                listed.push(ListedRecord { file, name, tag: meta.e_tag, location, content: None });
            }
        }
        // The same for every worker, in whatever order a store lists.
        listed.sort_by(|a, b| a.location.path.cmp(&b.location.path));
        let listed = read_local(&folder, listed).await;
        let mut inventory = self.inventory(listed.len()).await;
        let known: Vec<_> = listed
            .into_iter()
            .map(|record| {
                let file = record.location.path.filename().unwrap_or_default();
                let entry = inventory.take(file, record.tag.as_deref());
                (record, entry)
            })
            .collect();
        let new = known.iter().filter(|(_, entry)| entry.is_none()).count();
        let records: Vec<(ExistingRecord, Option<String>)> = stream::iter(known)
            .map(|(listed, entry)| async move {
                let tag = listed.tag.clone();
                match entry {
                    Some(entry) => {
                        let ListedRecord { file, name, .. } = listed;
                        let (digest, summary) = (entry.digest, Some(entry.summary));
                        Ok(Some((ExistingRecord { file, name, digest, summary, problem: None }, tag)))
                    }
                    None => listed.read().await.map(|record| record.map(|record| (record, tag))),
                }
            })
            .buffered(READ_CONCURRENCY)
            .try_filter_map(|record| std::future::ready(Ok(record)))
            .try_collect()
            .await?;
        let entries = records.iter().filter_map(|(record, tag)| {
            let file = record.path().rsplit('/').next()?.to_owned();
            let (tag, summary) = (tag.clone()?, record.summary.clone()?);
            Some(Entry { record: file, tag, digest: record.digest, summary })
        });
        if new >= MIN_NEW_RECORDS {
            self.write_inventory(entries.collect(), new).await;
        }
        Ok(records.into_iter().map(|(record, _)| record).collect())
    }
}

/// Reads the records of this machine's file system, many per thread: one by one each would cost two thread switches. A
/// record that cannot be read here is left to the store, which returns why.
async fn read_local(folder: &Location, mut listed: Vec<ListedRecord>) -> Vec<ListedRecord> {
    if folder.kind != StoreKind::Local {
        return listed;
    }
    let folder = folder.local_path();
    let mut reading = Vec::new();
    while !listed.is_empty() {
        let mut batch = listed.split_off(listed.len().saturating_sub(LOCAL_BATCH));
        let folder = folder.clone();
        reading.push(tokio::task::spawn_blocking(move || {
            for record in &mut batch {
                let file = format!("{}.{}.json", record.file, record.name.fingerprint());
                let bytes = std::fs::read(folder.join(file)).ok();
                record.content = bytes.map(|bytes| {
                    (digest_of(&bytes), RecordSummary::parse(&bytes, &record.file, &record.name))
                });
            }
            batch
        }));
    }
    let mut read = Vec::new();
    for batch in reading.into_iter().rev() {
        read.extend(batch.await.unwrap_or_default());
    }
    read
}

impl ListedRecord {
    /// Reads the record, `None` if it was deleted meanwhile.
    async fn read(self) -> Result<Option<ExistingRecord>, StoreError> {
        let Self { file, name, location, content, .. } = self;
        let (digest, summary) = match content {
            Some(content) => content,
            None => {
                let bytes = match location.store.get(&location.path).await {
                    Ok(got) => got.bytes().await,
                    Err(error) => Err(error),
                };
                match bytes {
                    Ok(bytes) => (digest_of(&bytes), RecordSummary::parse(&bytes, &file, &name)),
                    Err(Error::NotFound { .. }) => return Ok(None),
                    Err(error) if ErrorKind::of(&error) == ErrorKind::Permanent => {
                        let what = format!("it cannot be read: {}", user_message(&error));
                        (ContentDigest::default(), Err(what))
                    }
                    Err(source) => return Err(StoreError::Store { url: location.url(), source }),
                }
            }
        };
        let (summary, problem) = match summary {
            Ok(summary) => (Some(summary), None),
            Err(problem) => (None, Some(problem)),
        };
        Ok(Some(ExistingRecord { file, name, digest, summary, problem }))
    }
}
