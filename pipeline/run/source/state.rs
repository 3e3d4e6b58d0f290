//! The shards of a source in all states before a reader has them. Nothing here waits.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::listing::{Group, Listing, Poll};

/// Own shards in a row that others had claimed, after which the rest of a task's share is looked at in listings too.
const MAX_OWN_CONFLICTS: usize = 8;

/// In which order shards are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// As they were given, whatever other workers do.
    Kept,
    /// As they were given, until another worker turns out to process the same shards.
    UntilShared,
    /// A task's own shards first.
    OwnFirst,
}

/// A shard that is to be claimed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) shard: usize,
    /// Whether it is looked at again as long as another worker claims it.
    pub(super) wait: bool,
}

/// What a reader is to do.
#[derive(Debug)]
pub(super) enum Step {
    /// Claim this shard.
    Begin(Waiting),
    /// Claim this shard, which was free in the listing of this number.
    BeginListed { shard: usize, listing: u64 },
    /// Read this shard, which is claimed.
    Read(usize),
    /// Report that another worker committed this shard.
    Report(usize),
    /// Divide these shards into groups.
    Divide(Vec<usize>),
    /// Divide these shards, which others claimed, into groups.
    DivideHeld(Vec<usize>),
    /// List what is claimed and committed of these shards.
    List(Group),
    /// Look again at these shards, which others claimed.
    Poll(Group),
    /// Look again then, or when something changes.
    Sleep(Instant),
    /// Look again when something changes.
    Wait,
    /// End: nothing is left.
    End,
}

/// A group that was listed.
#[derive(Debug)]
struct Listed {
    number: u64,
    /// Neither claimed nor committed, the next one last.
    free: Vec<usize>,
    /// Claimed, not committed.
    held: Vec<usize>,
    /// What the listing took.
    cost: Duration,
    /// What was spent since on claims of shards that others had claimed meanwhile.
    lost: Duration,
}

/// All shards of a source.
#[derive(Debug)]
pub(super) struct State {
    order: Order,
    /// Claimed one after the other, in this order.
    own: VecDeque<Waiting>,
    own_conflicts: usize,
    is_shuffled: bool,
    /// Looked at in listings, once nothing of `own` is left.
    rest: Vec<usize>,
    unlisted: VecDeque<Group>,
    listed: VecDeque<Listed>,
    listings: u64,
    /// Claimed by others.
    held: Vec<usize>,
    /// Of these, what is left of a round of looks.
    polls: VecDeque<Group>,
    /// When the next look is due.
    next_poll: Option<Instant>,
    ready: VecDeque<usize>,
    committed: VecDeque<usize>,
    /// Steps under way that may bring back shards.
    busy: usize,
    /// Whether shards may still be added.
    is_open: bool,
}

impl State {
    /// Creates the state of a source that begins `own` in this order, and then looks at `rest`.
    pub(super) fn new(order: Order, own: impl IntoIterator<Item = usize>, rest: Vec<usize>) -> Self {
        Self {
            order,
            own: own.into_iter().map(|shard| Waiting { shard, wait: true }).collect(),
            own_conflicts: 0,
            is_shuffled: false,
            rest,
            unlisted: VecDeque::new(),
            listed: VecDeque::new(),
            listings: 0,
            held: Vec::new(),
            polls: VecDeque::new(),
            next_poll: None,
            ready: VecDeque::new(),
            committed: VecDeque::new(),
            busy: 0,
            is_open: false,
        }
    }

    /// Creates the state of a source to which shards are added. They keep their order.
    pub(super) fn open() -> Self {
        Self { is_open: true, ..Self::new(Order::Kept, [], Vec::new()) }
    }

    pub(super) fn keep_order(&mut self) {
        self.order = Order::Kept;
    }

    pub(super) fn push(&mut self, waiting: Waiting) {
        self.own.push_back(waiting);
    }

    pub(super) fn close(&mut self) {
        self.is_open = false;
    }

    /// Returns the number of shards that no reader has.
    pub(super) fn len(&self) -> usize {
        let groups = self.unlisted.iter().chain(&self.polls).map(|group| group.0.len());
        let listed = self.listed.iter().map(|listed| listed.free.len() + listed.held.len());
        let queues =
            self.own.len() + self.rest.len() + self.held.len() + self.ready.len() + self.committed.len();
        queues + groups.chain(listed).sum::<usize>()
    }

