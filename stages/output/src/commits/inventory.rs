//! A cache of all commit records of a large output in one object: in a bucket each record would be a request in every run.
//! An entry is used only if the record's entity tag is unchanged; any other record is read.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    sync::Arc,
};

use object_store::ObjectStoreExt;
use recaption_store::{Location, StoreError, StoreKind};
use serde::{Deserialize, Serialize};

use super::{
    log::{CommitLog, read_bytes},
    record::{ExistingRecord, RecordSummary},
};
use crate::{digest::ContentDigest, layout::INVENTORY};

/// Records from which on an inventory is worth a request.
pub(super) const MIN_RECORDS: usize = 1000;
/// Records that are read one by one before the inventory is written again.
pub(super) const MIN_NEW_RECORDS: usize = 500;
/// Compression level of zstd.
const ZSTD_LEVEL: i32 = 3;
/// Largest inventory, decompressed, in bytes: five million records.
const MAX_BYTES: u64 = 4 << 30;

/// One record. The names in JSON are those of earlier versions.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    /// The record's file name.
    pub(super) record: String,
    /// Its entity tag.
    pub(super) tag: String,
    /// Digest of its bytes.
    #[serde(rename = "sum")]
    pub(super) digest: ContentDigest,
    /// Its content.
    #[serde(rename = "facts")]
    pub(super) summary: RecordSummary,
}

/// An [`Entry`] as it is written.
#[derive(Serialize)]
struct EntryRef<'a> {
    record: &'a str,
    tag: &'a str,
    sum: &'a ContentDigest,
    facts: &'a RecordSummary,
}

/// A record with its entity tag.
pub(super) type TaggedRecord = (ExistingRecord, Option<String>);

/// The entries by the file names of their records.
#[derive(Default)]
pub(super) struct Inventory {
    entries: HashMap<String, Box<Entry>>,
}

impl Inventory {
    /// Removes and returns a record's entry if the record's entity tag is unchanged.
    pub(super) fn take(&mut self, record: &str, tag: Option<&str>) -> Option<Entry> {
        let entry = self.entries.remove(record)?;
        (tag == Some(entry.tag.as_str())).then_some(*entry)
    }
}

impl CommitLog {
    fn inventory_location(&self) -> Location {
        self.out.child(INVENTORY)
    }

    /// Reads the inventory of an output with this many records. It is empty for small outputs and file systems, and where
    /// it cannot be read.
    pub(super) async fn inventory(&self, records: usize) -> Inventory {
        if records < MIN_RECORDS || self.out.kind == StoreKind::Local {
            return Inventory::default();
        }
        match self.read_inventory().await {
            Ok(inventory) => inventory,
            Err(error) => {
                tracing::debug!(%error, "inventory not readable; reading every record");
                Inventory::default()
            }
        }
    }

    async fn read_inventory(&self) -> Result<Inventory, StoreError> {
        let location = self.inventory_location();
        let Some(packed) = read_bytes(&location).await? else { return Ok(Inventory::default()) };
        let url = location.url();
        let decompressed = tokio::task::spawn_blocking(move || {
            let bad =
                |e: &dyn std::fmt::Display| StoreError::Record { url: url.clone(), what: e.to_string() };
            let decoder = zstd::Decoder::new(packed.as_ref()).map_err(|e| bad(&e))?;
            let mut entries = HashMap::new();
            for line in BufReader::new(decoder.take(MAX_BYTES)).lines() {
                let line = line.map_err(|e| bad(&e))?;
                let mut entry: Box<Entry> = serde_json::from_str(&line).map_err(|e| bad(&e))?;
                entries.insert(std::mem::take(&mut entry.record), entry);
            }
            Ok(Inventory { entries })
        });
        decompressed.await.map_err(|e| StoreError::Record { url: location.url(), what: e.to_string() })?
    }

    /// Writes the inventory if `new` records, read one by one, are many, and returns the records. A failed write costs the next
    /// run time, nothing else.
    pub(super) async fn write_inventory(&self, records: Vec<TaggedRecord>, new: usize) -> Vec<TaggedRecord> {
        if new < MIN_NEW_RECORDS || records.len() < MIN_RECORDS || self.out.kind == StoreKind::Local {
            return records;
        }
        let location = self.inventory_location();
        let records = Arc::new(records);
        let read = Arc::clone(&records);
        let packed = tokio::task::spawn_blocking(move || pack(&read)).await;
        if let Ok(Ok(packed)) = packed
            && let Err(error) = location.store.put(&location.path, packed.into()).await
        {
            tracing::debug!(%error, "inventory not written");
        }
        Arc::unwrap_or_clone(records)
    }
}

/// Writes the lines of an inventory, compressed: as text a million would be a gigabyte.
fn pack(records: &[TaggedRecord]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    for (record, tag) in records {
        let (Some(tag), Some(facts)) = (tag, &record.summary) else { continue };
        let path = record.path();
        let file = path.rsplit('/').next().unwrap_or_default();
        serde_json::to_writer(&mut encoder, &EntryRef { record: file, tag, sum: &record.digest, facts })?;
        encoder.write_all(b"\n")?;
    }
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As versions before 0.2 wrote it.
    const LINE: &str = r#"{"record":"a.b-c.json","tag":"t","sum":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,7],"facts":{"shard":"s3://b/0.tar","fingerprint":"b-c","counts":COUNTS,"damaged":null,"captions":{"path":"captions/p","rows":1,"bytes":2,"sha256":null},"rejects":{"path":"rejects/p","rows":0,"bytes":2,"sha256":null},"settings":{}}}"#;

    #[test]
    fn inventories_of_earlier_versions_are_read() {
        let counts = serde_json::to_string(&recaption_schemas::Counts::default()).expect("counts");
        let entry: Entry = serde_json::from_str(&LINE.replace("COUNTS", &counts)).expect("an entry");
        assert_eq!((entry.digest[31], entry.summary.captions.rows), (7, 1));
        let mut inventory = Inventory { entries: [(entry.record.clone(), Box::new(entry))].into() };
        assert!(inventory.take("a.b-c.json", Some("other")).is_none(), "the record changed");
    }
}
