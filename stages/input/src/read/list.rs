//! Lists of URLs in text -> samples. Images are fetched many at a time; the position of a row is its index.

use recaption_messages::{ReadStop, ShardContents};

use super::{
    context::ReadContext,
    decompress::Decompressor,
    fetch_queue::FetchQueue,
    open,
    places::{Places, Reservoir},
    sniff,
};
use crate::{
    format::ListKind,
    keys::AssignedKey,
    lists::{ListParser, ListRow},
    shards::{ListPart, TextRange},
};

/// Reads a list in text, compressed or not, or a part of one.
pub(super) async fn read(context: ReadContext<'_>, kind: ListKind) -> Result<ShardContents, ReadStop> {
    Ok(read_some(context, kind, None).await?.0)
}

/// Reads a list, or some of its rows; returns the number of all rows too. All rows are parsed, since numbers and repeated keys
/// depend on those before; the chosen ones are fetched at the end.
pub(super) async fn read_some(
    context: ReadContext<'_>,
    kind: ListKind,
    places: Option<&Places>,
) -> Result<(ShardContents, u64), ReadStop> {
    let settings = context.settings;
    let parser = ListParser::new(kind, settings.columns.clone()).with_setting_names(settings.setting_names);
    let queue = FetchQueue::new(context)?;
    let chosen = places.map(Places::reservoir);
    match context.shard.list_part() {
        Some(ListPart { rows, text: Some(text), .. }) => {
            let parser = parser.with_row_offset(rows.start);
            ListReader { context, kind, parser, queue, chosen }.read_part(text, rows.end - rows.start).await
        }
        _ => ListReader { context, kind, parser, queue, chosen }.read_whole().await,
    }
}

/// A list that is being read.
struct ListReader<'a> {
    context: ReadContext<'a>,
    kind: ListKind,
    parser: ListParser,
    queue: FetchQueue<'a>,
    /// Where only some rows are fetched, those chosen so far.
    chosen: Option<Reservoir<(ListRow, AssignedKey)>>,
}

impl ListReader<'_> {
    async fn read_whole(mut self) -> Result<(ShardContents, u64), ReadStop> {
        let context = self.context;
        let failed = |e: std::io::Error| format!("the packed list cannot be unpacked: {e}");
        let Some(start) = open::open_shard(context).await? else { return self.finish().await };
        let mut stream = Decompressor::detect(&start.bytes).map_err(|e| context.data_error(&failed(e)))?;
        if !stream.is_compressed()
            && let Some(what) = sniff::not_a_list(&start.bytes, self.kind)
        {
            return Err(context.data_error(&what).into());
        }
        let (mut piece, mut rest) = (Some(start.bytes), start.rest);
        while let Some(mut packed) = piece {
            while !packed.is_empty() {
                let bytes = match stream.next(&mut packed) {
                    Ok(bytes) => bytes,
                    Err(e) => return self.finish_damaged(failed(e)).await,
                };
                self.push(&bytes).await?;
            }
            piece = self.queue.while_draining(open::next(&mut rest, context)).await??;
        }
        loop {
            let bytes = match stream.finish() {
                Ok(bytes) => bytes,
                Err(e) => return self.finish_damaged(failed(e)).await,
            };
            if bytes.is_empty() {
                return self.finish().await;
            }
            self.push(&bytes).await?;
        }
    }

    /// Reads the header row and the `rows` rows of a part.
    async fn read_part(mut self, text: &TextRange, rows: u64) -> Result<(ShardContents, u64), ReadStop> {
        let context = self.context;
        for range in [0..text.header_bytes, text.bytes.clone()] {
            let mut pieces = open::open_range(context, range).await?;
            while let Some(piece) = self.queue.while_draining(open::next(&mut pieces, context)).await?? {
                self.push(&piece).await?;
            }
        }
        let (contents, read) = self.finish().await?;
        // A server without entity tags does not report a change.
        if read != rows {
            let what = format!("{read} rows where the list had {rows}: it was changed");
            return Err(context.data_error(&what).into());
        }
        Ok((contents, read))
    }

    /// Parses the next bytes and queues their rows.
    async fn push(&mut self, bytes: &[u8]) -> Result<(), ReadStop> {
        let rows = self.parser.push(bytes).map_err(|e| self.context.data_error(&e))?;
        if self.queue.rows() == 0
            && !rows.is_empty()
            && let Some(columns) = self.parser.describe()
        {
            self.context.settings.usage_log.log("list of URLs", &columns);
        }
        self.push_rows(rows).await
    }

    /// Queues rows, or offers them to the choice.
    async fn push_rows(&mut self, rows: Vec<ListRow>) -> Result<(), ReadStop> {
        let Some(chosen) = &mut self.chosen else { return self.queue.push_rows(rows).await };
        for row in rows {
            let key = self.queue.assign_key(&row);
            chosen.offer((row, key));
        }
        Ok(())
    }

    /// Queues the rows that were chosen, if not all are; returns the number of rows that are not.
    async fn push_chosen(&mut self) -> Result<u64, ReadStop> {
        let Some(mut chosen) = self.chosen.take() else { return Ok(0) };
        let (chosen, all) = (chosen.take(), self.queue.rows());
        let left = all - chosen.len() as u64;
        for (row, key) in chosen {
            self.queue.push_with_key(row, key).await?;
        }
        Ok(left)
    }

    /// Ends a list whose compressed bytes are damaged or truncated: the rows before that are read, and the rest is one reject.
    async fn finish_damaged(mut self, what: String) -> Result<(ShardContents, u64), ReadStop> {
        let rows = self.parser.finish_truncated();
        self.push_rows(rows).await?;
        if self.queue.rows() == 0 {
            return Err(self.context.data_error(&what).into());
        }
        let left = self.push_chosen().await?;
        let contents = self.queue.finish_damaged(what).await?;
        Ok(without(contents, left))
    }

    async fn finish(mut self) -> Result<(ShardContents, u64), ReadStop> {
        let rows = self.parser.finish().map_err(|e| self.context.data_error(&e))?;
        self.push_rows(rows).await?;
        let left = self.push_chosen().await?;
        Ok(without(self.queue.finish().await?, left))
    }
}

/// Returns the contents without rows that were not chosen, and the number of all samples.
fn without(contents: ShardContents, left: u64) -> (ShardContents, u64) {
    let all = contents.samples;
    (ShardContents { samples: all - left, ..contents }, all)
}
