//! The shards of a pass, by number.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use recaption_input::shards::ShardRef;

use crate::run::task::Task;

/// All shards of a pass that have a number, from 0 on. The table of a run is complete from the start; that of a worker which is
/// driven from outside grows, and forgets shards that have ended.
#[derive(Debug, Default)]
pub struct Tasks {
    tasks: RwLock<Vec<Option<Arc<Task>>>>,
}

impl Tasks {
    /// Creates the table of shards that are read without being committed.
    pub fn of_shards(shards: impl IntoIterator<Item = ShardRef>) -> Self {
        shards.into_iter().map(|shard| Arc::new(Task::uncommitted(shard))).collect()
    }

    /// Adds a shard and returns its number.
    pub fn push(&self, task: Task) -> usize {
        let mut tasks = self.write();
        tasks.push(Some(Arc::new(task)));
        tasks.len() - 1
    }

    /// Returns the shard of a number; `None` if there never was one, or it was removed.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<Arc<Task>> {
        self.read().get(number)?.clone()
    }

    /// Removes a shard that has ended, and returns it. Its number is not given to another one.
    pub fn remove(&self, number: usize) -> Option<Arc<Task>> {
        self.write().get_mut(number)?.take()
    }

    /// Returns how many numbers were given, those of removed shards included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Returns whether no number was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Option<Arc<Task>>>> {
        self.tasks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Option<Arc<Task>>>> {
        self.tasks.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromIterator<Arc<Task>> for Tasks {
    /// Creates the table of these shards, which get the numbers from 0 on.
    fn from_iter<I: IntoIterator<Item = Arc<Task>>>(tasks: I) -> Self {
        Self { tasks: RwLock::new(tasks.into_iter().map(Some).collect()) }
    }
}
