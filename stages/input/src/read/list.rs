//! Lists of addresses -> samples: see [`crate::fetch`]. Fetched many at a time, in no order; a row's position is its index.

use std::pin::pin;

use recaption_schemas::Damage;
use tokio::task::{JoinError, JoinSet};

use super::{ListKind, ReadError, Reading, Stays, open, sniff, unpack::Unpack};
use crate::{
    fetch::{FetchRow, Fetcher, ListParser, ListRow, Place, fetch_row},
    label::{Label, Labels},
    shards::{Part, TextPart},
};
use recaption_messages::{ReadItem, ShardContents};

/// Reads a list in text, packed or not, or a part of one.
pub async fn read(reading: Reading<'_>, kind: ListKind) -> Result<Option<ShardContents>, ReadError> {
    let parser = ListParser::new(kind, reading.settings.columns.clone());
    let fetching = Fetching::new(reading)?;
    match &reading.shard.part {
        Some(Part { rows, text: Some(text), .. }) => {
            let parser = parser.behind(rows.start);
            Reader { reading, kind, parser, fetching }.part(text, rows.end - rows.start).await
        }
        _ => Reader { reading, kind, parser, fetching }.whole().await,
    }
}

struct Reader<'a> {
    reading: Reading<'a>,
    kind: ListKind,
    parser: ListParser,
    fetching: Fetching<'a>,
}

impl Reader<'_> {
    async fn whole(mut self) -> Result<Option<ShardContents>, ReadError> {
        let reading = self.reading;
        let failed = |e: std::io::Error| format!("the packed list cannot be unpacked: {e}");
        if let Some(first) = open::first(reading).await? {
            let mut unpack = Unpack::recognise(&first.bytes).map_err(|e| reading.data(&failed(e)))?;
            if !unpack.is_packed()
                && let Some(what) = sniff::not_a_list(&first.bytes, self.kind)
            {
                return Err(reading.data(&what));
            }
            let (mut piece, mut rest) = (Some(first.bytes), first.rest);
            while let Some(mut packed) = piece {
                while !packed.is_empty() {
                    let bytes = match unpack.next(&mut packed) {
                        Ok(bytes) => bytes,
                        Err(e) => return self.broken(failed(e)).await,
                    };
                    if !self.take(&bytes).await? {
                        return Ok(None);
                    }
                }
                piece = match self.fetching.beside(open::next(&mut rest, reading)).await? {
                    Some(next) => next?,
                    None => return Ok(None),
                };
            }
            loop {
                let bytes = match unpack.finish() {
                    Ok(bytes) => bytes,
                    Err(e) => return self.broken(failed(e)).await,
                };
                if bytes.is_empty() {
                    break;
                }
                if !self.take(&bytes).await? {
                    return Ok(None);
                }
            }
        }
        self.finish().await
    }

    async fn part(mut self, text: &TextPart, rows: u64) -> Result<Option<ShardContents>, ReadError> {
        let reading = self.reading;
        for range in [0..text.names, text.bytes.clone()] {
            let mut pieces = open::range(reading, range).await?;
            loop {
                let next = self.fetching.beside(open::next(&mut pieces, reading)).await?;
                let Some(next) = next else { return Ok(None) };
                let Some(piece) = next? else { break };
                if !self.take(&piece).await? {
                    return Ok(None);
                }
            }
        }
        match self.finish().await? {
            // Where a server says nothing of changes.
            Some(end) if end.samples != rows => {
                let what = format!("{} rows where the list had {rows}: it was changed", end.samples);
                Err(reading.data(&what))
            }
            end => Ok(end),
        }
    }

    /// Takes the list's next bytes; `false` when nobody takes samples.
    async fn take(&mut self, bytes: &[u8]) -> Result<bool, ReadError> {
        let rows = self.parser.push(bytes).map_err(|e| self.reading.data(&e))?;
        if self.fetching.emitted() == 0
            && !rows.is_empty()
            && let Some(columns) = self.parser.describe()
        {
            self.reading.settings.announced.say("list of addresses", &columns);
        }
        self.fetching.rows(rows).await
    }

    /// The packed bytes are damaged or cut: whole rows before that stand, and what follows is one reject.
    async fn broken(mut self, what: String) -> Result<Option<ShardContents>, ReadError> {
        let rows = self.parser.finish_broken();
        if !self.fetching.rows(rows).await? {
            return Ok(None);
        }
        if self.fetching.emitted() == 0 {
            return Err(self.reading.data(&what));
        }
        self.fetching.finish_broken(what).await
    }

    async fn finish(mut self) -> Result<Option<ShardContents>, ReadError> {
        let rows = self.parser.finish().map_err(|e| self.reading.data(&e))?;
        if self.fetching.rows(rows).await? { self.fetching.finish().await } else { Ok(None) }
    }
}

