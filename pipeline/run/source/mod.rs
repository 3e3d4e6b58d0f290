//! Which shard is next, given what other workers do.
//!
//! Readers take shards from a [`ShardSource`]. It claims them for this worker, and hands out those that other workers claimed
//! once they are committed, or their workers are dead. Claims save work, nothing else: see `docs/src/commit-protocol.md`.
//!
//! | file | what |
//! |---|---|
//! | `tasks` | [`Tasks`]: the shards by number |
//! | `worker_claims` | [`WorkerClaims`]: claims and commit records of these shards |
//! | `listing` | what is claimed and committed of many shards, for a few requests |
//! | `state` | the shards that no reader has, in all states |
//!
//! A worker claims its own shards one after the other: all, in a run without an array job, or a task's share. All others it looks
//! at in listings, which cost a request per thousand, and claims only what is listed as neither claimed nor committed. So the
//! requests of a run stay near one claim per shard, whatever the number of workers. A worker whose shards turn out to be shared
//! does the same with what is left. Every worker goes through the groups of shards in an order of its own, so that workers that
//! help with the same shards rarely meet.
//!
//! Time is tokio's, so that a paused clock works.

mod listing;
mod state;
mod tasks;
#[cfg(test)]
mod tests;
mod worker_claims;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use recaption_output::commits::ClaimAttempt;
use tokio::{sync::Notify, time::Instant};

use self::state::{Order, State, Step, Waiting};
pub use self::{tasks::Tasks, worker_claims::WorkerClaims};

/// What a reader does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Reads this shard, which this worker claims.
    Read(usize),
    /// Reports that another worker committed this shard.
    CommittedByOther(usize),
    /// Reports that another worker claims this shard, which was added with `wait` = false.
    Claimed(usize),
    /// Ends: no shard is left.
    Nothing,
}

/// The shards that no reader has begun.
pub struct ShardSource {
    claims: Option<WorkerClaims>,
    state: Mutex<State>,
    changed: Notify,
}

impl ShardSource {
    fn new(state: State, claims: Option<WorkerClaims>) -> Self {
        Self { claims, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Creates a source of these shards, begun in this order as long as no other worker processes the same ones. Without
    /// `claims` all are read.
    pub fn fixed(order: impl IntoIterator<Item = usize>, claims: Option<WorkerClaims>) -> Self {
        Self::new(State::new(Order::UntilShared, order, Vec::new()), claims)
    }

    /// Creates the source of a task of an array job: its own shards in this order, then what is left of the others.
    pub fn dealt(
        own: impl IntoIterator<Item = usize>,
        others: impl IntoIterator<Item = usize>,
        claims: Option<WorkerClaims>,
    ) -> Self {
        Self::new(State::new(Order::OwnFirst, own, others.into_iter().collect()), claims)
    }

    /// Creates a source without shards, to which shards may be added until [`ShardSource::close`].
    #[must_use]
    pub fn open(claims: Option<WorkerClaims>) -> Self {
        Self::new(State::open(), claims)
    }

    /// Keeps the order also when other workers process the same shards.
    #[must_use]
    pub fn in_order(self) -> Self {
        self.lock().keep_order();
        self
    }

    /// Adds a shard. With `wait` one that another worker claims is handed out once it is committed or that worker is dead,
    /// without it at once as [`Next::Claimed`].
    pub fn add(&self, shard: usize, wait: bool) {
        self.lock().push(Waiting { shard, wait });
        self.changed.notify_waiters();
    }

    /// Ends the source once the shards that were added are handed out.
    pub fn close(&self) {
        self.lock().close();
        self.changed.notify_waiters();
    }

    /// Returns claims and commit records of the shards.
    #[must_use]
    pub fn claims(&self) -> Option<&WorkerClaims> {
        self.claims.as_ref()
    }

    /// Returns the number of shards that were not handed out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns whether all shards were handed out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes that another worker processes the same shards: the order is given up, unless it is kept, since workers that started
    /// together would otherwise want every shard at the same time.
    pub fn note_other_workers(&self) {
        self.lock().note_other_workers();
    }

    /// Returns the next shard. Several readers may wait at the same time. A call that is dropped may lose shards: drop it only
    /// where the pass ends.
    pub async fn next(&self) -> Next {
        loop {
            // Before the state is looked at, so that no change is missed.
            let changed = self.changed.notified();
            let step = self.lock().step(Instant::now());
            match (step, &self.claims) {
                (Step::Read(shard), _) => return Next::Read(shard),
                (Step::Report(shard), _) => return Next::CommittedByOther(shard),
                (Step::Sleep(at), _) => drop(tokio::time::timeout_at(at, changed).await),
                (Step::Wait, _) => changed.await,
                (Step::End, _) => return Next::Nothing,
                (Step::Begin(Waiting { shard, .. }) | Step::BeginListed { shard, .. }, None) => {
                    drop(Busy(self));
                    return Next::Read(shard);
                }
                (step, claims) => {
                    let _busy = Busy(self);
                    if let Some(claims) = claims
                        && let Some(next) = self.take(claims, step).await
                    {
                        return next;
                    }
                }
            }
        }
    }

    /// Carries out a step that asks the store.
    async fn take(&self, claims: &WorkerClaims, step: Step) -> Option<Next> {
        match step {
            Step::Begin(waiting) => return self.begin(claims, waiting).await,
            Step::BeginListed { shard, listing } => return self.begin_listed(claims, shard, listing).await,
            Step::Divide(shards) => {
                let groups = claims.divide(shards);
                self.lock().add_groups(groups);
            }
            Step::DivideHeld(shards) => {
                let groups = claims.divide(shards);
                self.lock().add_polls(groups);
            }
            Step::List(group) => {
                let listing = claims.list(group).await;
                self.lock().add_listing(listing);
            }
            Step::Poll(group) => {
                let poll = claims.poll(group).await;
                self.lock().add_poll(poll);
            }
            Step::Read(_) | Step::Report(_) | Step::Sleep(_) | Step::Wait | Step::End => {}
        }
        None
    }

    /// Claims a shard in its turn.
    async fn begin(&self, claims: &WorkerClaims, waiting: Waiting) -> Option<Next> {
        let Waiting { shard, wait } = waiting;
        let next = match claims.claim(shard).await {
            ClaimAttempt::Acquired => Next::Read(shard),
            ClaimAttempt::Inherited if claims.is_committed(shard).await => Next::CommittedByOther(shard),
            ClaimAttempt::Inherited => Next::Read(shard),
            ClaimAttempt::HeldByOther if !wait => Next::Claimed(shard),
            ClaimAttempt::HeldByOther => {
                self.lock().defer_own(shard);
                return None;
            }
        };
        self.lock().note_own_claimed();
        Some(next)
    }

    /// Claims a shard that was listed as free.
    async fn begin_listed(&self, claims: &WorkerClaims, shard: usize, listing: u64) -> Option<Next> {
        let began = Instant::now();
        match claims.claim(shard).await {
            ClaimAttempt::Acquired => Some(Next::Read(shard)),
            ClaimAttempt::Inherited if claims.is_committed(shard).await => {
                Some(Next::CommittedByOther(shard))
            }
            ClaimAttempt::Inherited => Some(Next::Read(shard)),
            ClaimAttempt::HeldByOther => {
                self.lock().defer_listed(shard, listing, began.elapsed());
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ShardSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardSource").field("shards", &self.len()).finish_non_exhaustive()
    }
}

/// A step under way; ended when dropped.
struct Busy<'a>(&'a ShardSource);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().end_step();
        self.0.changed.notify_waiters();
    }
}
