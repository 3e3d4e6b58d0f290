//! What an output holds, looked at as a whole: every record is read and every part is held against what its record says.
//!
//! Three listings and a reading of all records, whose bodies are small. A record that cannot be used is told by name, and
//! its shard is done again; it stops nobody.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{Error, ObjectStoreExt};
use recaption_schemas::{Counts, Damage, PartInfo, ShardId, hex, shard_of_part};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    COMMITS, CommitLog, RecordName,
    inventory::{Entry, MANY},
};
use recaption_store::{ErrorKind, Location, StoreError, StoreKind, user_message};

/// Records read at the same time.
const AT_ONCE: usize = 128;
/// Records of a file system that are read by one thread.
const READ_TOGETHER: usize = 256;
/// Folders of parts.
pub(super) const TABLES: [&str; 2] = ["captions", "rejects"];

/// SHA-256 of a record's bytes.
pub type Sum = [u8; 32];

/// SHA-256 of these bytes.
#[must_use]
pub fn sum_of(bytes: &[u8]) -> Sum {
    Sha256::digest(bytes).into()
}

/// SHA-256 of an object's bytes in hex, if it is there.
///
/// # Errors
/// When the store refuses.
pub async fn sum_of_object(place: &Location) -> Result<Option<String>, StoreError> {
    let failed = |source| StoreError::Store { url: place.url(), source };
    let mut pieces = match place.store.get(&place.path).await {
        Ok(got) => got.into_stream(),
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mut sum = Sha256::new();
    while let Some(piece) = pieces.try_next().await.map_err(failed)? {
        sum.update(&piece);
    }
    Ok(Some(hex(&sum.finalize())))
}

/// What a record says, as far as planning wants to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// The shard's URL.
    pub shard: String,
    /// Fingerprint of input and configuration.
    pub fingerprint: String,
    /// Where every sample went.
    pub counts: Counts,
    /// Set where the shard could be read only in part.
    pub damaged: Option<Damage>,
    /// The captions part.
    pub captions: PartInfo,
    /// The rejects part.
    pub rejects: PartInfo,
    /// Settings that made rejects.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

impl Facts {
    /// Both parts.
    #[must_use]
    pub fn parts(&self) -> [&PartInfo; 2] {
        [&self.captions, &self.rejects]
    }
}

/// A record that stands in an output.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The shard's name in the name of the record's file.
    pub file: String,
    /// The rest of that name.
    pub name: RecordName,
    /// Of its bytes.
    pub sum: Sum,
    /// What it says, where it can be used.
    pub facts: Option<Facts>,
    /// Why the shard must be done again: the record cannot be used, or a part is not what it says.
    pub fault: Option<String>,
}

impl Standing {
    /// Whether record and parts are as they should be.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.fault.is_none() && self.facts.is_some()
    }

    /// Path of the record below the output.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{COMMITS}/{}.{}.json", self.file, self.name.fingerprint())
    }
}

/// A part that lies in an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its path below the output.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// When it was put, by the store's clock.
    pub modified: DateTime<Utc>,
}

/// Records and parts of an output, by the name of their shard.
#[derive(Default)]
pub struct Survey {
    records: HashMap<String, Vec<Standing>>,
    parts: HashMap<String, Vec<Seen>>,
    /// Parts that a usable record names, with the name of its shard.
    promised: HashMap<String, String>,
}

/// What planning finds of one shard.
#[derive(Debug, Default)]
pub struct ShardState {
    /// The record by which the shard is done as it is.
    pub done: Option<Standing>,
    /// What stands at the place of its new record and does not hold: it is replaced, not joined.
    pub expects: Option<Standing>,
    /// Records that do not hold.
    pub stale: Vec<Standing>,
    /// Parts that no record names which holds.
    pub orphans: Vec<Seen>,
}

impl Survey {
    /// Takes a shard out: `name` is what its record must be called.
    pub fn take(&mut self, url: &str, name: &RecordName) -> ShardState {
        let (id, old) = (ShardId::from_url(url), ShardId::old_from_url(url));
        let mut found = ShardState::default();
        for id in [&id, &old] {
            for standing in self.records.remove(id.as_str()).unwrap_or_default() {
                if standing.name == *name && standing.is_whole() && found.done.is_none() {
                    found.done = Some(standing);
                } else if standing.name == *name && standing.file == id.as_str() && *id != old {
                    found.expects = Some(standing);
                } else {
                    found.stale.push(standing);
                }
            }
        }
        let kept: HashSet<&str> = found.done.iter().flat_map(paths).collect();
        for seen in [&id, &old].into_iter().filter_map(|id| self.parts.get(id.as_str())).flatten() {
            let others = self.promised.get(&seen.path).is_some_and(|shard| shard != id.as_str());
            if !others && !kept.contains(seen.path.as_str()) {
                found.orphans.push(seen.clone());
            }
        }
        found
    }