/// Rows on their way.
pub struct Fetching<'a> {
    reading: Reading<'a>,
    fetcher: Fetcher,
    labels: Labels,
    flying: JoinSet<(ReadItem, Place)>,
    emitted: u64,
}

impl<'a> Fetching<'a> {
    /// Nothing is fetched yet.
    pub fn new(reading: Reading<'a>) -> Result<Self, ReadError> {
        let fetcher = reading.settings.fetcher.clone();
        let fetcher =
            fetcher.ok_or_else(|| reading.data("it is a list of addresses, and nothing is fetched here"))?;
        Ok(Self { reading, fetcher, labels: Labels::default(), flying: JoinSet::new(), emitted: 0 })
    }

    /// Rows so far.
    pub fn emitted(&self) -> u64 {
        self.emitted
    }

    /// Takes the next rows; `false` when nobody takes samples.
    pub async fn rows(&mut self, rows: Vec<ListRow>) -> Result<bool, ReadError> {
        for row in rows {
            if !self.row(row).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands on what was fetched while something else is waited for; `None` when nobody takes samples. All lists share the
    /// places, and an image keeps its own until it is handed on: whoever waits hands on.
    pub async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Result<Option<T>, ReadError> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(Some(done)),
                Some(landed) = self.flying.join_next() => {
                    if !self.land(landed).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn row(&mut self, mut row: ListRow) -> Result<bool, ReadError> {
        self.emitted += 1;
        let first = self.reading.shard.part.as_ref().map_or(0, |part| part.rows.start);
        let labelled = self.labels.label(row.label.clone(), first + row.index);
        let captions = std::mem::take(&mut row.captions);
        let caption = self.reading.settings.captions.pick(&labelled.key, &captions);
        self.reading.tally.caption(caption.as_ref());
        match self.reading.stays(row.index, &labelled.key).await? {
            Stays::No => {}
            Stays::Told(taken) => return Ok(taken),
        }
        let index = row.index;
        match FetchRow::of(row, labelled, caption) {
            Err(reject) => Ok(self.reading.reject(index, *reject).await),
            Ok(row) => {
                let fetcher = self.fetcher.clone();
                let Some(place) = self.beside(fetcher.place()).await? else { return Ok(false) };
                let (number, fetcher) = (self.reading.number, self.fetcher.clone());
                self.flying.spawn(async move { (fetch_row(number, row, fetcher).await, place) });
                Ok(true)
            }
        }
    }

    /// Rejects a row that cannot be read, `number` of the whole list; `false` when nobody takes it.
    pub async fn lose(&mut self, label: Label, number: u64, detail: &str) -> Result<bool, ReadError> {
        let index = self.emitted;
        self.emitted += 1;
        let key = self.labels.label(label, number).key;
        self.reading.reject_tail(index, key, detail.to_owned()).await
    }

    /// Hands on what was fetched.
    async fn land(&mut self, landed: Result<(ReadItem, Place), JoinError>) -> Result<bool, ReadError> {
        let (found, place) =
            landed.map_err(|e| self.reading.data(&format!("fetching an image broke down: {e}")))?;
        let taken = match found {
            ReadItem::Sample(sample) => self.reading.send(sample).await,
            other => self.reading.to.send(other).await.is_ok(),
        };
        drop(place);
        Ok(taken)
    }

    /// Waits for what is on its way.
    pub async fn finish(mut self) -> Result<Option<ShardContents>, ReadError> {
        while let Some(landed) = self.flying.join_next().await {
            if !self.land(landed).await? {
                return Ok(None);
            }
        }
        Ok(Some(ShardContents::whole(self.emitted)))
    }

    /// Waits for what is on its way; what follows in the input cannot be read, which is one reject.
    pub async fn finish_broken(self, what: String) -> Result<Option<ShardContents>, ReadError> {
        let (reading, index) = (self.reading, self.emitted);
        let Some(mut end) = self.finish().await? else { return Ok(None) };
        let detail = format!("{what} (behind row {index})");
        end.samples += 1;
        end.damage = Some(Damage { offset: index, detail: detail.clone() });
        Ok(reading.reject_tail(index, String::new(), detail).await?.then_some(end))
    }
}
