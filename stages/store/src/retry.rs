//! The one retry policy: how often, and after which pauses, a failed operation is attempted again.
//!
//! Every loop of the workspace that pauses between attempts takes its pauses from here: stores, the hub, image downloads,
//! list previews and the training reader. Whether an error is worth another attempt is the caller's decision
//! ([`ErrorKind`](crate::ErrorKind)).
//!
//! Pauses have full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015): each is drawn uniformly from zero to the
//! current backoff, which doubles after every attempt, so workers that failed together do not return together.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// How often a failed operation is attempted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Further attempts after the first one.
    pub retries: u32,
    /// Longest pause before the second attempt. It doubles with every further attempt.
    pub first_backoff: Duration,
    /// Longest pause before any attempt, also where a server asks for more with `Retry-After`.
    pub max_backoff: Duration,
}

impl RetryPolicy {
    /// Returns a policy of `retries` further attempts.
    #[must_use]
    pub const fn new(retries: u32, first_backoff: Duration, max_backoff: Duration) -> Self {
        Self { retries, first_backoff, max_backoff }
    }

    /// Returns the same policy with `retries` further attempts at most.
    #[must_use]
    pub fn at_most(self, retries: u32) -> Self {
        Self { retries: self.retries.min(retries), ..self }
    }

    /// Returns the attempts of one operation.
    #[must_use]
    pub fn budget(self) -> RetryBudget {
        RetryBudget { policy: self, left: self.retries, backoff: self.first_backoff.min(self.max_backoff) }
    }
}

/// Attempts that one operation has left, and its current backoff.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    policy: RetryPolicy,
    left: u32,
    backoff: Duration,
}

impl RetryBudget {
    /// Returns the number of further attempts.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Takes an attempt and returns the pause before it: `retry_after` where the server named one, at most
    /// `max_backoff`, else a random share of the current backoff. Returns `None` when no attempt is left.
    #[must_use]
    pub fn next_pause(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let jittered = self.backoff.mul_f64(fastrand::f64());
        // Bounded at every step: a server that always answers `Retry-After: 0` would else double it without end.
        self.backoff = (self.backoff * 2).min(self.policy.max_backoff);
        Some(retry_after.map_or(jittered, |asked| asked.min(self.policy.max_backoff)))
    }

    /// Restores all attempts and the first backoff, after progress.
    pub fn reset(&mut self) {
        *self = self.policy.budget();
    }
}

/// Parses the value of a `Retry-After` header, which is a number of seconds or an HTTP date (RFC 9110, section 10.2.3).
/// A date before `now` is no pause at all; `None` is neither.
#[must_use]
pub fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(value).ok()?;
    Some((date.to_utc() - now).to_std().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy::new(5, Duration::from_millis(100), Duration::from_millis(300));

    #[test]
    fn pauses_stay_below_a_doubling_backoff_and_end() {
        for _ in 0..200 {
            let mut budget = POLICY.budget();
            for most in [100, 200, 300, 300, 300] {
                let pause = budget.next_pause(None).expect("an attempt is left");
                assert!(pause <= Duration::from_millis(most), "{pause:?} of at most {most} ms");
            }
            assert_eq!((budget.next_pause(None), budget.left()), (None, 0));
        }
    }

    #[test]
    fn pauses_are_spread_over_the_whole_backoff() {
        let pauses: Vec<f64> = (0..1000)
            .filter_map(|_| POLICY.budget().next_pause(None))
            .map(|p| p.as_secs_f64() * 1e3)
            .collect();
        let below_half = pauses.iter().filter(|pause| **pause < 50.0).count();
        // 500 are expected; 16 is one standard deviation.
        assert!((400..600).contains(&below_half), "{below_half} of {}", pauses.len());
    }

    #[test]
    fn retry_after_replaces_the_backoff_up_to_its_maximum() {
        let mut budget = POLICY.budget();
        let mut after = |milliseconds| budget.next_pause(Some(Duration::from_millis(milliseconds)));
        assert_eq!(after(0), Some(Duration::ZERO));
        assert_eq!(after(250), Some(Duration::from_millis(250)));
        assert_eq!(after(u64::MAX), Some(Duration::from_millis(300)));
    }

    #[test]
    fn reset_restores_attempts_and_backoff() {
        let mut budget = POLICY.budget();
        while budget.next_pause(None).is_some() {}
        budget.reset();
        assert_eq!(budget.left(), 5);
        assert!(budget.next_pause(None).is_some_and(|pause| pause <= Duration::from_millis(100)));
    }

    #[test]
    fn policies_without_retries_have_no_pause() {
        assert_eq!(POLICY.at_most(0).budget().next_pause(None), None);
        assert_eq!(POLICY.at_most(9).retries, 5);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc3339("2026-01-02T03:04:05Z").expect("a time").to_utc();
        let parse = |value| parse_retry_after(value, now).map(|pause| pause.as_secs());
        assert_eq!(parse(" 7 "), Some(7));
        assert_eq!(parse("Fri, 02 Jan 2026 03:04:35 GMT"), Some(30));
        assert_eq!(parse("Fri, 02 Jan 2026 03:04:00 GMT"), Some(0));
        assert_eq!(parse("soon"), None);
    }
}
