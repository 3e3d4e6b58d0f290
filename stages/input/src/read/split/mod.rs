//! Long lists of URLs -> parts, each a shard of its own, so that an interruption costs minutes and several workers share a list.
//!
//! Parquet is split by its footer, text by one pass over its bytes, whose result is stored in the output. Compressed text is
//! not split: a part could only be reached by decompressing everything before it.

mod outline;
mod ranges;

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::AtomicU64,
    time::Duration,
};

use futures::{StreamExt, stream};
use recaption_messages::{ByteBudget, ReadCounters, ReadError, ReadSink};
use recaption_schemas::{FailureClass, ShardId, part_url};
use tokio::sync::mpsc;

use outline::Outline;

use super::{context::ReadContext, counts::SharedCounts, open, settings::ReadSettings, table};
use crate::{
    format::{InputFormat, ListKind, is_parquet_name},
    shards::{ListError, ListPart, LookupError, ShardRef, ShardSource},
};
use recaption_store::{Folder, Location, RetryPolicy, StoreKind, read_json, write_json};

/// Folder in the output for the parts of lists in text.
pub const LISTS: &str = "_recaption/lists";
/// Lists examined at the same time.
const CONCURRENT_LISTS: usize = 16;
/// Further attempts at a list, beyond the retries of its store: as many as a run makes at a shard.
const EXAMINE_RETRIES: RetryPolicy = RetryPolicy::new(2, Duration::from_secs(10), Duration::from_secs(10));

/// Splits long lists.
#[derive(Clone, Copy, Debug)]
pub struct Splitter<'a> {
    /// How lists are read.
    pub settings: &'a ReadSettings,
    /// The output, where the parts of lists are stored.
    pub output: &'a Location,
    /// Whether the output may be written to.
    pub can_write: bool,
}

/// Shards, with parts in place of long lists.
#[derive(Debug)]
pub struct Split {
    /// In the order of the inputs.
    pub shards: Vec<ShardRef>,
    /// Bytes that were read to find the parts.
    pub bytes_read: u64,
    /// URLs of all shards that may be lists, with the number of their parts if it is known, by the stem of their names.
    lists: HashMap<String, Vec<(String, Option<usize>)>>,
}

/// A shard in an output that is not among the inputs, but was a part of a list that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StalePart<'a> {
    /// The list became shorter.
    Superseded(&'a str),
    /// The list is unavailable, so that its parts are unknown.
    ListUnavailable(&'a str),
}

impl Split {
    /// Returns what became of a shard in the output that is not among the inputs, if it was a part of a list.
    #[must_use]
    pub fn stale_part(&self, shard: &str) -> Option<StalePart<'_>> {
        let mut name = shard.rsplitn(3, '-');
        let (_, number) = (name.next()?, name.next()?.parse().ok()?);
        let lists = self.lists.get(name.next()?)?;
        let of = |(list, _): &&(String, Option<usize>)| {
            number > 0 && ShardId::from_url(&part_url(list, number)).as_str() == shard
        };
        match lists.iter().find(of)? {
            (list, None) => Some(StalePart::ListUnavailable(list)),
            (list, Some(parts)) => (number >= *parts).then_some(StalePart::Superseded(list)),
        }
    }
}

/// How a list is split.
enum ListFormat {
    /// By a pass over its bytes.
    Text(ListKind),
    /// By its footer.
    Parquet,
}

/// The parts of a shard that may be a list.
enum Parts {
    /// The parts; empty if it is not a list, or a single shard.
    Known(Vec<ListPart>),
    /// It is unavailable, or malformed.
    Unknown,
}

/// Checks that no two shards have the same name in the output.
fn check_distinct(shards: &[ShardRef]) -> Result<(), ListError> {
    let mut ids: HashMap<&ShardId, &str> = HashMap::new();
    for shard in shards {
        if let Some(other) = ids.insert(&shard.id, &shard.url) {
            return Err(ListError::Collision(other.to_owned(), shard.url.clone()));
        }
    }
    Ok(())
}

