//! Rounds over shards: those that failed for a transient reason are begun again when all others have ended.

use std::time::Duration;

use super::stop::Stop;

/// Rounds over shards that fail for a transient reason.
const MAX_ROUNDS: u32 = 3;
/// Pause before each round but the first, so that a retry does not meet the same outage.
const ROUND_PAUSE: Duration = Duration::from_secs(5);

/// Calls `pass` with the numbers of the shards to begin, and again with those of which another attempt may succeed, until
/// there are none, at most three times and not after a stop. Between two rounds are five seconds. Returns the last result of
/// every shard.
///
/// `pass` also takes the number of the round, from 1. `retried` returns the number of a shard that is worth another attempt.
///
/// # Errors
/// Those of `pass`.
pub async fn retry_rounds<R>(
    stop: &Stop,
    begin: Vec<usize>,
    retried: impl Fn(&R) -> Option<usize>,
    mut pass: impl AsyncFnMut(u32, Vec<usize>) -> anyhow::Result<Vec<R>>,
) -> anyhow::Result<Vec<R>> {
    let (mut begin, mut results) = (begin, Vec::new());
    for round in 1..=MAX_ROUNDS {
        let is_last = |stop: &Stop| round == MAX_ROUNDS || stop.requested();
        let (again, ended): (Vec<R>, Vec<R>) = pass(round, begin)
            .await?
            .into_iter()
            .partition(|result| !is_last(stop) && retried(result).is_some());
        results.extend(ended);
        if again.is_empty() {
            break;
        }
        tracing::warn!(shards = again.len(), "transient failures; retrying these shards");
        if stop.unless_requested(tokio::time::sleep(ROUND_PAUSE)).await.is_none() {
            results.extend(again);
            break;
        }
        begin = again.iter().filter_map(&retried).collect();
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shards that fail, with the number of their attempts; even ones may succeed at the next.
    fn retried(result: &(usize, u32)) -> Option<usize> {
        result.0.is_multiple_of(2).then_some(result.0)
    }

    #[tokio::test(start_paused = true)]
    async fn transient_failures_are_retried_twice_and_others_never() {
        let (mut rounds, stop) = (Vec::new(), Stop::default());
        let results = retry_rounds(&stop, vec![1, 2, 3, 4], retried, async |round, begin| {
            rounds.push((round, begin.clone()));
            Ok(begin.into_iter().map(|shard| (shard, round)).collect())
        });
        let mut results = results.await.expect("no pass fails");
        results.sort_unstable();
        assert_eq!(results, [(1, 1), (2, 3), (3, 1), (4, 3)]);
        assert_eq!(rounds, [(1, vec![1, 2, 3, 4]), (2, vec![2, 4]), (3, vec![2, 4])]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_round_begins_after_a_stop() {
        let stop = Stop::default();
        let pass = async |round, begin: Vec<usize>| {
            stop.request_stop();
            Ok(begin.into_iter().map(|shard| (shard, round)).collect())
        };
        let results = retry_rounds(&stop, vec![1, 2], retried, pass).await.expect("no pass fails");
        assert_eq!(results, [(1, 1), (2, 1)]);
    }
}
