//! Long lists of addresses -> parts, each a shard of its own: an interruption then costs minutes, and many workers share a
//! list.
//!
//! Parquet is split by its footer, text by one pass over its bytes, whose result is remembered in the output. Packed text
//! is not split: its parts could only be reached by unpacking what comes before them.

mod ranges;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use futures::{StreamExt, stream};
use recaption_schemas::{FailureClass, ShardId, part_url};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    ByteBudget, InputFormat, ListKind, ReadError, ReadSettings, Reading, format::is_parquet_name, open,
    table, unpack::Unpack,
};
use crate::{
    commits::{read_json, write_json},
    fetch::ListParser,
    shards::{ListError, Part, ShardRef, TextPart},
    store::{Location, StoreKind},
};

/// Rows of a list that make one shard, unless it is told otherwise. As many as img2dataset puts into one.
pub const ROWS_PER_SHARD: u64 = 10_000;
/// Folder, below the output, of what is known of lists in text.
pub const LISTS: &str = "_recaption/lists";
/// Lists looked at at the same time.
const AT_ONCE: usize = 16;
/// Form of [`Outline`].
const FORMAT: u32 = 1;

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
    /// URL of every list that was looked at, with its parts, by the stem of its name.
    lists: HashMap<String, Vec<(String, usize)>>,
}

impl Split {
    /// The list of which a shard of the output was a part, before the list became shorter.
    #[must_use]
    pub fn list_of(&self, shard: &str) -> Option<&str> {
        let mut name = shard.rsplitn(3, '-');
        let (_, number) = (name.next()?, name.next()?.parse().ok()?);
        let lists = self.lists.get(name.next()?)?;
        let of = |(list, parts): &&(String, usize)| {
            number >= *parts && ShardId::from_url(&part_url(list, number)).as_str() == shard
        };
        lists.iter().find(of).map(|(list, _)| list.as_str())
    }
}

/// What is remembered of a list in text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Outline {
    format: u32,
    /// URL, redacted.
    list: String,
    /// Of the list as a whole.
    fingerprint: String,
    rows_per_shard: u64,
    rows: u64,
    /// Bytes up to the end of the row of names.
    names: u64,
    /// Where each part begins, bytes.
    starts: Vec<u64>,
}

impl Outline {
    /// Whether it speaks of this list as it is now, and may be true.
    fn fits(&self, list: &ShardRef, rows_per_shard: u64) -> bool {
        let parts = self.starts.len() as u64;
        self.format == FORMAT
            && self.list == list.url
            && self.fingerprint == list.fingerprint()
            && self.rows_per_shard == rows_per_shard
            && self.rows.div_ceil(rows_per_shard.max(1)) == parts
            && self.starts.first().is_some_and(|start| *start >= self.names)
            && self.starts.last().is_some_and(|start| *start < list.size)
            && self.starts.is_sorted_by(|a, b| a < b)
    }

    fn parts(&self, list: &ShardRef) -> Vec<Part> {
        let ends = self.starts.iter().skip(1).copied().chain([list.size]);
        let ranges = self.starts.iter().zip(ends);
        let part = |(number, (start, end)): (usize, (&u64, u64))| {
            let first = number as u64 * self.rows_per_shard;
            Part {
                number,
                rows: first..self.rows.min(first + self.rows_per_shard),
                bytes: self.names + end - start,
                text: Some(TextPart { names: self.names, bytes: *start..end }),
            }
        };
        ranges.enumerate().map(part).collect()
    }
}