impl Splitter<'_> {
    /// Splits long lists. Lists for which `is_done` returns true are kept whole, unread. A list that cannot be read now becomes
    /// an unavailable shard.
    ///
    /// # Errors
    /// [`ListError::Collision`] when two shards would have the same name in the output.
    pub async fn split(
        &self,
        shards: Vec<ShardRef>,
        is_done: impl Fn(&ShardRef) -> bool,
    ) -> Result<Split, ListError> {
        let read = AtomicU64::new(0);
        let mut split =
            Split { shards: Vec::with_capacity(shards.len()), bytes_read: 0, lists: HashMap::new() };
        let is_whole = |shard: &ShardRef| self.settings.rows_per_shard == 0 || is_done(shard);
        let image_table_folders = self.image_table_folders(&shards, &is_whole, &read).await;
        let examined = shards.into_iter().map(|shard| {
            let format = self.list_format(&shard);
            let is_table = matches!(format, Some(ListFormat::Parquet));
            let whole = is_table && image_table_folders.contains(&shard.location.folder())
                || format.is_some() && is_whole(&shard);
            let read = &read;
            async move {
                match format {
                    None => (shard, None),
                    Some(_) if shard.lookup_error().is_some() => (shard, Some(Parts::Unknown)),
                    Some(_) if whole => (shard, Some(Parts::Known(Vec::new()))),
                    Some(format) => {
                        let (shard, parts) = self.find_parts(shard, format, read).await;
                        (shard, Some(parts))
                    }
                }
            }
        });
        let mut examined = stream::iter(examined).buffered(CONCURRENT_LISTS);
        while let Some((shard, parts)) = examined.next().await {
            let known = match &parts {
                Some(Parts::Known(parts)) => Some(parts.len().max(1)),
                _ => None,
            };
            if parts.is_some() {
                let (stem, _) = shard.id.as_str().rsplit_once('-').unwrap_or_default();
                split.lists.entry(stem.to_owned()).or_default().push((shard.url.clone(), known));
            }
            match (parts, shard.version().cloned()) {
                (Some(Parts::Known(parts)), Some(list)) if parts.len() > 1 => {
                    split.shards.extend(parts.into_iter().map(|part| shard.with_part(list.clone(), part)));
                }
                _ => split.shards.push(shard),
            }
        }
        if split.shards.iter().any(|shard| shard.list_part().is_some()) {
            check_distinct(&split.shards)?;
        }
        drop(examined);
        split.bytes_read = read.into_inner();
        Ok(split)
    }

    /// Returns the folders whose Parquet files hold images, not URLs. The first file of a folder decides for all, the same for
    /// every worker; otherwise every footer would be read before a run begins.
    async fn image_table_folders(
        &self,
        shards: &[ShardRef],
        is_whole: &impl Fn(&ShardRef) -> bool,
        read: &AtomicU64,
    ) -> HashSet<Folder> {
        if self.settings.format == InputFormat::UrlList {
            return HashSet::new();
        }
        let tables =
            shards.iter().filter(|shard| matches!(self.list_format(shard), Some(ListFormat::Parquet)));
        let mut firsts: HashMap<Folder, (&ShardRef, bool)> = HashMap::new();
        for shard in tables {
            let (_, open) = firsts.entry(shard.location.folder()).or_insert((shard, false));
            *open |= !is_whole(shard);
        }
        let examined =
            firsts.into_iter().filter(|(_, (_, open))| *open).map(|(folder, (first, _))| async move {
                let groups = self
                    .with_retries(first, read, async |context| table::row_groups_of_list(context).await)
                    .await;
                matches!(groups, Ok(None)).then_some(folder)
            });
        stream::iter(examined)
            .buffer_unordered(CONCURRENT_LISTS)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    /// Returns how a shard is split if it is a list, by its name.
    fn list_format(&self, shard: &ShardRef) -> Option<ListFormat> {
        let may_be = matches!(self.settings.format, InputFormat::Auto | InputFormat::UrlList);
        if !may_be || matches!(shard.source, ShardSource::Folder { .. } | ShardSource::ListPart { .. }) {
            return None;
        }
        let name = shard.name();
        let table = is_parquet_name(name).then_some(ListFormat::Parquet);
        table.or_else(|| ListKind::of_name(name).map(ListFormat::Text))
    }

    /// Finds the parts of a shard that may be a list.
    async fn find_parts(&self, shard: ShardRef, format: ListFormat, read: &AtomicU64) -> (ShardRef, Parts) {
        let parts = self.with_retries(&shard, read, async |context| match format {
            ListFormat::Parquet => self.parts_of_parquet(context).await,
            ListFormat::Text(kind) => self.parts_of_text(context, kind).await,
        });
        match parts.await {
            Ok(parts) => (shard, Parts::Known(parts.unwrap_or_default())),
            // Reading it fails with the same error.
            Err(ReadError { class: FailureClass::Data, .. }) => (shard, Parts::Unknown),
            // Not read as a whole, since another worker may have split it.
            Err(ReadError { what, .. }) => {
                let error = LookupError { message: what, is_missing: false };
                (shard.into_unavailable(error), Parts::Unknown)
            }
        }
    }

    /// Examines a shard without reading samples, and retries transient failures. Adds the bytes to those `read`.
    async fn with_retries<T>(
        &self,
        shard: &ShardRef,
        read: &AtomicU64,
        examine: impl AsyncFn(ReadContext<'_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let (budget, counters, counts) =
            (ByteBudget::new(0), ReadCounters::default(), SharedCounts::default());
        let sink = ReadSink::Ordered(mpsc::channel(1).0);
        let context = ReadContext {
            number: 0,
            shard,
            settings: self.settings,
            budget: &budget,
            bytes_read: read,
            samples_read: &counters.samples,
            clock: &counters.clock,
            previous: None,
            counts: &counts,
            sink: &sink,
        };
        let mut budget = EXAMINE_RETRIES.budget();
        loop {
            let error = match examine(context).await {
                Err(error) if error.is_retryable => error,
                result => return result,
            };
            let Some(pause) = budget.next_pause(None) else { return Err(error) };
            tracing::warn!(%error, "examining a list failed; retrying");
            tokio::time::sleep(pause).await;
        }
    }

    async fn parts_of_parquet(&self, context: ReadContext<'_>) -> Result<Option<Vec<ListPart>>, ReadError> {
        let Some(groups) = table::row_groups_of_list(context).await? else { return Ok(None) };
        Ok(Some(ranges::parts(&groups, self.settings.rows_per_shard)))
    }

    async fn parts_of_text(
        &self,
        context: ReadContext<'_>,
        kind: ListKind,
    ) -> Result<Option<Vec<ListPart>>, ReadError> {
        let (list, rows_per_shard) = (context.shard, self.settings.rows_per_shard);
        let stored = self.output.child(LISTS).child(&format!("{}.json", list.id));
        // An unreadable outline is replaced.
        let known = read_json::<Outline>(&stored).await.ok().flatten();
        if let Some(known) = known.filter(|known| known.matches(list, rows_per_shard)) {
            return Ok(Some(known.parts(list)));
        }
        let Some(outline) = outline::of_text(context, kind, rows_per_shard).await? else { return Ok(None) };
        let parts = outline.parts(list);
        if parts.len() <= 1 {
            return Ok(Some(Vec::new()));
        }
        if list.location.kind == StoreKind::Http && !open::supports_range_requests(context).await? {
            tracing::warn!(
                list = list.url,
                "server does not support range requests; reading the list as one shard, from its start after an interruption"
            );
            return Ok(None);
        }
        if self.can_write
            && let Err(error) = write_json(&stored, &outline).await
        {
            tracing::warn!(list = list.url, %error, "cannot store the parts of a list; the next run will read it again");
        }
        Ok(Some(parts))
    }
}
