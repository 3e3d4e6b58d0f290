//! Explores what workers may do to each other.
//!
//! A worker is a function from the answers that it got to its next request: it is run from its beginning with the answers of
//! its history, and each history is run once. So a state is the store and the workers' histories, and states that are reached
//! on many ways are looked at once. From each state every worker may take its next step, or have its answer lost, or be
//! killed and begin anew; one that is not chosen is frozen.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::store::{Answer, Desk, ModelStore, Objects, Request};

/// A program that a worker runs.
pub type Program = Rc<dyn Fn(Arc<ModelStore>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// What a worker does next.
#[derive(Clone, Debug)]
enum Next {
    Asks(Request),
    Ended,
}

/// The answers that a worker got, the latest first.
struct History {
    answer: Answer,
    before: Option<Rc<History>>,
}

#[derive(Clone)]
struct Worker {
    program: usize,
    /// How often it was killed.
    life: u32,
    history: Option<Rc<History>>,
    /// Of program, life and history.
    hash: u64,
    /// Whether its last request was one that changes something.
    has_just_changed: bool,
}

#[derive(Clone)]
struct State {
    objects: Objects,
    workers: Vec<Worker>,
    kills: u32,
    losses: u32,
}

/// What an exploration has seen.
#[derive(Debug, Default)]
pub struct Explored {
    /// States, each looked at once.
    pub states: usize,
    /// Steps from state to state.
    pub steps: usize,
    /// The first state in which something is wrong, with what.
    pub fault: Option<String>,
}

/// What may happen beside the workers' own steps.
#[derive(Clone, Copy)]
pub struct Mishaps {
    /// Workers that are killed and begin anew.
    pub kills: u32,
    /// Answers that are lost.
    pub losses: u32,
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Programs by number and life: a worker that begins anew may do other things than before.
pub struct Explorer<'a> {
    programs: &'a dyn Fn(usize, u32) -> Program,
    /// What is wrong with a store when everybody is dead.
    check: &'a dyn Fn(&Objects) -> Option<String>,
    next: HashMap<u64, Next>,
    checked: HashMap<u64, bool>,
}

impl<'a> Explorer<'a> {
    /// Of these programs; `check` is asked for every store that comes up.
    pub fn new(
        programs: &'a dyn Fn(usize, u32) -> Program,
        check: &'a dyn Fn(&Objects) -> Option<String>,
    ) -> Self {
        Self { programs, check, next: HashMap::new(), checked: HashMap::new() }
    }

    fn begin(program: usize, life: u32) -> Worker {
        Worker { program, life, history: None, hash: hash_of(&(program, life)), has_just_changed: false }
    }

    fn start(objects: &Objects, workers: usize, mishaps: Mishaps) -> State {
        State {
            objects: objects.clone(),
            workers: (0..workers).map(|n| Self::begin(n, 0)).collect(),
            kills: mishaps.kills,
            losses: mishaps.losses,
        }
    }

    /// All states that can be reached, up to `most`.
    pub fn exhaust(&mut self, objects: &Objects, workers: usize, mishaps: Mishaps, most: usize) -> Explored {
        let mut explored = Explored::default();
        let (mut seen, mut open) = (HashSet::new(), vec![Self::start(objects, workers, mishaps)]);
        while let Some(state) = open.pop() {
            if !seen.insert(Self::key(&state)) {
                continue;
            }
            explored.states += 1;
            assert!(explored.states <= most, "more than {most} states: the model has become too large");
            if let Some(fault) = self.fault(&state.objects) {
                explored.fault = Some(self.tell(&state, &fault));
                return explored;
            }
            let after = self.steps(&state);
            explored.steps += after.len();
            open.extend(after);
        }
        explored
    }

    /// `walks` ways of chance, each to its end.
    pub fn wander(
        &mut self,
        objects: &Objects,
        workers: usize,
        mishaps: Mishaps,
        (walks, seed): (usize, u64),
    ) -> Explored {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut explored = Explored::default();
        let mut seen = HashSet::new();
        for _ in 0..walks {
            let mut state = Self::start(objects, workers, mishaps);
            loop {
                explored.states += usize::from(seen.insert(Self::key(&state)));
                if let Some(fault) = self.fault(&state.objects) {
                    explored.fault = Some(self.tell(&state, &fault));
                    return explored;
                }
                let mut after = self.steps(&state);
                if after.is_empty() {
                    break;
                }
                explored.steps += 1;
                // Mishaps are rare, but for those there are ways enough.
                let plain = after.len().min(state.workers.len());
                let range = if dice.f64() < 0.9 { plain } else { after.len() };
                state = after.swap_remove(dice.usize(..range));
            }
        }
        explored
    }

    fn key(state: &State) -> u64 {
        let hashes: Vec<u64> = state.workers.iter().map(|worker| worker.hash).collect();
        hash_of(&(&state.objects, hashes, state.kills, state.losses))
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

    /// The states after this one; first each worker's own step.
    fn steps(&mut self, state: &State) -> Vec<State> {
        let (mut after, mut mishaps) = (Vec::new(), Vec::new());
        for at in 0..state.workers.len() {
            let Next::Asks(request) = self.next(&state.workers[at]) else { continue };
            let mut done = state.clone();
            let answer = request.apply(&mut done.objects);
            if state.losses > 0 && request.changes() {
                let mut lost = done.clone();
                lost.losses -= 1;
                Self::answer(&mut lost.workers[at], Answer::Lost, true);
                mishaps.push(lost);
            }
            Self::answer(&mut done.workers[at], answer, request.changes());
            after.push(done);
            // Reading leaves nothing, so who is killed after it might as well have been killed before.
            if state.kills > 0 && state.workers[at].has_just_changed {
                let mut killed = state.clone();
                killed.kills -= 1;
                let Worker { program, life, .. } = killed.workers[at];
                killed.workers[at] = Self::begin(program, life + 1);
                mishaps.push(killed);
            }
        }
        after.extend(mishaps);
        after
    }

    fn answer(worker: &mut Worker, answer: Answer, has_changed: bool) {
        worker.has_just_changed = has_changed;
        worker.hash = hash_of(&(worker.hash, &answer));
        worker.history = Some(Rc::new(History { answer, before: worker.history.take() }));
    }

    fn next(&mut self, worker: &Worker) -> Next {
        if let Some(next) = self.next.get(&worker.hash) {
            return next.clone();
        }
        let mut answers = Vec::new();
        let mut at = worker.history.as_ref();
        while let Some(history) = at {
            answers.push(history.answer.clone());
            at = history.before.as_ref();
        }
        answers.reverse();
        let next = run(&(self.programs)(worker.program, worker.life), answers);
        self.next.insert(worker.hash, next.clone());
        next
    }

    fn tell(&self, state: &State, fault: &str) -> String {
        let mut told = format!("{fault}\nstore: {:?}\n", state.objects.keys().collect::<Vec<_>>());
        for worker in &state.workers {
            let mut answers = Vec::new();
            let mut at = worker.history.as_ref();
            while let Some(history) = at {
                answers.push(&history.answer);
                at = history.before.as_ref();
            }
            told.push_str(&format!(
                "worker {} life {}: {} answers, then {:?}\n",
                worker.program,
                worker.life,
                answers.len(),
                self.next.get(&worker.hash)
            ));
        }
        told
    }
}

/// Runs a program with these answers, up to its next request.
fn run(program: &Program, answers: Vec<Answer>) -> Next {
    let desk = Desk::default();
    let mut future = program(Arc::new(ModelStore { desk: desk.clone() }));
    let mut cx = Context::from_waker(Waker::noop());
    let mut answers = answers.into_iter();
    loop {
        if let Poll::Ready(()) = future.as_mut().poll(&mut cx) {
            return Next::Ended;
        }
        let request = desk.oldest().expect("a worker that waits, waits for an answer");
        match answers.next() {
            Some(answer) => desk.answer(answer),
            None => return Next::Asks(request),
        }
    }
}

/// Runs a program alone, to its end.
pub fn run_alone(program: &Program, objects: &mut Objects) {
    let desk = Desk::default();
    let mut future = program(Arc::new(ModelStore { desk: desk.clone() }));
    let mut cx = Context::from_waker(Waker::noop());
    while future.as_mut().poll(&mut cx).is_pending() {
        let request = desk.oldest().expect("a worker that waits, waits for an answer");
        desk.answer(request.apply(objects));
    }
}