    /// The record by which a shard is done as it is.
    #[must_use]
    pub fn done(&self, url: &str, name: &RecordName) -> Option<&Standing> {
        let of_shard = self.records.get(ShardId::from_url(url).as_str())?;
        of_shard.iter().find(|standing| standing.name == *name && standing.is_whole())
    }

    /// Records of a shard.
    #[must_use]
    pub fn of(&self, url: &str) -> &[Standing] {
        self.records.get(ShardId::from_url(url).as_str()).map_or(&[], Vec::as_slice)
    }

    /// Parts that no usable record names.
    pub fn parts_without_record(&self) -> impl Iterator<Item = &Seen> {
        self.parts.values().flatten().filter(|seen| !self.promised.contains_key(&seen.path))
    }

    /// All records that were not taken.
    pub fn records(&self) -> impl Iterator<Item = (&str, &Standing)> {
        self.records.iter().flat_map(|(shard, all)| all.iter().map(move |one| (shard.as_str(), one)))
    }

    /// The records that were not taken, by shard.
    #[must_use]
    pub fn take_records(&mut self) -> HashMap<String, Vec<Standing>> {
        std::mem::take(&mut self.records)
    }

    /// Whether a shard has a record.
    #[must_use]
    pub fn has_record(&self, shard: &str) -> bool {
        self.records.contains_key(shard)
    }

    /// Parts of a shard.
    #[must_use]
    pub fn parts_of(&self, shard: &str) -> &[Seen] {
        self.parts.get(shard).map_or(&[], Vec::as_slice)
    }

    /// Parts of all shards but these.
    pub fn parts_but(&self, shards: &HashSet<String>) -> impl Iterator<Item = &Seen> {
        self.parts.iter().filter(|(shard, _)| !shards.contains(*shard)).flat_map(|(_, parts)| parts)
    }

    /// Shards that have parts and no record that names one of them, all older than `young`.
    #[must_use]
    pub fn strays(&self, young: DateTime<Utc>) -> Vec<String> {
        let is_stray = |seen: &Seen| !self.promised.contains_key(&seen.path) && seen.modified < young;
        let strays = self.parts.iter().filter(|(_, parts)| parts.iter().all(is_stray));
        strays.map(|(shard, _)| shard.clone()).collect()
    }
}

fn paths(standing: &Standing) -> impl Iterator<Item = &str> {
    standing.facts.iter().flat_map(Facts::parts).map(|part| part.path.as_str())
}

impl CommitLog {
    /// Looks at all records and parts.
    ///
    /// # Errors
    /// When the output cannot be listed, or a record cannot be read for a reason that may pass.
    pub async fn survey(&self) -> Result<Survey, StoreError> {
        let (standing, parts) = futures::try_join!(self.standing(), self.parts())?;
        let mut survey = Survey::default();
        let sizes: HashMap<&str, u64> = parts.iter().map(|seen| (seen.path.as_str(), seen.bytes)).collect();
        for mut one in standing {
            let shard = one.facts.as_ref().map_or_else(
                || one.file.clone(),
                |facts| ShardId::from_url(&facts.shard).as_str().to_owned(),
            );
            if let Some(facts) = &one.facts {
                one.fault = facts.parts().into_iter().find_map(|part| fault_of(part, &sizes));
                for path in paths(&one) {
                    survey.promised.insert(path.to_owned(), shard.clone());
                }
            }
            survey.records.entry(shard).or_default().push(one);
        }
        for seen in parts {
            if let Some(shard) = seen.path.rsplit('/').next().and_then(shard_of_part) {
                survey.parts.entry(shard.to_owned()).or_default().push(seen);
            }
        }
        Ok(survey)
    }

    /// All records, read; and an inventory of them for the next time.
    async fn standing(&self) -> Result<Vec<Standing>, StoreError> {
        let folder = self.out.child(COMMITS);
        let mut names = Vec::new();
        for meta in folder.list().await? {
            if let Some((file, name)) = meta.location.filename().and_then(RecordName::parse) {
                let place = folder.at(meta.location);
                names.push(Named { file, name, tag: meta.e_tag, place, read: None });
            }
        }
        // The same for every worker, whatever the order in which a store lists.
        names.sort_by(|a, b| a.place.path.cmp(&b.place.path));
        let names = read_ahead(&folder, names).await;
        let mut inventory = self.inventory(names.len()).await;
        let known = names.into_iter().map(|named| {
            let record = named.place.path.filename().unwrap_or_default();
            let known = inventory.take(record, named.tag.as_deref());
            (named, known)
        });
        let known: Vec<_> = known.collect();
        let news = known.iter().filter(|(_, entry)| entry.is_none()).count();
        let standing: Vec<(Standing, Option<String>)> = stream::iter(known)
            .map(|(named, entry)| async move {
                let tag = named.tag.clone();
                match entry {
                    Some(entry) => {
                        let Named { file, name, .. } = named;
                        let (sum, facts) = (entry.sum, Some(entry.facts));
                        Ok(Some((Standing { file, name, sum, facts, fault: None }, tag)))
                    }
                    None => named.read().await.map(|one| one.map(|one| (one, tag))),
                }
            })
            .buffered(AT_ONCE)
            .try_filter_map(|one| std::future::ready(Ok(one)))
            .try_collect()
            .await?;
        let entries = standing.iter().filter_map(|(one, tag)| {
            let record = one.path().rsplit('/').next()?.to_owned();
            Some(Entry { record, tag: tag.clone()?, sum: one.sum, facts: one.facts.clone()? })
        });
        if news >= MANY / 2 {
            self.write_inventory(entries.collect(), news).await;
        }
        Ok(standing.into_iter().map(|(one, _)| one).collect())
    }

