//! The worker at work: requests are looked up, processed by one pass of the pipeline, and answered.
//!
//! The pass is open-ended: a shard is added as soon as it is looked up, so that the decoders go on with the next one while the last
//! one is captioned. Everything here runs on one task; what waits for a store does so on tasks of its own.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::anyhow;
use futures::{FutureExt, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use recaption_schemas::{FailureClass, FailureRecord, redact_text, redact_url};
use tokio::{
    sync::OwnedSemaphorePermit,
    task::{JoinError, JoinSet},
};

use super::{
    answers::Answers,
    failures::FailureRecords,
    lookup::{Lookup, Names, ShardLookup},
    open_requests::{OpenRequest, OpenRequests},
    protocol::{Answer, ErrorClass, Outcome, ShardAnswer, ShardError},
    requests::{Line, Lines},
    totals::Totals,
};
use crate::run::{Collector, Events, RunState, Task};

/// Time that commits and failure records under way have to end, all together, once the shards in flight are abandoned. After a
/// second signal the process ends 0.9 s later, whatever hangs.
const ABORTED_WORK: Duration = Duration::from_millis(400);

/// A shard that was looked up, by URL.
type LookedUp = (String, Lookup);

/// A failure that was recorded.
pub(super) struct Recorded {
    /// The shard.
    pub(super) url: String,
    /// What is answered.
    pub(super) outcome: Outcome,
    /// The record.
    pub(super) record: FailureRecord,
}

/// What a worker has while it works.
pub(super) struct Session<'a> {
    pub(super) answers: &'a Answers,
    names: Names,
    pub(super) lookup: Arc<ShardLookup>,
    pub(super) failures: Arc<FailureRecords>,
    pub(super) state: Arc<RunState>,
    pub(super) totals: Totals<'a>,
    pub(super) open: OpenRequests,
    /// On this task: they wait for stores, and do nothing else for long.
    lookups: FuturesUnordered<LocalBoxFuture<'static, std::thread::Result<LookedUp>>>,
    /// Failure records that are written or deleted.
    pub(super) records: JoinSet<Option<Recorded>>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        answers: &'a Answers,
        (names, lookup): (Names, ShardLookup),
        failures: FailureRecords,
        state: Arc<RunState>,
        totals: Totals<'a>,
    ) -> Self {
        Self {
            answers,
            names,
            lookup: Arc::new(lookup),
            failures: Arc::new(failures),
            state,
            totals,
            open: OpenRequests::default(),
            lookups: FuturesUnordered::new(),
            records: JoinSet::new(),
        }
    }

    /// Works until the input ends and everything is answered, or the run stops. Returns how many requests were answered
    /// [`Outcome::Stopped`].
    pub(super) async fn run(
        mut self,
        mut collector: Collector,
        mut lines: Lines,
        mut events: Events,
    ) -> usize {
        let stop = Arc::clone(&self.state.stop);
        let mut is_reading = true;
        loop {
            tokio::select! {
                () = stop.wait_aborted() => break,
                () = stop.wait_requested(), if is_reading => is_reading = false,
                event = events.recv() => match event {
                    // An upload that hangs holds up the collector, and must not hold up the end.
                    Some(event) => tokio::select! {
                        biased;
                        () = stop.wait_aborted() => break,
                        taken = collector.take(event) => if let Err(error) = taken {
                            self.state.fail(error);
                        },
                    },
                    None => break,
                },
                () = collector.writer_ended() => {}
                Some(looked_up) = self.lookups.next() => self.looked_up(looked_up),
                Some(recorded) = self.records.join_next() => self.recorded(recorded),
                line = lines.next(), if is_reading => match line {
                    Some((line, place)) => self.take(line, place),
                    None => is_reading = false,
                },
            }
            for result in collector.ended() {
                self.shard_ended(result);
            }
            if !is_reading && self.lookups.is_empty() && !self.open.has_waiting() {
                self.state.source.close();
            }
        }
        // Captioners that still work end when they find nobody to take their results.
        drop(events);
        self.end(collector, lines).await
    }

    /// Waits for commits and failure records under way, and answers what is left.
    async fn end(mut self, collector: Collector, mut lines: Lines) -> usize {
        let stop = Arc::clone(&self.state.stop);
        let too_late = async {
            stop.wait_aborted().await;
            tokio::time::sleep(ABORTED_WORK).await;
        };
        let too_late = too_late.shared();
        for result in before(too_late.clone(), collector.finish()).await.unwrap_or_default() {
            self.shard_ended(result);
        }
        self.lookups.clear();
        while let Some(Some(recorded)) = before(too_late.clone(), self.records.join_next()).await {
            self.recorded(recorded);
        }
        // What is left holds the claims, which are given back once nobody holds them.
        self.records.shutdown().await;
        let mut left = self.open.stop_all();
        while let Some((line, place)) = lines.try_next() {
            let answer = match line.request {
                Ok(request) => {
                    let (shard, outcome) = (redact_url(&request.shard), Outcome::Stopped);
                    Answer::Shard(ShardAnswer { id: request.id, shard, outcome, seconds: 0.0 })
                }
                Err(error) => Answer::Invalid { line: line.number, error },
            };
            left.push((answer, Some(place)));
        }
        let is_stopped = |(answer, _): &&(Answer, _)| {
            matches!(answer, Answer::Shard(ShardAnswer { outcome: Outcome::Stopped, .. }))
        };
        let stopped = left.iter().filter(is_stopped).count();
        left.into_iter().for_each(|(answer, place)| self.answers.send(answer, place));
        self.names.finish(self.totals.report);
        stopped
    }

    /// Takes a line.
    fn take(&mut self, line: Line, place: OwnedSemaphorePermit) {
        let request = match line.request {
            Ok(request) => request,
            Err(error) => {
                let answer = Answer::Invalid { line: line.number, error };
                return self.answers.send(answer, Some(place));
            }
        };
        match self.names.locate(&request.shard) {
            Ok(named) => {
                if let Some(url) = self.open.add(OpenRequest::new(request, named, Some(place))) {
                    self.begin(url);
                }
            }
            Err(error) => {
                let message = redact_text(&error.to_string());
                let (class, kind) = (ErrorClass::Configuration, FailureClass::Missing);
                let error = ShardError { class, kind, message, attempts: 1 };
                let (shard, outcome) = (redact_url(&request.shard), Outcome::Failed { error });
                let answer = ShardAnswer { id: request.id, shard, outcome, seconds: 0.0 };
                self.answers.send(Answer::Shard(answer), Some(place));
            }
        }
    }

    /// Begins to work on the first request for a shard.
    fn begin(&mut self, url: String) {
        let Some(request) = self.open.current(&url) else { return };
        let (lookup, named) = (Arc::clone(&self.lookup), request.named.clone());
        let look_up = async move {
            let found = lookup.look_up(&named).await;
            (url, found)
        };
        self.lookups.push(AssertUnwindSafe(look_up).catch_unwind().boxed_local());
    }

    /// Goes on with a shard that was looked up.
    fn looked_up(&mut self, looked_up: std::thread::Result<LookedUp>) {
        let Ok((url, lookup)) = looked_up else {
            return self.state.fail(anyhow!("internal error: a look-up panicked"));
        };
        let give_up = self.open.current(&url).and_then(|request| request.give_up.clone());
        match (lookup, give_up) {
            (Lookup::Done(counts), _) => {
                self.totals.skipped();
                self.forget_failure(&url, false);
                self.finish(&url, Outcome::AlreadyDone { counts: *counts });
            }
            (Lookup::ToDo(task), None) => self.process(url, *task),
            (Lookup::ToDo(task), Some(give_up)) => {
                self.lookup.put_back(&task);
                self.give_up(url, task.shard.fingerprint(), give_up);
            }
            (Lookup::Failed(failed), Some(give_up)) => self.give_up(url, failed.fingerprint, give_up),
            (Lookup::Failed(failed), None) => {
                tracing::error!(error = failed.failure.error, "shard cannot be processed");
                self.totals.planned(&url, 0, &self.state.progress);
                self.record_failure(url, failed.fingerprint, failed.failure);
            }
        }
    }

    /// Hands a shard to the readers.
    fn process(&mut self, url: String, task: Task) {
        let Some(request) = self.open.current(&url) else { return };
        let (wait, bytes) = (request.wait, task.shard.bytes());
        self.totals.planned(&url, bytes, &self.state.progress);
        let number = self.state.tasks.push(task);
        self.open.begin(number, url);
        self.state.source.add(number, wait);
    }

    /// Goes on once a failure was recorded.
    fn recorded(&mut self, recorded: Result<Option<Recorded>, JoinError>) {
        match recorded {
            Ok(Some(Recorded { url, outcome, record })) => {
                self.totals.failed(&record, &self.state.progress);
                self.finish(&url, outcome);
            }
            Ok(None) => {}
            Err(error) => self.state.fail(anyhow!("internal error: a record broke down: {error}")),
        }
    }

    /// Answers the request for a shard, and begins with the next one for the same shard that this does not answer.
    pub(super) fn finish(&mut self, url: &str, outcome: Outcome) {
        let (answers, has_more) = self.open.finish(url, outcome);
        answers.into_iter().for_each(|(answer, place)| self.answers.send(answer, place));
        if has_more {
            self.begin(url.to_owned());
        }
    }
}

/// Waits for `work`, but not beyond the end of `too_late`.
async fn before<T>(too_late: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = too_late => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_work_has_one_deadline() {
        let began = tokio::time::Instant::now();
        let too_late = tokio::time::sleep(ABORTED_WORK).shared();
        assert_eq!(before(too_late.clone(), std::future::ready(1)).await, Some(1));
        for _ in 0..2 {
            assert_eq!(before(too_late.clone(), std::future::pending::<u32>()).await, None);
        }
        assert!(began.elapsed() < 2 * ABORTED_WORK, "{:?}", began.elapsed());
        assert_eq!(before(too_late, std::future::ready(2)).await, Some(2), "what has ended counts");
    }
}
