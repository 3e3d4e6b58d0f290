//! Reads all commit records of an output at once, with the help of the inventory.

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{Error, ObjectStoreExt};
use recaption_store::{ErrorKind, Location, StoreError, StoreKind, user_message};

use super::{
    inventory::{Entry, TaggedRecord},
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
        let found = folder.list_as(|meta| {
            let (file, name) = RecordName::parse(meta.location.filename()?)?;
            Some(ListedRecord {
                file,
                name,
                tag: meta.e_tag,
                location: folder.at(meta.location),
                content: None,
            })
        });
        let mut listed = found.await?;
        // The same for every worker, in whatever order a store lists.
        listed.sort_by(|a, b| a.location.path.cmp(&b.location.path));
        let listed = read_local(&folder, listed).await;
        let mut inventory = self.inventory(listed.len()).await;
        let mut new = 0;
        let records: Vec<TaggedRecord> = stream::iter(listed)
            .map(|listed| {
                let file = listed.location.path.filename().unwrap_or_default();
                let entry = inventory.take(file, listed.tag.as_deref());
                new += usize::from(entry.is_none());
                async move {
                    let tag = listed.tag.clone();
                    match entry {
                        Some(Entry { digest, summary, .. }) => {
                            let name = (listed.file, listed.name);
                            Ok(Some((ExistingRecord::new(name, digest, Ok(summary)), tag)))
                        }
                        None => listed.read().await.map(|record| record.map(|record| (record, tag))),
                    }
                }
            })
            .buffered(READ_CONCURRENCY)
            .try_filter_map(|record| std::future::ready(Ok(record)))
            .try_collect()
            .await?;
        let records = self.write_inventory(records, new).await;
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
        Ok(Some(ExistingRecord::new((file, name), digest, summary)))
    }
}
