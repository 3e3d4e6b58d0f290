//! Long lists of addresses -> parts, each a shard of its own: an interruption then costs minutes, and many workers share a
//! list.
//!
//! Parquet is split by its footer, text by one pass over its bytes, whose result is remembered in the output. Packed text
//! is not split: its parts could only be reached by unpacking what comes before them.

mod outline;
mod ranges;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use recaption_messages::{ByteBudget, ReadCounters, ReadError, ReadSink};
use recaption_schemas::{FailureClass, ShardId, part_url};
use tokio::sync::mpsc;

use outline::Outline;

use super::{InputFormat, ListKind, ReadSettings, Reading, Tally, is_parquet_name, open, table};
use crate::shards::{ListError, Part, ShardRef};
use recaption_store::{Folder, Location, StoreKind, read_json, write_json};

/// Rows of a list that make one shard, unless it is told otherwise. As many as img2dataset puts into one.
pub const ROWS_PER_SHARD: u64 = 10_000;
/// Folder, below the output, of what is known of lists in text.
pub const LISTS: &str = "_recaption/lists";
/// Lists looked at at the same time.
const AT_ONCE: usize = 16;
/// Attempts at looking at a list, beside those of its store, and the pause between them: as many as a run begins a shard.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(5);

/// Splits lists.
#[derive(Clone, Copy)]
pub struct Splitter<'a> {
    /// How lists are read.
    pub settings: &'a ReadSettings,
    /// The output.
    pub output: &'a Location,
    /// Whether the output may be written to.
    pub remember: bool,
}

/// Shards, with parts in the place of long lists.
pub struct Split {
    /// In the order of the inputs.
    pub shards: Vec<ShardRef>,
    /// URL of everything that may be a list, with the number of its parts where that is known, by the stem of its name.
    lists: HashMap<String, Vec<(String, Option<usize>)>>,
}

