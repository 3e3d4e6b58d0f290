//! What the records of a large output say, gathered in one object: in a bucket each record would be a request, at every run.
//! Believed only where a record's entity tag is the one that was read; what is missing or another's is read as ever.

use std::{collections::HashMap, io::Read};

use object_store::{Error, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::{
    CommitLog,
    survey::{Facts, Sum},
};
use recaption_store::{Location, StoreError, StoreKind};

/// Place of the inventory below the output.
const PLACE: &str = "_recaption/inventory.json.zst";
/// Records from which on an inventory is worth a request.
pub(super) const MANY: usize = 1000;
/// Records that are read one by one before the inventory is written anew.
const NEWS: usize = 500;
/// Level of zstd.
const LEVEL: i32 = 3;
/// Largest inventory, unpacked bytes: five million records.
const MAX_BYTES: u64 = 4 << 30;

/// One record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its file's name.
    pub record: String,
    /// Its entity tag.
    pub tag: String,
    /// Sum of its bytes.
    pub sum: Sum,
    /// What it says.
    pub facts: Facts,
}

/// What is known of records, by the names of their files.
#[derive(Default)]
pub(super) struct Inventory {
    known: HashMap<String, Entry>,
}

impl Inventory {
    /// Takes what is known of a record.
    pub fn take(&mut self, record: &str, tag: Option<&str>) -> Option<Entry> {
        let entry = self.known.remove(record)?;
        (tag == Some(entry.tag.as_str())).then_some(entry)
    }
}

impl CommitLog {
    fn inventory_place(&self) -> Location {
        self.out.child(PLACE)
    }

    /// The inventory, where there may be one; one that cannot be read is none.
    pub(super) async fn inventory(&self, records: usize) -> Inventory {
        if records < MANY || self.out.kind == StoreKind::Local {
            return Inventory::default();
        }
        match self.read_inventory().await {
            Ok(inventory) => inventory,
            Err(error) => {
                tracing::debug!(%error, "the inventory of records cannot be read; each record is");
                Inventory::default()
            }
        }
    }

    async fn read_inventory(&self) -> Result<Inventory, StoreError> {
        let place = self.inventory_place();
        let failed = |source| StoreError::Store { url: place.url(), source };
        let packed = match place.store.get(&place.path).await {
            Ok(got) => got.bytes().await.map_err(failed)?,
            Err(Error::NotFound { .. }) => return Ok(Inventory::default()),
            Err(source) => return Err(failed(source)),
        };
        let url = place.url();
        let unpacked = tokio::task::spawn_blocking(move || {
            let bad =
                |e: &dyn std::fmt::Display| StoreError::Record { url: url.clone(), what: e.to_string() };
            let decoder = zstd::Decoder::new(packed.as_ref()).map_err(|e| bad(&e))?;
            let mut text = String::new();
            decoder.take(MAX_BYTES).read_to_string(&mut text).map_err(|e| bad(&e))?;
            let entries = text.lines().map(serde_json::from_str::<Entry>);
            let known = entries.map(|entry| entry.map(|entry| (entry.record.clone(), entry)));
            Ok(Inventory { known: known.collect::<Result<_, _>>().map_err(|e| bad(&e))? })
        });
        unpacked.await.map_err(|e| StoreError::Record { url: place.url(), what: e.to_string() })?
    }

    /// Writes the inventory anew, where many records were read one by one. That it cannot be written costs the next run time,
    /// and no more.
    pub(super) async fn write_inventory(&self, entries: Vec<Entry>, news: usize) {
        if news < NEWS || entries.len() < MANY || self.out.kind == StoreKind::Local {
            return;
        }
        let place = self.inventory_place();
        let packed = tokio::task::spawn_blocking(move || {
            let lines = entries.iter().filter_map(|entry| serde_json::to_string(entry).ok());
            let text: String = lines.flat_map(|line| [line, "\n".to_owned()]).collect();
            zstd::encode_all(text.as_bytes(), LEVEL)
        });
        let Ok(Ok(packed)) = packed.await else { return };
        if let Err(error) = place.store.put(&place.path, packed.into()).await {
            tracing::debug!(%error, "the inventory of records cannot be written");
        }
    }
}