    /// All parts.
    async fn parts(&self) -> Result<Vec<Seen>, StoreError> {
        let mut all = Vec::new();
        for table in TABLES {
            let folder = self.out.child(table);
            let links = links_in(&folder).await;
            for meta in folder.list().await? {
                // Of the folder itself, not of one in it.
                let Some(file) = meta.location.filename() else { continue };
                if meta.location.parts().count() != folder.path.parts().count() + 1 || links.contains(file) {
                    continue;
                }
                let path = format!("{table}/{file}");
                all.push(Seen { path, bytes: meta.size, modified: meta.last_modified });
            }
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(all)
    }
}

/// A record that was listed.
struct Named {
    file: String,
    name: RecordName,
    tag: Option<String>,
    place: Location,
    /// What it says, where it was read along with many others.
    read: Option<(Sum, Result<Facts, String>)>,
}

/// Reads records of this machine's file system, many to a thread: one by one each would cost two changes of threads. What
/// cannot be read so is left to the store, which says why.
async fn read_ahead(folder: &Location, mut names: Vec<Named>) -> Vec<Named> {
    if folder.kind != StoreKind::Local {
        return names;
    }
    let folder = folder.local_path();
    let mut reading = Vec::new();
    while !names.is_empty() {
        let mut some = names.split_off(names.len().saturating_sub(READ_TOGETHER));
        let folder = folder.clone();
        reading.push(tokio::task::spawn_blocking(move || {
            for named in &mut some {
                let file = format!("{}.{}.json", named.file, named.name.fingerprint());
                let bytes = std::fs::read(folder.join(file)).ok();
                named.read = bytes.map(|bytes| (sum_of(&bytes), facts_of(&bytes, &named.file, &named.name)));
            }
            some
        }));
    }
    let mut read = Vec::new();
    for some in reading.into_iter().rev() {
        read.extend(some.await.unwrap_or_default());
    }
    read
}

/// Names of links in a folder of this machine: what a link shows is nobody's work.
async fn links_in(folder: &Location) -> HashSet<String> {
    if folder.kind != StoreKind::Local {
        return HashSet::new();
    }
    let folder = folder.local_path();
    let links = tokio::task::spawn_blocking(move || {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        links.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    });
    links.await.unwrap_or_default()
}

impl Named {
    /// Reads it; `None` where it went meanwhile.
    async fn read(self) -> Result<Option<Standing>, StoreError> {
        let Self { file, name, place, read, .. } = self;
        let (sum, facts) = match read {
            Some(read) => read,
            None => {
                let bytes = match place.store.get(&place.path).await {
                    Ok(got) => got.bytes().await,
                    Err(error) => Err(error),
                };
                match bytes {
                    Ok(bytes) => (sum_of(&bytes), facts_of(&bytes, &file, &name)),
                    Err(Error::NotFound { .. }) => return Ok(None),
                    Err(error) if ErrorKind::of(&error) == ErrorKind::Permanent => {
                        (Sum::default(), Err(format!("it cannot be read: {}", user_message(&error))))
                    }
                    Err(source) => return Err(StoreError::Store { url: place.url(), source }),
                }
            }
        };
        let (facts, fault) = match facts {
            Ok(facts) => (Some(facts), None),
            Err(fault) => (None, Some(fault)),
        };
        Ok(Some(Standing { file, name, sum, facts, fault }))
    }
}

/// Why a part is not what its record says.
fn fault_of(part: &PartInfo, sizes: &HashMap<&str, u64>) -> Option<String> {
    match sizes.get(part.path.as_str()) {
        None => Some(format!("its part {} is missing", part.path)),
        Some(bytes) if *bytes != part.bytes => {
            Some(format!("its part {} has {bytes} bytes, the record says {}", part.path, part.bytes))
        }
        Some(_) => None,
    }
}

/// What a record says, if it is one, and this shard's.
fn facts_of(bytes: &[u8], file: &str, name: &RecordName) -> Result<Facts, String> {
    let facts: Facts = serde_json::from_slice(bytes).map_err(|e| format!("it is no commit record: {e}"))?;
    let is_named = |id: ShardId| id.as_str() == file;
    if !is_named(ShardId::from_url(&facts.shard)) && !is_named(ShardId::old_from_url(&facts.shard)) {
        return Err(format!("it is the record of another shard, {}", facts.shard));
    }
    if facts.fingerprint != name.fingerprint() {
        return Err("its fingerprint is not the one of its name".to_owned());
    }
    Ok(facts)
}