    /// Returns what a reader is to do. Each step that is not over at once must be ended by [`State::end_step`].
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if let Some(shard) = self.ready.pop_front() {
            return Step::Read(shard);
        }
        if let Some(shard) = self.committed.pop_front() {
            return Step::Report(shard);
        }
        let step = self.work(now);
        if matches!(
            step,
            Step::Begin(_)
                | Step::BeginListed { .. }
                | Step::Divide(_)
                | Step::DivideHeld(_)
                | Step::List(_)
                | Step::Poll(_)
        ) {
            self.busy += 1;
        }
        step
    }

    fn work(&mut self, now: Instant) -> Step {
        if let Some(waiting) = self.own.pop_front() {
            return Step::Begin(waiting);
        }
        while let Some(listed) = self.listed.front_mut() {
            if let Some(shard) = listed.free.pop() {
                return Step::BeginListed { shard, listing: listed.number };
            }
            self.held.append(&mut listed.held);
            self.listed.pop_front();
        }
        if !self.rest.is_empty() {
            return Step::Divide(std::mem::take(&mut self.rest));
        }
        if let Some(group) = self.unlisted.pop_front() {
            return Step::List(group);
        }
        if self.held.is_empty() && self.polls.is_empty() {
            return if self.busy > 0 || self.is_open { Step::Wait } else { Step::End };
        }
        match (self.next_poll, self.polls.pop_front()) {
            (Some(at), group) if at > now => {
                self.polls.extend(group);
                Step::Sleep(at)
            }
            (_, Some(group)) => Step::Poll(group),
            (_, None) => Step::DivideHeld(std::mem::take(&mut self.held)),
        }
    }

    /// Ends a step.
    pub(super) fn end_step(&mut self) {
        self.busy = self.busy.saturating_sub(1);
    }

    /// Notes that another worker processes the same shards: workers that started together would otherwise want every shard at
    /// the same time.
    pub(super) fn note_other_workers(&mut self) {
        match self.order {
            Order::Kept => {}
            Order::UntilShared => self.give_up_order(),
            Order::OwnFirst if !self.is_shuffled => {
                self.is_shuffled = true;
                fastrand::shuffle(self.own.make_contiguous());
            }
            Order::OwnFirst => {}
        }
    }

    /// Looks at all shards in listings from now on.
    fn give_up_order(&mut self) {
        self.rest.extend(self.own.drain(..).map(|waiting| waiting.shard));
    }

    /// Notes that a shard was claimed in its turn.
    pub(super) fn note_own_claimed(&mut self) {
        self.own_conflicts = 0;
    }

    /// Takes back a shard that another worker claims.
    pub(super) fn defer_own(&mut self, shard: usize) {
        if self.is_open {
            return self.held.push(shard);
        }
        self.rest.push(shard);
        self.note_other_workers();
        self.own_conflicts += 1;
        if self.order == Order::OwnFirst && self.own_conflicts >= MAX_OWN_CONFLICTS {
            self.give_up_order();
        }
    }

    /// Takes back a shard that was free in a listing and that another worker has claimed since. Once as much was spent on such
    /// claims as another listing takes, the rest of the group is listed again.
    pub(super) fn defer_listed(&mut self, shard: usize, listing: u64, lost: Duration) {
        let Some(at) = self.listed.iter().position(|listed| listed.number == listing) else {
            return self.held.push(shard);
        };
        let listed = &mut self.listed[at];
        listed.held.push(shard);
        listed.lost += lost;
        if !listed.free.is_empty()
            && listed.lost >= listed.cost
            && let Some(Listed { free, held, .. }) = self.listed.remove(at)
        {
            self.unlisted.push_front(Group(free));
            self.held.extend(held);
        }
    }

    /// Takes groups to be listed.
    pub(super) fn add_groups(&mut self, mut groups: Vec<Group>) {
        if self.order != Order::Kept {
            fastrand::shuffle(&mut groups);
        }
        self.unlisted.extend(groups);
    }

    /// Takes what a listing of a group found.
    pub(super) fn add_listing(&mut self, listing: Listing) {
        let Listing { committed, mut free, held, unknown, cost } = listing;
        self.committed.extend(committed);
        if !unknown.0.is_empty() {
            self.unlisted.push_front(unknown);
        }
        match self.order {
            Order::Kept => free.reverse(),
            _ => fastrand::shuffle(&mut free),
        }
        self.listings += 1;
        let number = self.listings;
        self.listed.push_back(Listed { number, free, held, cost, lost: Duration::ZERO });
    }

    /// Takes groups of shards that others claimed, for a round of looks.
    pub(super) fn add_polls(&mut self, mut groups: Vec<Group>) {
        fastrand::shuffle(&mut groups);
        self.polls.extend(groups);
    }

    /// Takes what a look at shards found that others had claimed.
    pub(super) fn add_poll(&mut self, poll: Poll) {
        let Poll { committed, claimed, held, unknown, next } = poll;
        self.next_poll = next;
        self.committed.extend(committed);
        self.ready.extend(claimed);
        self.held.extend(held);
        if !unknown.0.is_empty() {
            self.polls.push_front(unknown);
        }
    }
}
