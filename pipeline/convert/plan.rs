//! Which samples go into which file. It follows from the commit records alone, so that a rerun finds the same files.
//!
//! Shards of the source are taken in the order of their names. Small ones share a file, as far as they fit whole; a larger one is
//! divided among several files. Every input shard is therefore read once, and new shards at the end change no earlier file but the
//! last.

use recaption_output::second_pass::SourceShard;
use recaption_schemas::sha256_hex;

/// One file of the dataset, or one folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlannedFile {
    /// Its number, from 0.
    pub number: u64,
    /// Rows of the source that go into it.
    pub rows: u64,
}

/// Shards of the source that are converted together, and the files that they fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Positions of the shards in the source.
    pub shards: Vec<usize>,
    /// At least one.
    pub files: Vec<PlannedFile>,
}

impl Group {
    /// Returns the number of the first file, which names the group.
    pub(super) fn number(&self) -> u64 {
        self.files.first().map_or(0, |file| file.number)
    }

    /// Returns the digest of everything that its files depend on, beside the options of the conversion.
    pub(super) fn fingerprint(&self, shards: &[SourceShard]) -> String {
        let mut text = String::new();
        for shard in self.shards.iter().filter_map(|at| shards.get(*at)) {
            let (part, sha256) = (&shard.captions.path, shard.captions.sha256.as_deref().unwrap_or("-"));
            text.push_str(&format!("{} {part} {sha256} {}\n", shard.id, shard.captions.rows));
        }
        for file in &self.files {
            text.push_str(&format!("{} {}\n", file.number, file.rows));
        }
        sha256_hex(text.as_bytes())
    }
}

/// Divides shards of `rows` rows each among files of at most `per_file` rows.
pub(super) fn groups(rows: &[u64], per_file: u64) -> Vec<Group> {
    let (mut groups, mut number) = (Vec::new(), 0);
    let mut open = (Vec::new(), 0);
    let close = |open: &mut (Vec<usize>, u64), number: &mut u64, groups: &mut Vec<Group>| {
        let (shards, rows) = std::mem::take(open);
        if rows > 0 {
            groups.push(Group { shards, files: vec![PlannedFile { number: *number, rows }] });
            *number += 1;
        }
    };
    for (at, rows) in rows.iter().copied().enumerate().filter(|(_, rows)| *rows > 0) {
        if open.1 + rows > per_file {
            close(&mut open, &mut number, &mut groups);
        }
        if rows <= per_file {
            open.0.push(at);
            open.1 += rows;
            continue;
        }
        // As even as possible: trainers prefer shards of one size.
        let files = rows.div_ceil(per_file);
        let files = (0..files)
            .map(|n| PlannedFile { number: number + n, rows: rows * (n + 1) / files - rows * n / files });
        let files: Vec<PlannedFile> = files.collect();
        number += files.len() as u64;
        groups.push(Group { shards: vec![at], files });
    }
    close(&mut open, &mut number, &mut groups);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_shards_share_a_file_and_large_ones_are_divided() {
        let groups = groups(&[3, 0, 4, 4, 25, 2], 10);
        let files = |group: &Group| group.files.iter().map(|f| (f.number, f.rows)).collect::<Vec<_>>();
        let found: Vec<_> = groups.iter().map(|group| (group.shards.clone(), files(group))).collect();
        let expected = vec![
            (vec![0, 2], vec![(0, 7)]),
            (vec![3], vec![(1, 4)]),
            (vec![4], vec![(2, 8), (3, 8), (4, 9)]),
            (vec![5], vec![(5, 2)]),
        ];
        assert_eq!(found, expected);
        assert!(super::groups(&[], 10).is_empty());
    }

    #[test]
    fn every_row_is_in_one_file() {
        for per_file in [1, 2, 3, 7, 100] {
            let rows = [5, 1, 0, 9, 100, 2, 2, 2, 31];
            let groups = groups(&rows, per_file);
            let files: Vec<PlannedFile> = groups.iter().flat_map(|group| group.files.clone()).collect();
            assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), rows.iter().sum::<u64>());
            assert!(files.iter().zip(0..).all(|(f, n)| f.number == n && (1..=per_file).contains(&f.rows)));
        }
    }
}
