//! How busy a stage's workers are, as seconds of a fully busy stage.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Instant,
};

/// Integrates over time the share of a stage's workers that are at work: a stage whose workers are all busy adds one second per
/// second.
///
/// Workers that wait, for input or because what comes after them is full, are not busy. A lock is held for a few nanoseconds at
/// each change.
#[derive(Debug)]
pub struct BusyClock(Mutex<ClockState>);

#[derive(Debug)]
struct ClockState {
    /// Number of workers; `None` where it is the number of those that have something to do.
    workers: Option<usize>,
    /// Workers that have something to do, also while they are blocked.
    open: usize,
    /// Workers at work. A worker that waits for several things at once is subtracted more than once.
    busy: isize,
    changed: Instant,
    seconds: f64,
}

impl ClockState {
    /// Adds the time since the last change.
    fn advance(&mut self, now: Instant) {
        let workers = self.workers.unwrap_or(self.open);
        let busy = usize::try_from(self.busy).unwrap_or_default().min(workers);
        let share = if workers == 0 { 0.0 } else { busy as f64 / workers as f64 };
        self.seconds += now.saturating_duration_since(self.changed).as_secs_f64() * share;
        self.changed = now;
    }
}

impl Default for BusyClock {
    /// Creates the clock of a stage that has as many workers as have something to do.
    fn default() -> Self {
        let (open, busy, changed) = (0, 0, Instant::now());
        Self(Mutex::new(ClockState { workers: None, open, busy, changed, seconds: 0.0 }))
    }
}

impl BusyClock {
    /// Creates the clock of a stage of `workers` workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let clock = Self::default();
        clock.set_workers(workers);
        clock
    }

    /// Sets the number of workers.
    pub fn set_workers(&self, workers: usize) {
        self.change(|state| state.workers = Some(workers));
    }

    /// Returns the seconds of a fully busy stage so far.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        let mut state = self.state();
        state.advance(Instant::now());
        state.seconds
    }

    /// Counts a worker as busy until the guard is dropped.
    #[must_use]
    pub fn work(&self) -> Working<'_> {
        self.begin_work();
        Working(self)
    }

    /// Counts one more worker as busy.
    pub fn begin_work(&self) {
        self.change(|state| {
            state.open += 1;
            state.busy += 1;
        });
    }

    /// Counts a worker as busy no more.
    pub fn end_work(&self) {
        self.change(|state| {
            state.busy -= 1;
            state.open = state.open.saturating_sub(1);
        });
    }

    /// Awaits `work`; the worker is not busy while that waits.
    pub async fn while_blocked<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        // Most often nothing is to be waited for.
        let first = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        if let Poll::Ready(done) = first {
            return done;
        }
        let _blocked = self.block();
        work.await
    }

    fn block(&self) -> Blocked<'_> {
        self.change(|state| state.busy -= 1);
        Blocked(self)
    }

    fn change(&self, change: impl FnOnce(&mut ClockState)) {
        let mut state = self.state();
        state.advance(Instant::now());
        change(&mut state);
    }

    fn state(&self) -> MutexGuard<'_, ClockState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker at work, until it is dropped.
#[derive(Debug)]
pub struct Working<'a>(&'a BusyClock);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.end_work();
    }
}

/// A worker that waits, until this is dropped.
#[derive(Debug)]
struct Blocked<'a>(&'a BusyClock);

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.busy += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Moves the clock's last change back, as if `seconds` had passed since.
    fn pass(clock: &BusyClock, seconds: u64) {
        let mut state = clock.state();
        let now = state.changed + Duration::from_secs(seconds);
        state.advance(now);
        state.changed = now.checked_sub(Duration::from_secs(seconds)).expect("a later time");
    }

    fn whole_seconds(clock: &BusyClock) -> f64 {
        (clock.seconds() * 10.0).round() / 10.0
    }

    #[test]
    fn seconds_count_the_share_of_busy_workers() {
        let clock = BusyClock::new(4);
        pass(&clock, 8);
        assert_eq!(whole_seconds(&clock), 0.0, "nobody works");
        let (one, two) = (clock.work(), clock.work());
        pass(&clock, 8);
        assert_eq!(whole_seconds(&clock), 4.0, "two of four");
        drop((one, two));
        pass(&clock, 8);
        assert_eq!(whole_seconds(&clock), 4.0);
    }

    #[test]
    fn without_a_number_the_workers_are_those_with_something_to_do() {
        let clock = BusyClock::default();
        let _one = clock.work();
        pass(&clock, 4);
        assert_eq!(whole_seconds(&clock), 4.0, "the only one works");
        let _two = clock.work();
        let blocked = clock.block();
        pass(&clock, 4);
        assert_eq!(whole_seconds(&clock), 6.0, "one of two waits");
        drop(blocked);
        pass(&clock, 4);
        assert_eq!(whole_seconds(&clock), 10.0);
    }

    #[tokio::test]
    async fn worker_is_not_busy_while_its_output_is_full() {
        let clock = BusyClock::default();
        let _worker = clock.work();
        assert_eq!(clock.while_blocked(async { 7 }).await, 7);
        let (sender, receiver) = tokio::sync::oneshot::channel::<u8>();
        let waiting = clock.while_blocked(receiver);
        let looking = async {
            let (busy, open) = {
                let state = clock.state();
                (state.busy, state.open)
            };
            assert_eq!((busy, open), (0, 1), "blocked");
            drop(sender);
        };
        let (received, ()) = tokio::join!(waiting, looking);
        assert!(received.is_err());
        assert_eq!(clock.state().busy, 1, "at work again");
    }
}
