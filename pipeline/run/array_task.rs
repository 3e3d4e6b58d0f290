//! Which shards are a task's of an array job: a stable hash of each shard's name, modulo the number of tasks.
//!
//! A shard's task depends on its name and the number of tasks alone. Shards that come or go move no other one; another number
//! of tasks deals anew.

use recaption_schemas::ShardId;
use serde::Serialize;

use super::rank::rank;

/// Seed of the hash. Not `run.seed`: tasks with different seeds must agree, and a share of `--sample` is dealt too.
const SEED: u64 = 0;

/// One task of an array job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ArrayTask {
    /// Number of the task, from 0 to `count` - 1.
    pub index: u32,
    /// Number of tasks, at least 1.
    pub count: u32,
    /// Whether the task helps with the shards of others once its own are done.
    pub steal: bool,
}

impl ArrayTask {
    /// Returns whether a shard is in this task's share.
    #[must_use]
    pub fn owns(&self, shard: &ShardId) -> bool {
        self.owner(shard) == self.index
    }

    /// Returns the number of the task in whose share a shard is.
    #[must_use]
    pub fn owner(&self, shard: &ShardId) -> u32 {
        (rank(SEED, shard) % u64::from(self.count.max(1))) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(number: usize) -> ShardId {
        ShardId::from_url(&format!("s3://bucket/{number:05}.tar"))
    }

    /// The task that each of so many shards belongs to.
    fn dealt(shards: usize, count: u32) -> Vec<u32> {
        let owner = |number| {
            let id = shard(number);
            let owners: Vec<u32> = (0..count)
                .filter(|index| ArrayTask { index: *index, count, steal: true }.owns(&id))
                .collect();
            assert_eq!(owners.len(), 1, "shard {number} belongs to one task");
            owners[0]
        };
        (0..shards).map(owner).collect()
    }

    #[test]
    fn every_shard_belongs_to_one_task_and_shares_are_even() {
        let tasks = dealt(4000, 7);
        for index in 0..7 {
            let share = tasks.iter().filter(|task| **task == index).count();
            assert!((500..650).contains(&share), "task {index} has {share} of 4000 shards");
        }
    }

    #[test]
    fn further_shards_move_no_other_one() {
        assert_eq!(dealt(500, 5)[..300], dealt(300, 5));
    }

    /// Tasks of different versions work on one output: the deal is part of the interface.
    #[test]
    fn deals_stay_the_same_in_later_versions() {
        assert_eq!(dealt(16, 4), [0, 0, 0, 0, 1, 3, 2, 0, 0, 0, 1, 2, 2, 1, 1, 0]);
    }
}
