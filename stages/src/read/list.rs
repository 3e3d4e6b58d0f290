//! Lists of addresses -> samples: see [`crate::fetch`]. Fetched many at a time, in no order; a row's position is its index.

use tokio::task::JoinSet;

use super::{Found, ListKind, ReadError, Reading, ShardEnd, Stays, open, unpack::Unpack};
use crate::fetch::{Fetcher, ListParser, ListRow, Rows, fetch_row};

/// Reads a list in text, packed or not.
pub async fn read(reading: Reading<'_>, kind: ListKind) -> Result<Option<ShardEnd>, ReadError> {
    let mut parser = ListParser::new(kind, reading.settings.columns.clone());
    let mut fetching = Fetching::new(reading)?;
    let failed = |e: String| reading.data(&e);
    let unpacked = |e: std::io::Error| reading.data(&format!("the packed list cannot be unpacked: {e}"));
    if let Some(first) = open::first(reading).await? {
        let mut unpack = Unpack::recognise(&first.bytes).map_err(unpacked)?;
        let (mut piece, mut rest) = (Some(first.bytes), first.rest);
        while let Some(mut packed) = piece {
            while !packed.is_empty() {
                let bytes = unpack.next(&mut packed).map_err(unpacked)?;
                for row in parser.push(&bytes).map_err(failed)? {
                    if !fetching.row(row).await? {
                        return Ok(None);
                    }
                }
            }
            piece = open::next(&mut rest, reading).await?;
        }
        loop {
            let bytes = unpack.finish().map_err(unpacked)?;
            if bytes.is_empty() {
                break;
            }
            for row in parser.push(&bytes).map_err(failed)? {
                if !fetching.row(row).await? {
                    return Ok(None);
                }
            }
        }
    }
    for row in parser.finish().map_err(failed)? {
        if !fetching.row(row).await? {
            return Ok(None);
        }
    }
    fetching.finish().await
}

/// Rows on their way.
pub struct Fetching<'a> {
    reading: Reading<'a>,
    fetcher: Fetcher,
    rows: Rows,
    flying: JoinSet<Found>,
    emitted: u64,
}

impl<'a> Fetching<'a> {
    /// Nothing is fetched yet.
    pub fn new(reading: Reading<'a>) -> Result<Self, ReadError> {
        let fetcher = reading.settings.fetcher.clone();
        let fetcher =
            fetcher.ok_or_else(|| reading.data("it is a list of addresses, and nothing is fetched here"))?;
        Ok(Self { reading, fetcher, rows: Rows::default(), flying: JoinSet::new(), emitted: 0 })
    }

    /// Rows so far.
    pub fn emitted(&self) -> u64 {
        self.emitted
    }

    /// Takes the next row; `false` when nobody takes samples.
    pub async fn row(&mut self, row: ListRow) -> Result<bool, ReadError> {
        self.emitted += 1;
        match self.reading.stays(row.index, &row.key).await? {
            Stays::No => {}
            Stays::Told(taken) => return Ok(taken),
        }
        match self.rows.judge(row) {
            Err((index, reject)) => Ok(self.reading.reject(index, reject).await),
            Ok(row) => {
                while self.flying.len() >= self.fetcher.settings().concurrency.max(1) {
                    if !self.land().await? {
                        return Ok(false);
                    }
                }
                self.flying.spawn(fetch_row(self.reading.number, row, self.fetcher.clone()));
                Ok(true)
            }
        }
    }

    /// Hands on what was fetched.
    async fn land(&mut self) -> Result<bool, ReadError> {
        match self.flying.join_next().await {
            None => Ok(true),
            Some(Ok(Found::Sample(sample))) => Ok(self.reading.send(sample).await),
            Some(Ok(other)) => Ok(self.reading.to.send(other).await.is_ok()),
            Some(Err(error)) => Err(self.reading.data(&format!("fetching an image broke down: {error}"))),
        }
    }

    /// Waits for what is on its way.
    pub async fn finish(mut self) -> Result<Option<ShardEnd>, ReadError> {
        while !self.flying.is_empty() {
            if !self.land().await? {
                return Ok(None);
            }
        }
        Ok(Some(ShardEnd::whole(self.emitted, 0)))
    }
}
