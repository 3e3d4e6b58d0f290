//! What other workers claim and have committed of many shards, for the price of a few listings.

use std::time::Duration;

use futures::future::join_all;
use recaption_output::commits::ClaimAttempt;
use tokio::time::Instant;

use super::worker_claims::WorkerClaims;

/// Shards of a group, where a store can list a part of a folder: their records and claims are one page each.
const GROUP: usize = 900;
/// Names that are listed of a group's range at most.
const MAX_NAMES: usize = 1000;
/// Shards for which a listing is not worth its request.
const FEW: usize = 2;
/// The same on a file system, where a folder is listed whole.
const FEW_LOCAL: usize = 16;
/// Shards that are asked for one by one in a look whose listing told about few: they are sparse among the records of a large
/// folder.
const SPARSE: usize = 32;
/// Claims of other workers that are read in one look.
const CLAIMS_AT_ONCE: usize = 4;

/// Least pause between two looks at shards that other workers claim.
pub(super) const CLAIM_POLL: Duration = Duration::from_millis(500);
/// Longest pause, where very many workers look at the same shards.
const MAX_POLL: Duration = Duration::from_secs(30);
/// Number of other workers from which on the pause grows: all together look as often as these.
const FULL_RATE_WORKERS: u32 = 32;
/// A listing is repeated after this many times the time that it took, at the earliest.
const LISTING_SHARE: u32 = 20;

/// Shards that are looked at together, in the order of their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Group(pub(super) Vec<usize>);

/// What was found of a group.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Committed by other workers.
    pub(super) committed: Vec<usize>,
    /// Neither claimed nor committed.
    pub(super) free: Vec<usize>,
    /// Claimed, not committed.
    pub(super) held: Vec<usize>,
    /// Not listed.
    pub(super) unknown: Group,
    /// What another listing is worth in time lost on claims that other workers were faster with; without end where it would
    /// tell nothing new.
    pub(super) cost: Duration,
}

/// What a look at a group found whose shards other workers had claimed.
#[derive(Debug, Default)]
pub(super) struct Poll {
    /// Committed by other workers.
    pub(super) committed: Vec<usize>,
    /// Claimed by this worker by now, and not committed.
    pub(super) claimed: Vec<usize>,
    /// Still claimed by other workers.
    pub(super) held: Vec<usize>,
    /// Not looked at.
    pub(super) unknown: Group,
    /// When it is worth another look; `None` at once.
    pub(super) next: Option<Instant>,
}

impl WorkerClaims {
    /// Divides shards into groups that are listed together: neighbours by name.
    pub(super) fn divide(&self, mut shards: Vec<usize>) -> Vec<Group> {
        shards.sort_by_cached_key(|shard| self.id_of(*shard));
        let size = if self.can_list_between() { GROUP } else { usize::MAX };
        shards.chunks(size.min(shards.len().max(1))).map(|chunk| Group(chunk.to_vec())).collect()
    }

    fn is_few(&self, shards: usize) -> bool {
        shards <= if self.can_list_between() { FEW } else { FEW_LOCAL }
    }

    /// Lists what is committed and claimed of a group. What cannot be listed counts as free: a claim tells more.
    pub(super) async fn list(&self, mut group: Group) -> Listing {
        if self.is_few(group.0.len()) {
            return Listing { free: group.0, cost: Duration::MAX, ..Listing::default() };
        }
        group.0.sort_by_cached_key(|shard| self.id_of(*shard));
        let began = Instant::now();
        let (committed, open, mut unknown) = self.committed_of(group).await;
        let mut listing = Listing { committed, ..Listing::default() };
        if !open.is_empty() {
            let (claimed, known_until) = self.claimed_among(&open, MAX_NAMES).await;
            for (at, shard) in open.into_iter().enumerate() {
                let id = self.id_of(shard);
                if at > 0 && known_until.as_ref().is_some_and(|last| id >= *last) {
                    unknown.push(shard);
                } else if claimed.contains(&id) {
                    listing.held.push(shard);
                } else {
                    listing.free.push(shard);
                }
            }
        }
        unknown.sort_by_cached_key(|shard| self.id_of(*shard));
        listing.unknown = Group(unknown);
        // Where a few pages are listed, they are as many requests as one claim that another worker was faster with.
        listing.cost = if self.can_list_between() { Duration::ZERO } else { began.elapsed() };
        listing
    }

    /// Divides a group, in the order of names, into shards that others committed, shards that they did not, and shards of which
    /// nothing is known because the listing was cut.
    async fn committed_of(&self, group: Group) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
        let (records, known_until) = self.records_among(&group.0, MAX_NAMES).await;
        let (mut committed, mut open, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for (at, shard) in group.0.into_iter().enumerate() {
            let id = self.id_of(shard);
            if at > 0 && known_until.as_ref().is_some_and(|last| id >= *last) {
                unknown.push(shard);
            } else if self.is_recorded(shard, records.get(&id)) {
                committed.push(shard);
            } else {
                open.push(shard);
            }
        }
        (committed, open, unknown)
    }

    /// Looks at shards that others claimed: what they have committed, and whether some of their workers are dead or stuck.
    pub(super) async fn poll(&self, mut group: Group) -> Poll {
        let mut poll = Poll::default();
        let (mut open, cost);
        if self.is_few(group.0.len()) {
            cost = Duration::ZERO;
            (poll.committed, open) = self.ask(group.0).await;
        } else {
            let began = Instant::now();
            group.0.sort_by_cached_key(|shard| self.id_of(*shard));
            (poll.committed, open, poll.unknown.0) = self.committed_of(group).await;
            cost = began.elapsed();
            if self.is_few(poll.committed.len() + open.len()) {
                let unknown = &mut poll.unknown.0;
                let next = unknown.drain(..unknown.len().min(SPARSE)).collect();
                let (committed, not_committed) = self.ask(next).await;
                poll.committed.extend(committed);
                open.extend(not_committed);
            }
        }
        fastrand::shuffle(&mut open);
        poll.held = open.split_off(open.len().min(CLAIMS_AT_ONCE));
        for shard in open {
            if self.can_be_rewritten(shard) && self.is_committed(shard).await {
                poll.committed.push(shard);
                continue;
            }
            match self.claim_late(shard).await {
                ClaimAttempt::HeldByOther => poll.held.push(shard),
                _ if self.is_committed(shard).await => poll.committed.push(shard),
                _ => poll.claimed.push(shard),
            }
        }
        let has_changed = !poll.committed.is_empty() || !poll.claimed.is_empty();
        poll.next = (!has_changed).then(|| Instant::now() + self.pause(cost));
        poll
    }

    /// Divides shards into those that others committed and those that they did not, by a request for each.
    async fn ask(&self, shards: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
        let asked = shards.into_iter().map(|shard| async move { (shard, self.is_committed(shard).await) });
        let (committed, open): (Vec<_>, Vec<_>) =
            join_all(asked).await.into_iter().partition(|(_, is_committed)| *is_committed);
        let numbers = |found: Vec<(usize, bool)>| found.into_iter().map(|(shard, _)| shard).collect();
        (numbers(committed), numbers(open))
    }

    /// Returns the pause after a look that found nothing new and took `cost`.
    fn pause(&self, cost: Duration) -> Duration {
        let crowd = u32::try_from(self.others()).unwrap_or(u32::MAX) / FULL_RATE_WORKERS;
        CLAIM_POLL.saturating_mul(crowd.max(1)).min(MAX_POLL).max(cost * LISTING_SHARE)
    }
}
