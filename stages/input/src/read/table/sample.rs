//! Some rows of a table.
//!
//! With an index of pages only the pages of the chosen rows are downloaded; without one, whole row groups are, so that the rows are
//! taken from a tenth of them.

use std::collections::VecDeque;

use arrow_array::RecordBatch;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use recaption_messages::{ReadError, ReadStop, ShardContents};
use recaption_schemas::Damage;

use super::{
    TableReader,
    columns::ColumnRoles,
    footer::{OpenTable, batch_rows, open},
    list_rows,
    row_groups::{RowRange, RowReader, TableChunk, row_ranges},
};
use crate::{
    keys::RowKey,
    read::{context::ReadContext, fetch_queue::FetchQueue, places::Places},
};

/// One of how many row groups is read where there is no index of pages.
const GROUPS_PER_READ: usize = 10;

/// Reads the rows at some places, and returns the number of all rows too.
pub(in crate::read) async fn read_some(
    context: ReadContext<'_>,
    places: &Places,
) -> Result<(ShardContents, u64), ReadStop> {
    let OpenTable { metadata, roles, mask } = open(context, PageIndexPolicy::Optional).await?;
    let kind = if roles.has_image() { "Parquet" } else { "Parquet list of URLs" };
    context.settings.usage_log.log(kind, &roles.describe());
    let selected = context.shard.list_part().map(|part| part.rows.clone());
    let (ranges, all) = row_ranges(&metadata, selected.as_ref());
    let first = selected.as_ref().map_or(0, |rows| rows.start);
    let total = selected.map_or(all, |rows| rows.end.min(all).saturating_sub(rows.start));
    let has_index = metadata.page_index().is_some_and(|index| index.has_offset_indexes());
    let ranges: Vec<RowRange> = ranges.into();
    let chosen = choose(&ranges, &first_rows(&metadata), places, has_index);
    let batch_rows = batch_rows(&metadata, &mask);
    let ranges = chosen.iter().map(|chosen| chosen.range).collect::<VecDeque<_>>();
    let reader = ChosenRows::new(RowReader::new(context, (metadata, mask), batch_rows, ranges), chosen);
    let contents = if roles.has_image() {
        read_images(context, TableReader::new(context, roles), reader).await?
    } else {
        read_list(context, reader, &roles, first).await?
    };
    Ok((contents, total))
}

/// Rows to read together, and those among them that are chosen.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    range: RowRange,
    /// Number of the range's first row in the table.
    first: u64,
    /// Numbers of the chosen rows in the table, ascending.
    rows: VecDeque<u64>,
}

/// Returns the number of each row group's first row.
fn first_rows(metadata: &ParquetMetaData) -> Vec<u64> {
    let rows = metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0));
    let first = |at: &mut u64, rows: u64| {
        let first = *at;
        *at = at.saturating_add(rows);
        Some(first)
    };
    rows.scan(0, first).collect()
}

/// Chooses rows among `ranges`, each the rows of one row group, and returns what to read for them.
fn choose(ranges: &[RowRange], first_rows: &[u64], places: &Places, has_index: bool) -> Vec<Chosen> {
    let most = if has_index { usize::MAX } else { ranges.len().div_ceil(GROUPS_PER_READ) };
    let ranges: Vec<RowRange> = match ranges.len() > most {
        true => groups_at(ranges, &places.thinned(most)),
        false => ranges.to_vec(),
    };
    let rows = ranges.iter().fold(0, |sum: u64, range| sum.saturating_add(range.rows));
    let mut numbers = places.numbers_below(rows).into_iter().peekable();
    let (mut before, mut chosen) = (0, Vec::new());
    for range in ranges {
        let first = first_rows.get(range.group).copied().unwrap_or(0) + range.offset;
        let mut rows = VecDeque::new();
        while let Some(number) = numbers.next_if(|number| *number < before + range.rows) {
            rows.push_back(first + (number - before));
        }
        before += range.rows;
        if has_index {
            chosen.extend(rows.into_iter().map(|row| {
                let range = RowRange { group: range.group, offset: range.offset + (row - first), rows: 1 };
                Chosen { range, first: row, rows: [row].into() }
            }));
        } else if let (Some(begin), Some(end)) = (rows.front().copied(), rows.back().copied()) {
            let (offset, rows_to_read) = (range.offset + (begin - first), end - begin + 1);
            let range = RowRange { group: range.group, offset, rows: rows_to_read };
            chosen.push(Chosen { range, first: begin, rows });
        }
    }
    chosen
}

/// Returns the row groups in which the places are.
fn groups_at(ranges: &[RowRange], places: &Places) -> Vec<RowRange> {
    let rows = ranges.iter().fold(0, |sum: u64, range| sum.saturating_add(range.rows));
    let (mut end, mut offsets) = (0_u64, places.offsets(rows).peekable());
    let mut groups = Vec::new();
    for range in ranges {
        end = end.saturating_add(range.rows);
        let mut is_hit = false;
        while offsets.next_if(|offset| *offset < end).is_some() {
            is_hit = true;
        }
        if is_hit {
            groups.push(*range);
        }
    }
    groups
}

/// A part of what was read: chosen rows of a batch, or a chosen row that is lost.
enum ChosenChunk {
    /// A row, with its number in the table.
    Row(RecordBatch, u64),
    /// A row that cannot be decoded, its number, and why.
    Lost(u64, String),
}

