//! Row groups of a Parquet list -> parts.

use std::ops::Range;

use crate::{read::table::RowGroup, shards::ListPart};

/// Most parts of one row group: each part downloads the whole group.
const MAX_PARTS_PER_GROUP: u64 = 16;

/// Returns parts of about `rows_per_shard` rows: several whole row groups, or a piece of a long one.
pub(super) fn parts(groups: &[RowGroup], rows_per_shard: u64) -> Vec<ListPart> {
    let mut parts = Vec::new();
    let mut end = |rows: Range<u64>, bytes: u64| {
        if !rows.is_empty() {
            parts.push(ListPart { number: parts.len(), rows, bytes, text: None });
        }
    };
    let (mut begin, mut at, mut bytes) = (0_u64, 0_u64, 0_u64);
    for group in groups {
        // A footer may claim any number.
        let after = at.saturating_add(group.rows);
        if after - begin > rows_per_shard {
            end(begin..at, bytes);
            (begin, bytes) = (at, 0);
        }
        if group.rows > rows_per_shard {
            let pieces = group.rows.div_ceil(rows_per_shard).min(MAX_PARTS_PER_GROUP);
            let rows = group.rows.div_ceil(pieces);
            for from in (at..after).step_by(usize::try_from(rows).unwrap_or(usize::MAX)) {
                end(from..after.min(from.saturating_add(rows)), group.bytes);
            }
            begin = after;
        } else {
            bytes = bytes.saturating_add(group.bytes);
        }
        at = after;
    }
    end(begin..at, bytes);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(groups: &[u64], rows_per_shard: u64) -> Vec<(Range<u64>, u64)> {
        let groups: Vec<RowGroup> =
            groups.iter().map(|rows| RowGroup { rows: *rows, bytes: *rows * 10 }).collect();
        let parts = parts(&groups, rows_per_shard);
        assert!(parts.iter().enumerate().all(|(n, part)| part.number == n && part.text.is_none()));
        parts.into_iter().map(|part| (part.rows, part.bytes)).collect()
    }

    #[test]
    fn parts_are_whole_row_groups_or_pieces_of_one() {
        assert_eq!(rows(&[], 10), []);
        assert_eq!(rows(&[0, 10, 0], 10), [(0..10, 100)]);
        assert_eq!(rows(&[4, 4, 4, 2], 10), [(0..8, 80), (8..14, 60)]);
        assert_eq!(
            rows(&[4, 25, 3], 10),
            [(0..4, 40), (4..13, 250), (13..22, 250), (22..29, 250), (29..32, 30)]
        );
        let long = rows(&[1_000_000], 10_000);
        assert_eq!(long.len(), 16, "a group is downloaded at most sixteen times");
        assert_eq!((long[0].0.clone(), long[15].0.clone()), (0..62_500, 937_500..1_000_000));
    }

    #[test]
    fn every_row_is_in_one_part() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..1000 {
            let groups: Vec<u64> = (0..rng.usize(0..8)).map(|_| rng.u64(0..60)).collect();
            let parts = rows(&groups, rng.u64(1..30));
            let mut at = 0;
            for (part, _) in &parts {
                assert!(part.start == at && part.end > at, "{groups:?}: {parts:?}");
                at = part.end;
            }
            assert_eq!(at, groups.iter().sum::<u64>());
        }
    }
}
