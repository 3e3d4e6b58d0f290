//! Explores all interleavings of workers.
//!
//! A worker is a function from the responses that it got to its next request: it is run from its start with the responses of
//! its history, and each history is run once. So a state is the store and the workers' histories, and a state that is reached
//! in several ways is checked once. From each state every worker may take its next step, lose the response to it, or be
//! killed and restarted; one that is not chosen is frozen.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::store::{ModelStore, Objects, Request, RequestQueue, Response};

/// A program that a worker runs.
pub(crate) type Program = Rc<dyn Fn(Arc<ModelStore>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A worker's next step.
#[derive(Clone, Debug)]
enum Next {
    Requests(Request),
    Ended,
}

/// The responses that a worker got, the latest first.
struct History {
    response: Response,
    before: Option<Rc<History>>,
}

#[derive(Clone)]
struct Worker {
    program: usize,
    /// Number of restarts.
    life: u32,
    history: Option<Rc<History>>,
    /// Hash of program, life and history.
    hash: u64,
    /// Whether its last request was a write.
    has_just_written: bool,
}

#[derive(Clone)]
struct State {
    objects: Objects,
    workers: Vec<Worker>,
    restarts: u32,
    lost_responses: u32,
}

/// The result of an exploration.
#[derive(Debug, Default)]
pub(crate) struct Exploration {
    /// Number of distinct states.
    pub states: usize,
    /// Number of steps between states.
    pub steps: usize,
    /// The first problem, with the state in which it was found.
    pub fault: Option<String>,
}

/// Faults that may happen beside the workers' own steps.
#[derive(Clone, Copy)]
pub(crate) struct FaultBudget {
    /// Workers that are killed and restarted.
    pub restarts: u32,
    /// Responses that are lost.
    pub lost_responses: u32,
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Explores programs by number and life: a restarted worker may do other things than before.
pub(crate) struct Explorer<'a> {
    programs: &'a dyn Fn(usize, u32) -> Program,
    /// Returns the problem of a store when all workers are dead.
    check: &'a dyn Fn(&Objects) -> Option<String>,
    next: HashMap<u64, Next>,
    checked: HashMap<u64, bool>,
}

impl<'a> Explorer<'a> {
    /// Returns an explorer of these programs. `check` is called for every distinct store.
    pub(crate) fn new(
        programs: &'a dyn Fn(usize, u32) -> Program,
        check: &'a dyn Fn(&Objects) -> Option<String>,
    ) -> Self {
        Self { programs, check, next: HashMap::new(), checked: HashMap::new() }
    }

    fn begin(program: usize, life: u32) -> Worker {
        Worker { program, life, history: None, hash: hash_of(&(program, life)), has_just_written: false }
    }

    fn start(objects: &Objects, workers: usize, faults: FaultBudget) -> State {
        State {
            objects: objects.clone(),
            workers: (0..workers).map(|n| Self::begin(n, 0)).collect(),
            restarts: faults.restarts,
            lost_responses: faults.lost_responses,
        }
    }

    /// Explores all reachable states, at most `most`.
    pub(crate) fn explore_all(
        &mut self,
        objects: &Objects,
        workers: usize,
        faults: FaultBudget,
        most: usize,
    ) -> Exploration {
        let mut exploration = Exploration::default();
        let (mut seen, mut open) = (HashSet::new(), vec![Self::start(objects, workers, faults)]);
        while let Some(state) = open.pop() {
            if !seen.insert(Self::key(&state)) {
                continue;
            }
            exploration.states += 1;
            assert!(exploration.states <= most, "more than {most} states: the model has become too large");
            if let Some(fault) = self.fault(&state.objects) {
                exploration.fault = Some(self.describe(&state, &fault));
                return exploration;
            }
            let after = self.steps(&state);
            exploration.steps += after.len();
            open.extend(after);
        }
        exploration
    }

    /// Follows `walks` random paths, each to its end.
    pub(crate) fn random_walks(
        &mut self,
        objects: &Objects,
        workers: usize,
        faults: FaultBudget,
        (walks, seed): (usize, u64),
    ) -> Exploration {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut exploration = Exploration::default();
        let mut seen = HashSet::new();
        for _ in 0..walks {
            let mut state = Self::start(objects, workers, faults);
            loop {
                exploration.states += usize::from(seen.insert(Self::key(&state)));
                if let Some(fault) = self.fault(&state.objects) {
                    exploration.fault = Some(self.describe(&state, &fault));
                    return exploration;
                }
                let mut after = self.steps(&state);
                if after.is_empty() {
                    break;
                }
                exploration.steps += 1;
                // Faults are rare, so that most paths get far.
                let plain = after.len().min(state.workers.len());
                let range = if random.f64() < 0.9 { plain } else { after.len() };
                state = after.swap_remove(random.usize(..range));
            }
        }
        exploration
    }

    fn key(state: &State) -> u64 {
        let hashes: Vec<u64> = state.workers.iter().map(|worker| worker.hash).collect();
        hash_of(&(&state.objects, hashes, state.restarts, state.lost_responses))
    }

    fn fault(&mut self, objects: &Objects) -> Option<String> {
        let key = hash_of(objects);
        if self.checked.contains_key(&key) {
            return None;
        }
        let fault = (self.check)(objects);
        self.checked.insert(key, fault.is_some());
        fault
    }

    /// Returns the states after this one; those without a fault come first.
    fn steps(&mut self, state: &State) -> Vec<State> {
        let (mut after, mut faults) = (Vec::new(), Vec::new());
        for at in 0..state.workers.len() {
            let Next::Requests(request) = self.next(&state.workers[at]) else { continue };
            let mut done = state.clone();
            let response = request.apply(&mut done.objects);
            if state.lost_responses > 0 && request.is_write() {
                let mut lost = done.clone();
                lost.lost_responses -= 1;
                Self::record_response(&mut lost.workers[at], Response::Lost, true);
                faults.push(lost);
            }
            Self::record_response(&mut done.workers[at], response, request.is_write());
            after.push(done);
            // A read leaves nothing, so a kill after it equals one before it.
            if state.restarts > 0 && state.workers[at].has_just_written {
                let mut killed = state.clone();
                killed.restarts -= 1;
                let Worker { program, life, .. } = killed.workers[at];
                killed.workers[at] = Self::begin(program, life + 1);
                faults.push(killed);
            }
        }
        after.extend(faults);
        after
    }

    fn record_response(worker: &mut Worker, response: Response, has_changed: bool) {
        worker.has_just_written = has_changed;
        worker.hash = hash_of(&(worker.hash, &response));
        worker.history = Some(Rc::new(History { response, before: worker.history.take() }));
    }

    fn next(&mut self, worker: &Worker) -> Next {
        if let Some(next) = self.next.get(&worker.hash) {
            return next.clone();
        }
        let mut responses = Vec::new();
        let mut at = worker.history.as_ref();
        while let Some(history) = at {
            responses.push(history.response.clone());
            at = history.before.as_ref();
        }
        responses.reverse();
        let next = run(&(self.programs)(worker.program, worker.life), responses);
        self.next.insert(worker.hash, next.clone());
        next
    }

    fn describe(&self, state: &State, fault: &str) -> String {
        let mut text = format!("{fault}\nstore: {:?}\n", state.objects.keys().collect::<Vec<_>>());
        for worker in &state.workers {
            let mut responses = Vec::new();
            let mut at = worker.history.as_ref();
            while let Some(history) = at {
                responses.push(&history.response);
                at = history.before.as_ref();
            }
            text.push_str(&format!(
                "worker {} life {}: {} responses, then {:?}\n",
                worker.program,
                worker.life,
                responses.len(),
                self.next.get(&worker.hash)
            ));
        }
        text
    }
}

/// Runs a program with these responses, up to its next request.
fn run(program: &Program, responses: Vec<Response>) -> Next {
    let queue = RequestQueue::default();
    let mut future = program(Arc::new(ModelStore { queue: queue.clone() }));
    let mut cx = Context::from_waker(Waker::noop());
    let mut responses = responses.into_iter();
    loop {
        if let Poll::Ready(()) = future.as_mut().poll(&mut cx) {
            return Next::Ended;
        }
        let request = queue.oldest().expect("a waiting worker has a request");
        match responses.next() {
            Some(response) => queue.response(response),
            None => return Next::Requests(request),
        }
    }
}

/// Runs a program alone, to its end.
pub(crate) fn run_alone(program: &Program, objects: &mut Objects) {
    let queue = RequestQueue::default();
    let mut future = program(Arc::new(ModelStore { queue: queue.clone() }));
    let mut cx = Context::from_waker(Waker::noop());
    while future.as_mut().poll(&mut cx).is_pending() {
        let request = queue.oldest().expect("a waiting worker has a request");
        queue.response(request.apply(objects));
    }
}
