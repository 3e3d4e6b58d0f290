//! Which shard is next, given what other workers do.
//!
//! Readers take shards from a [`ShardSource`]. It claims them for this worker, and hands out those that other workers claimed
//! once they are committed, or their workers are dead. Claims save work, nothing else: see `docs/src/commit-protocol.md`.
//!
//! | file | what |
//! |---|---|
//! | `tasks` | [`Tasks`]: the shards by number |
//! | `worker_claims` | [`WorkerClaims`]: claims and commit records of these shards |
//! | `queue` | the numbers that are left |
//!
//! Time is tokio's, so that a paused clock works.

mod queue;
mod tasks;
mod worker_claims;

use recaption_output::commits::ClaimAttempt;

use self::queue::{Queue, Step, Waiting};
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
#[derive(Debug)]
pub struct ShardSource {
    claims: Option<WorkerClaims>,
    queue: Queue,
}

impl ShardSource {
    /// Creates a source of these shards, begun in this order. Without `claims` all are read.
    pub fn fixed(order: impl IntoIterator<Item = usize>, claims: Option<WorkerClaims>) -> Self {
        Self { claims, queue: Queue::closed(order) }
    }

    /// Creates a source without shards, to which shards may be added until [`ShardSource::close`].
    #[must_use]
    pub fn open(claims: Option<WorkerClaims>) -> Self {
        Self { claims, queue: Queue::open() }
    }

    /// Keeps the order also when other workers process the same shards.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        self.queue.keep_order();
        self
    }

    /// Adds a shard. With `wait` one that another worker claims is handed out once it is committed or that worker is dead,
    /// without it at once as [`Next::Claimed`].
    pub fn add(&self, shard: usize, wait: bool) {
        self.queue.push(Waiting { shard, wait });
    }

    /// Ends the source once the shards that were added are handed out.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Returns claims and commit records of the shards.
    #[must_use]
    pub fn claims(&self) -> Option<&WorkerClaims> {
        self.claims.as_ref()
    }

    /// Returns the number of shards that were not handed out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns whether all shards were handed out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes that another worker processes the same shards: workers that started together would otherwise want every shard at
    /// the same time.
    pub fn note_other_workers(&self) {
        self.queue.shuffle();
    }

    /// Returns the next shard: first one that no worker claims, then those that others claimed. Several readers may wait at the
    /// same time. A call that is dropped may lose a shard: drop it only where the pass ends.
    pub async fn next(&self) -> Next {
        let Some(claims) = &self.claims else {
            return match self.queue.take().await {
                Step::Begin(Waiting { shard, .. }) | Step::Retry(shard) => Next::Read(shard),
                Step::End => Next::Nothing,
            };
        };
        loop {
            let next = match self.queue.take().await {
                Step::Begin(waiting) => self.begin(claims, waiting).await,
                Step::Retry(shard) => self.retry(claims, shard).await,
                Step::End => return Next::Nothing,
            };
            if let Some(next) = next {
                return next;
            }
        }
    }

    /// Claims a shard for the first time.
    async fn begin(&self, claims: &WorkerClaims, waiting: Waiting) -> Option<Next> {
        let Waiting { shard, wait } = waiting;
        match claims.claim(shard).await {
            ClaimAttempt::Acquired => Some(Next::Read(shard)),
            ClaimAttempt::Inherited if claims.is_committed(shard).await => {
                Some(Next::CommittedByOther(shard))
            }
            ClaimAttempt::Inherited => Some(Next::Read(shard)),
            ClaimAttempt::HeldByOther if !wait => Some(Next::Claimed(shard)),
            ClaimAttempt::HeldByOther => {
                self.queue.defer(shard);
                self.queue.shuffle();
                None
            }
        }
    }

    /// Looks again at a shard that another worker claimed.
    async fn retry(&self, claims: &WorkerClaims, shard: usize) -> Option<Next> {
        if claims.is_listed(shard).await {
            return Some(Next::CommittedByOther(shard));
        }
        match claims.claim_late(shard).await {
            ClaimAttempt::HeldByOther => {
                self.queue.defer(shard);
                self.queue.pause().await;
                None
            }
            _ if claims.is_committed(shard).await => Some(Next::CommittedByOther(shard)),
            _ => Some(Next::Read(shard)),
        }
    }
}