/// How a list can be split.
enum Form {
    Text(ListKind),
    Table,
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
        let looks = shards.into_iter().map(|shard| {
            let form = self.form(&shard);
            let look = form.map(|form| (form, is_done(&shard)));
            async move {
                match look {
                    None => (shard, None),
                    Some((_, true)) => (shard, Some(Vec::new())),
                    Some((form, false)) => self.look(shard, form).await,
                }
            }
        });
        let mut looks = stream::iter(looks).buffered(AT_ONCE);
        let mut ids: HashMap<ShardId, String> = HashMap::new();
        while let Some((shard, parts)) = looks.next().await {
            if let Some(parts) = &parts {
                let (stem, _) = shard.id.as_str().rsplit_once('-').unwrap_or_default();
                let list = (shard.url.clone(), parts.len().max(1));
                split.lists.entry(stem.to_owned()).or_default().push(list);
            }
            match parts.filter(|parts| parts.len() > 1) {
                Some(parts) => split.shards.extend(parts.into_iter().map(|part| shard.part(part))),
                None => split.shards.push(shard),
            }
        }
        if split.shards.iter().any(|shard| shard.part.is_some()) {
            for shard in &split.shards {
                if let Some(other) = ids.insert(shard.id.clone(), shard.url.clone()) {
                    return Err(ListError::Collision(other, shard.url.clone()));
                }
            }
        }
        Ok(split)
    }

    fn form(&self, shard: &ShardRef) -> Option<Form> {
        let may_be = matches!(self.settings.format, InputFormat::Auto | InputFormat::UrlList);
        let whole = shard.files.is_none() && shard.missing.is_none() && shard.part.is_none();
        if !may_be || !whole || self.settings.rows_per_shard == 0 {
            return None;
        }
        let name = shard.name();
        let table = is_parquet_name(name).then_some(Form::Table);
        table.or_else(|| ListKind::of_name(name).map(Form::Text))
    }

    /// The parts of a list; none of what is none, or too short.
    async fn look(&self, mut shard: ShardRef, form: Form) -> (ShardRef, Option<Vec<Part>>) {
        let (budget, bytes_read, (to, _nobody)) = (ByteBudget::new(0), AtomicU64::new(0), mpsc::channel(1));
        let reading = Reading {
            number: 0,
            shard: &shard,
            settings: self.settings,
            budget: &budget,
            bytes_read: &bytes_read,
            former: None,
            to: &to,
        };
        let parts = match form {
            Form::Table => self.parts_of_table(reading).await,
            Form::Text(kind) => self.parts_of_text(reading, kind).await,
        };
        match parts {
            Ok(parts) => (shard, parts),
            // Whoever reads it will say the same.
            Err(ReadError { class: FailureClass::Data, .. }) => (shard, None),
            // Not read as a whole where another worker may have split it.
            Err(ReadError { what, .. }) => {
                shard.missing = Some(what);
                (shard, None)
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
        let Some(outline) = outline(reading, kind, rows_per_shard).await? else { return Ok(None) };
        if outline.starts.len() <= 1 {
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
        Ok(Some(outline.parts(list)))
    }
}

/// Reads a list in text to its end; `None` where it is packed.
async fn outline(
    reading: Reading<'_>,
    kind: ListKind,
    rows_per_shard: u64,
) -> Result<Option<Outline>, ReadError> {
    let list = reading.shard;
    let mut outline = Outline {
        format: FORMAT,
        list: list.url.clone(),
        fingerprint: list.fingerprint(),
        rows_per_shard,
        rows: 0,
        names: 0,
        starts: Vec::new(),
    };
    let mut parser = ListParser::new(kind, reading.settings.columns.clone());
    // A part begins where the last row of the one before ends.
    let mut last_end = 0;
    let mut ends = Vec::new();
    let mut sink = |rows: &mut u64, end: u64| {
        if *rows % rows_per_shard == 0 {
            ends.push(last_end);
        }
        *rows += 1;
        last_end = end;
    };
    let failed = |e: String| reading.data(&e);
    if let Some(first) = open::first(reading).await? {
        if Unpack::recognise(&first.bytes).is_ok_and(|unpack| unpack.is_packed()) {
            return Ok(None);
        }
        let (mut piece, mut rest) = (Some(first.bytes), first.rest);
        while let Some(bytes) = piece {
            parser.push_into(&bytes, &mut |_, end| sink(&mut outline.rows, end)).map_err(failed)?;
            piece = open::next(&mut rest, reading).await?;
        }
    }
    parser.finish_into(&mut |_, end| sink(&mut outline.rows, end)).map_err(failed)?;
    outline.names = parser.names();
    outline.starts = ends;
    if let Some(start) = outline.starts.first_mut() {
        *start = outline.names;
    }
    tracing::debug!(
        list = list.url,
        rows = outline.rows,
        bytes = reading.bytes_read.load(Relaxed),
        "read through"
    );
    Ok(Some(outline))
}
