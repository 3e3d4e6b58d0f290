//! Which shards a run takes first: a seeded order that depends on each shard's id alone.
//!
//! `run --sample` takes a share of that order, and `run --limit` its beginning. Other shards that come or go change neither the
//! place nor the choice of a shard.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use recaption_input::shards::ShardRef;
use recaption_output::second_pass::Fraction;
use recaption_schemas::ShardId;

use super::{array_task::ArrayTask, options::RunOptions, rank::rank};

/// The shards that the options of a run select among all.
pub(super) struct Selection {
    since: Option<DateTime<Utc>>,
    share: Option<HashSet<ShardId>>,
    /// The task whose share alone is processed.
    task: Option<ArrayTask>,
}

impl Selection {
    /// Selects among the shards of a run, parts of lists included.
    pub(super) fn new(shards: &[ShardRef], options: &RunOptions, seed: u64) -> Self {
        let share = options.sample.map(|fraction| share_of(shards, fraction, seed));
        Self { since: options.since, share, task: options.task.filter(|task| !task.steal) }
    }

    /// Returns whether a shard is in the share of `--sample` and of a task that does not help others, and was modified since
    /// `--since`, as far as its store knows.
    pub(super) fn has(&self, shard: &ShardRef) -> bool {
        let is_old = |since| shard.modified().is_some_and(|modified| modified < since);
        let is_in = |share: &HashSet<ShardId>| share.contains(&shard.id);
        !self.since.is_some_and(is_old)
            && self.share.as_ref().is_none_or(is_in)
            && self.task.is_none_or(|task| task.owns(&shard.id))
    }
}

/// Returns the names of the shards that are this share: those below it in the seeded order, or else the first one.
fn share_of(shards: &[ShardRef], fraction: Fraction, seed: u64) -> HashSet<ShardId> {
    let ids: Vec<&ShardId> = shards.iter().map(|shard| &shard.id).collect();
    choose(&ids, fraction, seed)
}

fn choose(ids: &[&ShardId], fraction: Fraction, seed: u64) -> HashSet<ShardId> {
    let most = fraction.of(u64::MAX);
    let ranked: Vec<(u64, &ShardId)> = ids.iter().map(|id| (rank(seed, id), *id)).collect();
    let chosen: HashSet<ShardId> =
        ranked.iter().filter(|(rank, _)| *rank <= most).map(|(_, id)| (*id).clone()).collect();
    if chosen.is_empty() {
        ranked.into_iter().min().map(|(_, id)| id.clone()).into_iter().collect()
    } else {
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(ids: &[ShardId], fraction: &str, seed: u64) -> HashSet<ShardId> {
        choose(&ids.iter().collect::<Vec<_>>(), fraction.parse().expect("a fraction"), seed)
    }

    #[test]
    fn larger_shares_include_smaller_ones_and_new_shards_change_nothing() {
        let ids: Vec<ShardId> = (0..1000).map(|n| ShardId::from_url(&format!("s3://b/{n:05}.tar"))).collect();
        let [tenth, half, all] = ["0.1", "0.5", "1"].map(|fraction| chosen(&ids, fraction, 7));
        assert!((60..140).contains(&tenth.len()), "{}", tenth.len());
        assert!((430..570).contains(&half.len()), "{}", half.len());
        assert!(tenth.is_subset(&half) && all.len() == 1000);
        let few = chosen(&ids[..500], "0.1", 7);
        let of_few: HashSet<ShardId> = tenth.iter().filter(|id| ids[..500].contains(id)).cloned().collect();
        assert_eq!(few, of_few, "a shard's choice does not depend on the others");
        assert_ne!(chosen(&ids, "0.1", 8), tenth, "another seed, another share");
    }

    #[test]
    fn at_least_one_shard_is_chosen() {
        let ids: Vec<ShardId> = (0..3).map(|n| ShardId::from_url(&format!("s3://b/{n}.tar"))).collect();
        let one = chosen(&ids, "0.000000001", 0);
        assert_eq!(one.len(), 1);
        assert!(one.is_subset(&chosen(&ids, "1", 0)));
        assert!(chosen(&[], "0.5", 0).is_empty());
    }
}