/// Reads the chosen rows.
struct ChosenRows<'a> {
    reader: RowReader<'a>,
    chosen: VecDeque<Chosen>,
    ready: VecDeque<ChosenChunk>,
}

impl<'a> ChosenRows<'a> {
    fn new(reader: RowReader<'a>, chosen: Vec<Chosen>) -> Self {
        Self { reader, chosen: chosen.into(), ready: VecDeque::new() }
    }

    async fn next(&mut self) -> Result<Option<ChosenChunk>, ReadError> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            let Some(chunk) = self.reader.next().await? else { return Ok(None) };
            let Some(chosen) = self.chosen.front_mut() else { return Ok(None) };
            let begin = chosen.first;
            let rows = match &chunk {
                TableChunk::Rows(batch) => batch.num_rows() as u64,
                TableChunk::Lost(lost) => lost.rows,
            };
            let is_within = |row: &mut u64| *row - begin < rows;
            while let Some(row) = chosen.rows.pop_front_if(is_within) {
                self.ready.push_back(match &chunk {
                    TableChunk::Rows(batch) => {
                        let at = usize::try_from(row - begin).unwrap_or(usize::MAX);
                        ChosenChunk::Row(batch.slice(at, 1), row)
                    }
                    TableChunk::Lost(lost) => ChosenChunk::Lost(row, lost.detail(begin, begin + rows)),
                });
            }
            (chosen.first, chosen.range.rows) = (begin + rows, chosen.range.rows.saturating_sub(rows));
            if chosen.range.rows == 0 {
                self.chosen.pop_front();
            }
        }
    }
}

/// Sends the chosen images of a table.
async fn read_images(
    context: ReadContext<'_>,
    mut table: TableReader<'_>,
    mut rows: ChosenRows<'_>,
) -> Result<ShardContents, ReadStop> {
    let mut damage = None;
    while let Some(chunk) = rows.next().await? {
        match chunk {
            ChosenChunk::Row(batch, row) => table.send_rows(&batch, row).await?,
            ChosenChunk::Lost(row, detail) => {
                damage.get_or_insert(Damage { offset: row, detail: detail.clone() });
                let (index, key) = (table.samples, table.keys.assign(RowKey::of_number(row), row).key);
                table.samples += 1;
                context.reject_tail(index, key, detail).await?;
            }
        }
    }
    Ok(ShardContents { damage, ..ShardContents::whole(table.samples) })
}

/// Fetches the chosen images of a table of URLs, or of its part that begins at row number `first`.
async fn read_list(
    context: ReadContext<'_>,
    mut rows: ChosenRows<'_>,
    roles: &ColumnRoles,
    first: u64,
) -> Result<ShardContents, ReadStop> {
    let mut queue = FetchQueue::new(context)?;
    let mut damage = None;
    while let Some(chunk) = queue.while_draining(rows.next()).await?? {
        match chunk {
            ChosenChunk::Row(batch, row) => {
                let rows =
                    list_rows(roles, &batch, (row - first, row)).map_err(|e| context.data_error(&e))?;
                queue.push_rows(rows).await?;
            }
            ChosenChunk::Lost(row, detail) => {
                damage.get_or_insert(Damage { offset: row, detail: detail.clone() });
                queue.reject_lost_row(RowKey::of_number(row), row, &detail).await?;
            }
        }
    }
    Ok(ShardContents { damage, ..queue.finish().await? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(groups: &[u64]) -> (Vec<RowRange>, Vec<u64>) {
        let ranges = groups.iter().enumerate();
        let ranges = ranges.map(|(group, rows)| RowRange { group, offset: 0, rows: *rows }).collect();
        let firsts = groups.iter().scan(0, |at, rows| Some(std::mem::replace(at, *at + rows))).collect();
        (ranges, firsts)
    }

    #[test]
    fn without_an_index_few_row_groups_are_read() {
        let (groups, firsts) = ranges(&[10; 20]);
        let places = Places::new((0..8).map(|n| f64::from(n) / 8.0).collect(), 0);
        let chosen = choose(&groups, &firsts, &places, false);
        let read: Vec<usize> = chosen.iter().map(|chosen| chosen.range.group).collect();
        assert_eq!(read, [0, 10], "a tenth of the groups");
        let rows: Vec<u64> = chosen.iter().flat_map(|chosen| chosen.rows.clone()).collect();
        assert_eq!(rows, [0, 2, 5, 7, 100, 102, 105, 107]);
        assert_eq!(chosen[1].range, RowRange { group: 10, offset: 0, rows: 8 });
    }

    #[test]
    fn with_an_index_every_row_is_read_by_itself() {
        let (mut groups, firsts) = ranges(&[10; 20]);
        // A part of a list that begins within a row group.
        groups.drain(..3);
        groups[0] = RowRange { group: 3, offset: 4, rows: 6 };
        let places = Places::new(vec![0.0, 0.5, 0.99], 0);
        let chosen = choose(&groups, &firsts, &places, true);
        let rows: Vec<(usize, u64, u64)> =
            chosen.iter().map(|chosen| (chosen.range.group, chosen.range.offset, chosen.first)).collect();
        // 166 rows, of which the first is number 34.
        assert_eq!(rows, [(3, 4, 34), (11, 7, 117), (19, 8, 198)]);
        assert!(chosen.iter().all(|chosen| chosen.range.rows == 1 && chosen.rows == [chosen.first]));
    }
}
