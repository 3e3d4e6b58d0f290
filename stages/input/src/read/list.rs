//! Lists of addresses -> samples: see [`crate::fetch`]. Fetched many at a time, in no order; a row's position is its index.

use std::pin::pin;

use recaption_schemas::Damage;
use tokio::task::{JoinError, JoinSet};

use super::{ListKind, Reading, open, sniff, unpack::Unpack};
use crate::{
    fetch::{FetchResult, FetchRow, Fetcher, ListParser, ListRow, Place, fetch_row},
    label::{Label, Labels},
    shards::{Part, TextPart},
};
use recaption_messages::{ReadError, ReadStop, ShardContents};

/// Reads a list in text, packed or not, or a part of one.
pub async fn read(reading: Reading<'_>, kind: ListKind) -> Result<ShardContents, ReadStop> {
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
    async fn whole(mut self) -> Result<ShardContents, ReadStop> {
        let reading = self.reading;
        let failed = |e: std::io::Error| format!("the packed list cannot be unpacked: {e}");
        if let Some(first) = open::first(reading).await? {
            let mut unpack = Unpack::recognise(&first.bytes).map_err(|e| reading.data(&failed(e)))?;
            if !unpack.is_packed()
                && let Some(what) = sniff::not_a_list(&first.bytes, self.kind)
            {
                return Err(reading.data(&what).into());
            }
            let (mut piece, mut rest) = (Some(first.bytes), first.rest);
            while let Some(mut packed) = piece {
                while !packed.is_empty() {
                    let bytes = match unpack.next(&mut packed) {
                        Ok(bytes) => bytes,
                        Err(e) => return self.broken(failed(e)).await,
                    };
                    self.take(&bytes).await?;
                }
                piece = self.fetching.beside(open::next(&mut rest, reading)).await??;
            }
            loop {
                let bytes = match unpack.finish() {
                    Ok(bytes) => bytes,
                    Err(e) => return self.broken(failed(e)).await,
                };
                if bytes.is_empty() {
                    break;
                }
                self.take(&bytes).await?;
            }
        }
        self.finish().await
    }

    async fn part(mut self, text: &TextPart, rows: u64) -> Result<ShardContents, ReadStop> {
        let reading = self.reading;
        for range in [0..text.names, text.bytes.clone()] {
            let mut pieces = open::range(reading, range).await?;
            loop {
                let Some(piece) = self.fetching.beside(open::next(&mut pieces, reading)).await?? else {
                    break;
                };
                self.take(&piece).await?;
            }
        }
        let contents = self.finish().await?;
        // A server without ETags reports no change by itself.
        if contents.samples != rows {
            let what = format!("{} rows where the list had {rows}: it was changed", contents.samples);
            return Err(reading.data(&what).into());
        }
        Ok(contents)
    }

    /// Takes the list's next bytes.
    async fn take(&mut self, bytes: &[u8]) -> Result<(), ReadStop> {
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
    async fn broken(mut self, what: String) -> Result<ShardContents, ReadStop> {
        let rows = self.parser.finish_broken();
        self.fetching.rows(rows).await?;
        if self.fetching.emitted() == 0 {
            return Err(self.reading.data(&what).into());
        }
        self.fetching.finish_broken(what).await
    }

    async fn finish(mut self) -> Result<ShardContents, ReadStop> {
        let rows = self.parser.finish().map_err(|e| self.reading.data(&e))?;
        self.fetching.rows(rows).await?;
        self.fetching.finish().await
    }
}

/// Rows on their way.
pub struct Fetching<'a> {
    reading: Reading<'a>,
    fetcher: Fetcher,
    labels: Labels,
    in_flight: JoinSet<(FetchResult, Place)>,
    emitted: u64,
}

impl<'a> Fetching<'a> {
    /// Nothing is fetched yet.
    pub fn new(reading: Reading<'a>) -> Result<Self, ReadError> {
        let fetcher = reading.settings.fetcher.clone();
        let fetcher =
            fetcher.ok_or_else(|| reading.data("it is a list of addresses, and nothing is fetched here"))?;
        Ok(Self { reading, fetcher, labels: Labels::default(), in_flight: JoinSet::new(), emitted: 0 })
    }

    /// Rows so far.
    pub fn emitted(&self) -> u64 {
        self.emitted
    }

    /// Takes the next rows.
    pub async fn rows(&mut self, rows: Vec<ListRow>) -> Result<(), ReadStop> {
        for row in rows {
            self.row(row).await?;
        }
        Ok(())
    }

    /// Awaits `work`, and meanwhile sends on what was fetched. All lists share the fetch permits, and an image keeps its own
    /// until it is sent on, so a list that waits must keep sending.
    pub async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ReadStop> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                Some(fetched) = self.in_flight.join_next() => self.on_fetched(fetched).await?,
            }
        }
    }

    async fn row(&mut self, mut row: ListRow) -> Result<(), ReadStop> {
        self.emitted += 1;
        let first = self.reading.shard.part.as_ref().map_or(0, |part| part.rows.start);
        let labelled = self.labels.label(row.label.clone(), first + row.index);
        let captions = std::mem::take(&mut row.captions);
        let caption = self.reading.settings.captions.pick(&labelled.key, &captions);
        self.reading.tally.caption(caption.as_ref());
        if self.reading.keep_previous(row.index, &labelled.key).await? {
            return Ok(());
        }
        let index = row.index;
        match FetchRow::of(row, labelled, caption) {
            Err(reject) => Ok(self.reading.reject(index, *reject).await?),
            Ok(row) => {
                let fetcher = self.fetcher.clone();
                let place = self.beside(fetcher.place()).await?;
                let (number, fetcher) = (self.reading.number, self.fetcher.clone());
                self.in_flight.spawn(async move { (fetch_row(number, row, fetcher).await, place) });
                Ok(())
            }
        }
    }

    /// Rejects a row that cannot be read, `number` of the whole list.
    pub async fn lose(&mut self, label: Label, number: u64, detail: &str) -> Result<(), ReadStop> {
        let index = self.emitted;
        self.emitted += 1;
        let key = self.labels.label(label, number).key;
        self.reading.reject_tail(index, key, detail.to_owned()).await
    }

    /// Sends on what was fetched.
    async fn on_fetched(&mut self, fetched: Result<(FetchResult, Place), JoinError>) -> Result<(), ReadStop> {
        let (result, place) =
            fetched.map_err(|e| self.reading.data(&format!("fetching an image broke down: {e}")))?;
        match result {
            Ok(sample) => self.reading.send(sample).await?,
            Err((index, reject)) => self.reading.reject(index, *reject).await?,
        }
        drop(place);
        Ok(())
    }

    /// Waits for all fetches in flight.
    pub async fn finish(mut self) -> Result<ShardContents, ReadStop> {
        while let Some(fetched) = self.in_flight.join_next().await {
            self.on_fetched(fetched).await?;
        }
        Ok(ShardContents::whole(self.emitted))
    }

    /// Waits for all fetches in flight; what follows in the input cannot be read, which is one reject.
    pub async fn finish_broken(self, what: String) -> Result<ShardContents, ReadStop> {
        let (reading, index) = (self.reading, self.emitted);
        let mut contents = self.finish().await?;
        let detail = format!("{what} (behind row {index})");
        contents.samples += 1;
        contents.damage = Some(Damage { offset: index, detail: detail.clone() });
        reading.reject_tail(index, String::new(), detail).await?;
        Ok(contents)
    }
}
