//! The numbers of the shards that are left.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::worker_claims::CLAIM_POLL;

/// A shard that no reader has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) shard: usize,
    /// Whether it is deferred while another worker claims it.
    pub(super) wait: bool,
}

/// What is to be done next.
pub(super) enum Step {
    /// Claim this shard.
    Begin(Waiting),
    /// Look again at this shard, which another worker claimed.
    Retry(usize),
    /// Nothing any more.
    End,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Claimed by other workers when it was their turn.
    deferred: VecDeque<usize>,
    /// Whether shards may still be added.
    is_open: bool,
    keeps_order: bool,
    is_shuffled: bool,
}

/// Shards in the order in which they are begun.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

impl Queue {
    /// Creates a queue of all of `shards`.
    pub(super) fn closed(shards: impl IntoIterator<Item = usize>) -> Self {
        let waiting = shards.into_iter().map(|shard| Waiting { shard, wait: true }).collect();
        Self { state: Mutex::new(State { waiting, ..State::default() }), changed: Notify::new() }
    }

    /// Creates an empty queue that takes shards until it is closed. They keep their order.
    pub(super) fn open() -> Self {
        let state = State { is_open: true, keeps_order: true, ..State::default() };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn keep_order(&mut self) {
        self.lock().keeps_order = true;
    }

    /// Adds a shard.
    pub(super) fn push(&self, waiting: Waiting) {
        self.lock().waiting.push_back(waiting);
        self.changed.notify_one();
    }

    /// Ends the queue once it is empty.
    pub(super) fn close(&self) {
        self.lock().is_open = false;
        self.changed.notify_waiters();
    }

    /// Takes the next shard; waits for one while the queue is open.
    pub(super) async fn take(&self) -> Step {
        loop {
            let changed = self.changed.notified();
            if let Some(step) = self.try_take() {
                return step;
            }
            changed.await;
        }
    }

    fn try_take(&self) -> Option<Step> {
        let mut state = self.lock();
        if let Some(waiting) = state.waiting.pop_front() {
            return Some(Step::Begin(waiting));
        }
        if let Some(shard) = state.deferred.pop_front() {
            return Some(Step::Retry(shard));
        }
        (!state.is_open).then_some(Step::End)
    }

    /// Defers a shard that another worker claims.
    pub(super) fn defer(&self, shard: usize) {
        self.lock().deferred.push_back(shard);
    }

    /// Waits until deferred shards are looked at again, or another shard is there.
    pub(super) async fn pause(&self) {
        let _ = tokio::time::timeout(CLAIM_POLL, self.changed.notified()).await;
    }

    /// Shuffles what is left, once.
    pub(super) fn shuffle(&self) {
        let mut state = self.lock();
        if !state.keeps_order && !std::mem::replace(&mut state.is_shuffled, true) {
            fastrand::shuffle(state.waiting.make_contiguous());
        }
    }

    /// Returns the number of shards that were not taken.
    pub(super) fn len(&self) -> usize {
        let state = self.lock();
        state.waiting.len() + state.deferred.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