/// A shard of an output that is none of the inputs' and was a part of a list that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StalePart<'a> {
    /// This list became shorter.
    Superseded(&'a str),
    /// This list cannot be looked at now.
    ListUnavailable(&'a str),
}

impl Split {
    /// Whether a shard of the output that is no input was a part of a list.
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

/// How a list can be split.
enum Form {
    Text(ListKind),
    Table,
}

/// What is known of something that may be a list.
enum Parts {
    /// Its parts; none of what is no list, or one shard.
    Known(Vec<Part>),
    /// It cannot be looked at now.
    Unknown,
}

/// Every shard has a name of its own in the output.
fn distinct(shards: &[ShardRef]) -> Result<(), ListError> {
    let mut ids: HashMap<&ShardId, &str> = HashMap::new();
    for shard in shards {
        if let Some(other) = ids.insert(&shard.id, &shard.url) {
            return Err(ListError::Collision(other.to_owned(), shard.url.clone()));
        }
    }
    Ok(())
}

impl Splitter<'_> {
    /// Splits long lists. Those of which `is_done` says that they are done as they are, are left so, unread. A list that
    /// cannot be looked at now is a shard that is missing.
    ///
    /// # Errors
    /// When two shards would have the same name in the output.
    pub async fn split(
        &self,
        shards: Vec<ShardRef>,
        is_done: impl Fn(&ShardRef) -> bool,
    ) -> Result<Split, ListError> {
        let mut split = Split { shards: Vec::with_capacity(shards.len()), lists: HashMap::new() };
        let is_whole = |shard: &ShardRef| self.settings.rows_per_shard == 0 || is_done(shard);
        let pictures = self.folders_of_pictures(&shards, &is_whole).await;
        let looks = shards.into_iter().map(|shard| {
            let form = self.form(&shard);
            let is_table = matches!(form, Some(Form::Table));
            let whole =
                is_table && pictures.contains(&shard.location.folder()) || form.is_some() && is_whole(&shard);
            async move {
                match form {
                    None => (shard, None),
                    Some(_) if shard.missing.is_some() => (shard, Some(Parts::Unknown)),
                    Some(_) if whole => (shard, Some(Parts::Known(Vec::new()))),
                    Some(form) => {
                        let (shard, parts) = self.look(shard, form).await;
                        (shard, Some(parts))
                    }
                }
            }
        });
        let mut looks = stream::iter(looks).buffered(AT_ONCE);
        while let Some((shard, parts)) = looks.next().await {
            let known = match &parts {
                Some(Parts::Known(parts)) => Some(parts.len().max(1)),
                _ => None,
            };
            if parts.is_some() {
                let (stem, _) = shard.id.as_str().rsplit_once('-').unwrap_or_default();
                split.lists.entry(stem.to_owned()).or_default().push((shard.url.clone(), known));
            }
            match parts {
                Some(Parts::Known(parts)) if parts.len() > 1 => {
                    split.shards.extend(parts.into_iter().map(|part| shard.part(part)));
                }
                _ => split.shards.push(shard),
            }
        }
        if split.shards.iter().any(|shard| shard.part.is_some()) {
            distinct(&split.shards)?;
        }
        Ok(split)
    }

    /// Folders whose tables hold images and not their addresses: the first one speaks for all, for every worker the same.
    /// Else every footer would be asked for before a run begins.
    async fn folders_of_pictures(
        &self,
        shards: &[ShardRef],
        is_whole: &impl Fn(&ShardRef) -> bool,
    ) -> HashSet<Folder> {
        if self.settings.format == InputFormat::UrlList {
            return HashSet::new();
        }
        let tables = shards.iter().filter(|shard| matches!(self.form(shard), Some(Form::Table)));
        let mut firsts: HashMap<Folder, (&ShardRef, bool)> = HashMap::new();
        for shard in tables {
            let (_, open) = firsts.entry(shard.location.folder()).or_insert((shard, false));
            *open |= !is_whole(shard);
        }
        let looks =
            firsts.into_iter().filter(|(_, (_, open))| *open).map(|(folder, (first, _))| async move {
                let looked =
                    self.look_with(first, async |reading| table::groups_of_list(reading).await).await;
                matches!(looked, Ok(None)).then_some(folder)
            });
        stream::iter(looks).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    /// What a shard may be split as, by its name.
    fn form(&self, shard: &ShardRef) -> Option<Form> {
        let may_be = matches!(self.settings.format, InputFormat::Auto | InputFormat::UrlList);
        if !may_be || shard.files.is_some() || shard.part.is_some() {
            return None;
        }
        let name = shard.name();
        let table = is_parquet_name(name).then_some(Form::Table);
        table.or_else(|| ListKind::of_name(name).map(Form::Text))
    }

    /// Looks at what may be a list.
    async fn look(&self, mut shard: ShardRef, form: Form) -> (ShardRef, Parts) {
        let parts = self.look_with(&shard, async |reading| match form {
            Form::Table => self.parts_of_table(reading).await,
            Form::Text(kind) => self.parts_of_text(reading, kind).await,
        });
        match parts.await {
            Ok(parts) => (shard, Parts::Known(parts.unwrap_or_default())),
            // Whoever reads it will say the same.
            Err(ReadError { class: FailureClass::Data, .. }) => (shard, Parts::Unknown),
            // Not read as a whole where another worker may have split it.
            Err(ReadError { what, .. }) => {
                shard.missing = Some(what);
                (shard, Parts::Unknown)
            }
        }
    }

    /// Reads in a shard of which no sample is wanted; begun again where that may go better, as shards are.
    async fn look_with<T>(
        &self,
        shard: &ShardRef,
        look: impl AsyncFn(Reading<'_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let (budget, counters, tally) = (ByteBudget::new(0), ReadCounters::default(), Tally::default());
        let sink = ReadSink::Ordered(mpsc::channel(1).0);
        let reading = Reading {
            number: 0,
            shard,
            settings: self.settings,
            budget: &budget,
            bytes_read: &counters.bytes,
            samples_read: &counters.samples,
            previous: None,
            tally: &tally,
            sink: &sink,
        };
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            match look(reading).await {
                Err(error) if error.is_retryable && left > 0 => {
                    tracing::warn!(%error, "it is looked at again");
                    tokio::time::sleep(PAUSE).await;
                }
                looked => return looked,
            }
        }
    }

    async fn parts_of_table(&self, reading: Reading<'_>) -> Result<Option<Vec<Part>>, ReadError> {
        let Some(groups) = table::groups_of_list(reading).await? else { return Ok(None) };
        Ok(Some(ranges::parts(&groups, self.settings.rows_per_shard)))
    }

    async fn parts_of_text(
        &self,
        reading: Reading<'_>,
        kind: ListKind,
    ) -> Result<Option<Vec<Part>>, ReadError> {
        let (list, rows_per_shard) = (reading.shard, self.settings.rows_per_shard);
        let memory = self.output.child(LISTS).child(&format!("{}.json", list.id));
        // What cannot be read is found out again.
        let known = read_json::<Outline>(&memory).await.ok().flatten();
        if let Some(known) = known.filter(|known| known.fits(list, rows_per_shard)) {
            return Ok(Some(known.parts(list)));
        }
        let Some(outline) = outline::of_text(reading, kind, rows_per_shard).await? else { return Ok(None) };
        let parts = outline.parts(list);
        if parts.len() <= 1 {
            return Ok(Some(Vec::new()));
        }
        if list.location.kind == StoreKind::Http && !open::hands_out_ranges(reading).await? {
            tracing::warn!(
                list = list.url,
                "its server hands out no ranges: the list is one shard, and begun again as a whole after an interruption"
            );
            return Ok(None);
        }
        if self.remember
            && let Err(error) = write_json(&memory, &outline).await
        {
            tracing::warn!(list = list.url, %error, "its parts cannot be remembered; the next run reads it again");
        }
        Ok(Some(parts))
    }
}
