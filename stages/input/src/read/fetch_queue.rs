//! Rows of a list -> samples: fetches in flight, and the keys of the rows.

use std::pin::pin;

use recaption_messages::{ReadError, ReadStop, ShardContents};
use recaption_schemas::Damage;
use tokio::task::{JoinError, JoinSet};

use super::context::ReadContext;
use crate::{
    fetch::{FetchPermit, FetchResult, FetchRow, Fetcher, fetch_row},
    keys::{AssignedKey, KeyAssigner, RowKey},
    lists::ListRow,
};

/// The rows of a list that are being fetched, in any order.
///
/// All lists of a run share the fetch permits, and an image keeps its own until it is sent on. A list that waits for anything
/// must therefore keep sending: see [`FetchQueue::while_draining`].
pub(super) struct FetchQueue<'a> {
    context: ReadContext<'a>,
    fetcher: Fetcher,
    keys: KeyAssigner,
    in_flight: JoinSet<(FetchResult, FetchPermit)>,
    rows: u64,
}

impl<'a> FetchQueue<'a> {
    /// Creates an empty queue.
    ///
    /// # Errors
    /// When fetching is not configured.
    pub(super) fn new(context: ReadContext<'a>) -> Result<Self, ReadError> {
        let fetcher = context.settings.fetcher.clone();
        let fetcher = fetcher
            .ok_or_else(|| context.data_error("it is a list of URLs, and fetching is not configured"))?;
        Ok(Self { context, fetcher, keys: KeyAssigner::default(), in_flight: JoinSet::new(), rows: 0 })
    }

    /// Returns the number of rows so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Begins to fetch rows, as permits allow, and rejects those that are malformed.
    pub(super) async fn push_rows(&mut self, rows: Vec<ListRow>) -> Result<(), ReadStop> {
        for row in rows {
            self.push_row(row).await?;
        }
        Ok(())
    }

    async fn push_row(&mut self, row: ListRow) -> Result<(), ReadStop> {
        let key = self.assign_key(&row);
        self.push_with_key(row, key).await
    }

    /// Counts the next row, and returns its key.
    pub(super) fn assign_key(&mut self, row: &ListRow) -> AssignedKey {
        self.rows += 1;
        let first = self.context.shard.list_part().map_or(0, |part| part.rows.start);
        self.keys.assign(row.key.clone(), first + row.index)
    }

    /// Begins to fetch a row that has its key, or rejects it if it is malformed.
    pub(super) async fn push_with_key(&mut self, mut row: ListRow, key: AssignedKey) -> Result<(), ReadStop> {
        let captions = std::mem::take(&mut row.captions);
        let caption = self.context.settings.captions.pick(&key.key, &captions);
        self.context.counts.count_caption(caption.as_ref());
        if self.context.keep_previous(row.index, &key.key).await? {
            return Ok(());
        }
        let index = row.index;
        match FetchRow::new(row, key, caption) {
            Err(reject) => Ok(self.context.reject(index, *reject).await?),
            Ok(row) => {
                let fetcher = self.fetcher.clone();
                let permit = self.while_draining(fetcher.permit()).await?;
                let number = self.context.number;
                self.in_flight.spawn(async move { (fetch_row(number, row, fetcher).await, permit) });
                Ok(())
            }
        }
    }

    /// Awaits `work`, and meanwhile sends on what was fetched.
    pub(super) async fn while_draining<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ReadStop> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                Some(fetched) = self.in_flight.join_next() => self.on_fetched(fetched).await?,
            }
        }
    }

    /// Sends on the result of a fetch.
    async fn on_fetched(
        &mut self,
        fetched: Result<(FetchResult, FetchPermit), JoinError>,
    ) -> Result<(), ReadStop> {
        let (result, permit) =
            fetched.map_err(|e| self.context.data_error(&format!("fetching an image failed: {e}")))?;
        match result {
            Ok(sample) => self.context.send(sample).await?,
            Err((index, reject)) => self.context.reject(index, *reject).await?,
        }
        drop(permit);
        Ok(())
    }

    /// Rejects a row that cannot be read, number `number` of the whole list.
    pub(super) async fn reject_lost_row(
        &mut self,
        key: RowKey,
        number: u64,
        detail: &str,
    ) -> Result<(), ReadStop> {
        let index = self.rows;
        self.rows += 1;
        let key = self.keys.assign(key, number).key;
        self.context.reject_tail(index, key, detail.to_owned()).await
    }

    /// Waits for all fetches in flight.
    pub(super) async fn finish(mut self) -> Result<ShardContents, ReadStop> {
        while let Some(fetched) = self.in_flight.join_next().await {
            self.on_fetched(fetched).await?;
        }
        Ok(ShardContents::whole(self.rows))
    }

    /// Waits for all fetches in flight, and rejects the unreadable rest of the list as one sample.
    pub(super) async fn finish_damaged(self, what: String) -> Result<ShardContents, ReadStop> {
        let (context, index) = (self.context, self.rows);
        let mut contents = self.finish().await?;
        let detail = format!("{what} (behind row {index})");
        contents.samples += 1;
        contents.damage = Some(Damage { offset: index, detail: detail.clone() });
        context.reject_tail(index, String::new(), detail).await?;
        Ok(contents)
    }
}
