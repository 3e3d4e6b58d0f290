//! The requests that are not answered, by shard: one that is asked for twice is processed once.

use std::collections::{HashMap, VecDeque};

use recaption_schemas::redact_url;
use serde_json::Value;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    lookup::NamedShard,
    protocol::{Answer, Outcome, Request, ShardAnswer},
};

/// Why a shard is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GiveUp {
    /// What the driver says.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// A request that is not answered.
#[derive(Debug)]
pub(super) struct OpenRequest {
    id: Value,
    shard: String,
    /// The place of the shard.
    pub named: NamedShard,
    /// Whether a shard that another worker claims is waited for.
    pub wait: bool,
    /// Set where the shard is to be recorded as failed.
    pub give_up: Option<GiveUp>,
    since: Instant,
    place: Option<OwnedSemaphorePermit>,
}

impl OpenRequest {
    /// Takes a request for a shard.
    pub(super) fn new(request: Request, named: NamedShard, place: Option<OwnedSemaphorePermit>) -> Self {
        let Request { shard, id, wait, give_up, attempts } = request;
        let give_up = give_up.map(|reason| GiveUp { reason, attempts: attempts.unwrap_or(1) });
        Self { id, shard: redact_url(&shard), named, wait, give_up, since: Instant::now(), place }
    }

    /// Returns the answer to it, with the place of its line.
    fn answer(self, outcome: Outcome) -> (Answer, Option<OwnedSemaphorePermit>) {
        let seconds = self.since.elapsed().as_secs_f64();
        (Answer::Shard(ShardAnswer { id: self.id, shard: self.shard, outcome, seconds }), self.place)
    }
}

/// Answers, with the places of their lines.
pub(super) type Answers = Vec<(Answer, Option<OwnedSemaphorePermit>)>;

/// Requests by the URL of their shard. The first of each shard is worked on, the others wait for it.
#[derive(Debug, Default)]
pub(super) struct OpenRequests {
    shards: HashMap<String, VecDeque<OpenRequest>>,
    /// URLs by number of the shard within the run.
    tasks: HashMap<usize, String>,
}

impl OpenRequests {
    /// Adds a request; returns the URL of its shard if it is to be worked on now.
    pub(super) fn add(&mut self, request: OpenRequest) -> Option<String> {
        let url = request.named.url();
        let requests = self.shards.entry(url.clone()).or_default();
        requests.push_back(request);
        (requests.len() == 1).then_some(url)
    }

    /// Returns the request for a shard that is worked on.
    pub(super) fn current(&self, url: &str) -> Option<&OpenRequest> {
        self.shards.get(url)?.front()
    }

    /// Returns whether requests wait for another one for the same shard: they may be worked on later.
    pub(super) fn has_waiting(&self) -> bool {
        self.shards.values().any(|requests| requests.len() > 1)
    }

    /// Notes the number of a shard that is processed.
    pub(super) fn begin(&mut self, task: usize, url: String) {
        self.tasks.insert(task, url);
    }

    /// Returns the shard of a number, which is forgotten.
    pub(super) fn end(&mut self, task: usize) -> Option<String> {
        self.tasks.remove(&task)
    }

    /// Answers the request that was worked on, and those that this answers too. Returns whether another one is to be worked on now.
    pub(super) fn finish(&mut self, url: &str, outcome: Outcome) -> (Answers, bool) {
        let Some(mut waiting) = self.shards.remove(url) else { return (Vec::new(), false) };
        let (mut answers, mut left) = (Vec::new(), VecDeque::new());
        let first = waiting.pop_front();
        for request in waiting {
            match for_others(&outcome, request.give_up.is_some()) {
                Some(outcome) => answers.push(request.answer(outcome)),
                None => left.push_back(request),
            }
        }
        if let Some(first) = first {
            answers.insert(0, first.answer(outcome));
        }
        let has_more = !left.is_empty();
        if has_more {
            self.shards.insert(url.to_owned(), left);
        }
        (answers, has_more)
    }

    /// Answers everything that is left.
    pub(super) fn stop_all(&mut self) -> Answers {
        self.tasks.clear();
        let left = std::mem::take(&mut self.shards).into_values().flatten();
        left.map(|request| request.answer(Outcome::Stopped)).collect()
    }

