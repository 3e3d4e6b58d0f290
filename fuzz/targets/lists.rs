//! Any bytes as a list of addresses: rows in order, the same whatever the chunks, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use recaption_input::{columns::Columns, format::ListKind, lists::{ListParser, ListRow}};

fn rows(data: &[u8], kind: ListKind, chunk: usize) -> (Vec<ListRow>, Option<String>) {
    let mut parser = ListParser::new(kind, Columns::default());
    let mut rows = Vec::new();
    for piece in data.chunks(chunk.max(1)) {
        match parser.push(piece) {
            Ok(some) => rows.extend(some),
            Err(error) => return (rows, Some(error)),
        }
    }
    match parser.finish() {
        Ok(some) => rows.extend(some),
        Err(error) => return (rows, Some(error)),
    }
    (rows, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let kind = [ListKind::Csv, ListKind::Tsv, ListKind::JsonLines, ListKind::Text][usize::from(first % 4)];
    let (whole, error) = rows(data, kind, usize::MAX);
    assert!(whole.iter().enumerate().all(|(at, row)| row.index == at as u64));
    let (parts, other) = rows(data, kind, 1 + usize::from(first / 4));
    if error.is_none() {
        assert_eq!((whole, error), (parts, other));
    }
});