    /// Returns whether all requests are answered.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }
}

/// Returns what the outcome of a shard means to others that asked for it meanwhile; `None` where they are worked on themselves.
fn for_others(outcome: &Outcome, gives_up: bool) -> Option<Outcome> {
    match outcome {
        Outcome::Committed(shard) => Some(Outcome::AlreadyDone { counts: shard.counts.clone() }),
        Outcome::DoneByOther { .. } => Some(Outcome::DoneByOther { twice: false }),
        Outcome::AlreadyDone { .. } | Outcome::Stopped => Some(outcome.clone()),
        Outcome::Failed { .. } => (!gives_up).then(|| outcome.clone()),
        Outcome::GivenUp => gives_up.then_some(Outcome::GivenUp),
        Outcome::Claimed => None,
    }
}

#[cfg(test)]
mod tests {
    use recaption_schemas::{Counts, FailureClass};
    use recaption_store::Stores;
    use serde_json::json;

    use super::*;
    use crate::worker::protocol::{ErrorClass, ShardError};

    fn request(id: u32, give_up: bool) -> OpenRequest {
        let give_up = give_up.then(|| "killed".to_owned());
        let request = Request { shard: "/a.tar?".into(), id: id.into(), wait: true, give_up, attempts: None };
        let location = Stores::default().locate("/a.tar").expect("a path");
        OpenRequest::new(request, NamedShard { location, part: 0, is_folder: false }, None)
    }

    fn outcomes(answers: Answers) -> Vec<(Value, Value)> {
        let parts = |(answer, _): (Answer, _)| {
            let answer = serde_json::to_value(answer).expect("JSON");
            (answer["id"].clone(), answer["outcome"].clone())
        };
        answers.into_iter().map(parts).collect()
    }

    fn failed() -> Outcome {
        let (class, kind) = (ErrorClass::Permanent, FailureClass::Data);
        Outcome::Failed { error: ShardError { class, kind, message: String::new(), attempts: 1 } }
    }

    const URL: &str = "file:///a.tar";

    #[test]
    fn second_request_waits_for_the_first() {
        let mut open = OpenRequests::default();
        assert_eq!(open.add(request(1, false)).as_deref(), Some(URL));
        assert_eq!(open.add(request(2, false)), None);
        let (answers, has_more) = open.finish(URL, Outcome::AlreadyDone { counts: Counts::default() });
        let done = json!("already_done");
        assert_eq!(outcomes(answers), [(json!(1), done.clone()), (json!(2), done)]);
        assert!(!has_more && open.is_empty());
    }

    #[test]
    fn shard_is_given_up_after_the_attempt_that_is_under_way() {
        let mut open = OpenRequests::default();
        open.add(request(1, false));
        open.add(request(2, true));
        open.add(request(3, false));
        let (answers, has_more) = open.finish(URL, failed());
        assert_eq!(outcomes(answers), [(json!(1), json!("failed")), (json!(3), json!("failed"))]);
        assert!(has_more && open.current(URL).is_some_and(|request| request.give_up.is_some()));
        let (answers, has_more) = open.finish(URL, Outcome::GivenUp);
        assert_eq!(outcomes(answers), [(json!(2), json!("given_up"))]);
        assert!(!has_more);
    }

    #[test]
    fn done_shards_are_not_given_up() {
        let mut open = OpenRequests::default();
        open.add(request(1, false));
        open.add(request(2, true));
        let (answers, has_more) = open.finish(URL, Outcome::DoneByOther { twice: true });
        assert_eq!(outcomes(answers)[1], (json!(2), json!("done_by_other")));
        assert!(!has_more);
    }

    #[test]
    fn everything_is_answered_at_a_stop() {
        let mut open = OpenRequests::default();
        open.add(request(1, false));
        open.add(request(2, true));
        let mut stopped = outcomes(open.stop_all());
        stopped.sort_by_key(|(id, _)| id.as_u64());
        assert_eq!(stopped, [(json!(1), json!("stopped")), (json!(2), json!("stopped"))]);
        assert!(open.is_empty());
    }
}
