//! Answers on a device: a selection graph on the session's provider. A few bytes per row cross the bus, logits do not.
//!
//! The best tokens come as a list that is a little longer than what may be chosen, and the choice is made here: padding and
//! a forbidden end are left out, equal logits go to the lower id. Where equal logits reach the end of the list, others may lie
//! behind it: then the row's logits are fetched after all, and the host chooses.

use ort::{memory::AllocationDevice, session::Session, value::Tensor};

use super::{Answer, Choice, NextToken, Question, Rules, graph, host, not_numbers};
use crate::{
    model::ModelFolder,
    runtime::{RuntimeError, SessionOptions, device::Memory, session},
};

/// Tokens that may be among the best and forbidden: padding and the end.
const FORBIDDEN: usize = 2;
/// Further tokens of the list: with so many equal logits, choosing is left to the host.
const EQUALS: usize = 5;

/// Runs the selection graph.
pub struct Selector {
    session: Session,
    rules: Rules,
    vocab: usize,
    /// Ids of the longest text.
    longest: usize,
    /// Rows that were chosen on the host, because of equal logits.
    fetched: u64,
}

impl Selector {
    /// Builds the graph for a model and texts of at most `longest` ids, start token and prompt included.
    ///
    /// # Errors
    /// When ONNX Runtime refuses it.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        rules: Rules,
        longest: usize,
    ) -> Result<Self, RuntimeError> {
        Self::build(options, rules, model.spec.dimensions.vocab_size, longest)
    }

    /// As [`Selector::load`], for a vocabulary.
    pub(super) fn build(
        options: &SessionOptions,
        rules: Rules,
        vocab: usize,
        longest: usize,
    ) -> Result<Self, RuntimeError> {
        let graph = match &rules.choice {
            Choice::Best(count) => graph::best((count + FORBIDDEN + EQUALS).min(vocab), rules.end, vocab),
            Choice::Draw(settings) => graph::draw(settings, &rules, vocab),
        };
        let session = session::create_in_memory("select", graph, options)?;
        Ok(Self { session, rules, vocab, longest, fetched: 0 })
    }

    /// Rows so far whose logits were fetched because too many of them were equal.
    pub fn fetched(&self) -> u64 {
        self.fetched
    }

    /// Answers of all rows of `logits`, which lie on the device. Rows without a question get nothing.
    ///
    /// # Errors
    /// When a row that asks is not finite numbers, or the graph fails.
    pub fn answer_all(
        &mut self,
        logits: &Tensor<f32>,
        questions: &[Option<Question>],
    ) -> Result<Vec<Answer>, RuntimeError> {
        if questions.iter().all(Option::is_none) {
            return Ok(vec![Vec::new(); questions.len()]);
        }
        match self.rules.choice {
            Choice::Best(count) => self.best(logits, questions, count),
            Choice::Draw(_) => self.draw(logits, questions),
        }
    }

    fn best(
        &mut self,
        logits: &Tensor<f32>,
        questions: &[Option<Question>],
        count: usize,
    ) -> Result<Vec<Answer>, RuntimeError> {
        let failed = |source| failed(questions.len(), source);
        let (ids, [values, logprobs, end]) =
            self.run(logits, questions, ["values", "logprobs", "end_logprob"]).map_err(failed)?;
        let k = ids.len() / questions.len();
        let lists = ids.chunks_exact(k).zip(values.chunks_exact(k)).zip(logprobs.chunks_exact(k)).zip(&end);
        let mut rows = Vec::with_capacity(questions.len());
        for ((((ids, values), logprobs), end), question) in lists.zip(questions) {
            let list = List { ids, values, logprobs, end: *end, whole: k == self.vocab };
            rows.push(
                question.as_ref().map_or(Ok(Some(Vec::new())), |q| list.choose(q, &self.rules, count))?,
            );
        }
        if rows.iter().all(Option::is_some) {
            return Ok(rows.into_iter().flatten().collect());
        }
        let mut logits = logits.to(AllocationDevice::CPU, 0).map_err(failed)?;
        let logits = logits.extract_tensor_mut().1.chunks_exact_mut(self.vocab);
        let rules = &self.rules;
        let mut fetched = 0;
        let answers =
            rows.into_iter().zip(logits).zip(questions).map(|((row, logits), question)| match row {
                Some(answer) => Ok(answer),
                None => {
                    fetched += 1;
                    question.as_ref().map_or(Ok(Vec::new()), |question| host::answer(logits, question, rules))
                }
            });
        let answers = answers.collect();
        self.fetched += fetched;
        answers
    }

    fn draw(
        &mut self,
        logits: &Tensor<f32>,
        questions: &[Option<Question>],
    ) -> Result<Vec<Answer>, RuntimeError> {
        let failed = |source| failed(questions.len(), source);
        let (ids, [logprobs, check]) = self.run(logits, questions, ["logprobs", "check"]).map_err(failed)?;
        let rows = ids.iter().zip(&logprobs).zip(check.as_chunks().0).zip(questions);
        rows.map(|(((id, logprob), check), question)| match question {
            Some(_) => drawn(*id, *logprob, *check),
            None => Ok(Vec::new()),
        })
        .collect()
    }

    /// Runs the graph; returns `ids` and the named outputs of real numbers.
    fn run<const N: usize>(
        &mut self,
        logits: &Tensor<f32>,
        questions: &[Option<Question>],
        names: [&str; N],
    ) -> ort::Result<(Vec<i64>, [Vec<f32>; N])> {
        let rows = questions.len();
        let mut binding = self.session.create_binding()?;
        binding.bind_input("logits", logits)?;
        if matches!(self.rules.choice, Choice::Draw(_)) {
            let idle = Question::default();
            let each = || questions.iter().map(|question| question.as_ref().unwrap_or(&idle));
            let flags = |flag: fn(&Question) -> bool| {
                Tensor::from_array(([rows, 1], each().map(flag).collect::<Vec<_>>()))
            };
            binding.bind_input("forbid_end", &flags(|q| q.forbid_end)?)?;
            binding.bind_input("force_end", &flags(|q| q.force_end)?)?;
            let numbers: Vec<f64> = each().map(|q| q.uniform).collect();
            binding.bind_input("uniform", &Tensor::from_array(([rows, 1], numbers))?)?;
            if self.rules.penalises() {
                let longest = self.longest.max(1);
                let said: Vec<i64> = each().flat_map(|q| padded(&q.said, longest)).collect();
                binding.bind_input("said", &Tensor::from_array(([rows, longest], said))?)?;
            }
        }
        let host = Memory::Cpu.info()?;
        binding.bind_output_to_device("ids", &host)?;
        for name in names {
            binding.bind_output_to_device(name, &host)?;
        }
        binding.synchronize_inputs()?;
        let outputs = self.session.run_binding(&binding)?;
        let ids = outputs["ids"].try_extract_tensor::<i64>()?.1.to_vec();
        let mut reals = [const { Vec::new() }; N];
        for (values, name) in reals.iter_mut().zip(names) {
            *values = outputs[name].try_extract_tensor::<f32>()?.1.to_vec();
        }
        Ok((ids, reals))
    }
}

fn failed(rows: usize, source: ort::Error) -> RuntimeError {
    RuntimeError::Run { graph: "choice of tokens", rows, source }
}

/// `said`, its first id again and again behind it.
fn padded(said: &[i64], longest: usize) -> impl Iterator<Item = i64> {
    let first = said.first().copied().unwrap_or_default();
    said.iter().copied().chain(std::iter::repeat(first)).take(longest)
}

/// The largest logits of a row, `[k]` each.
struct List<'a> {
    ids: &'a [i64],
    values: &'a [f32],
    logprobs: &'a [f32],
    /// Log-probability of the end.
    end: f32,
    /// Whether it holds the whole vocabulary.
    whole: bool,
}

impl List<'_> {
    /// The row's next tokens, or `None` where equal logits that are not in the list may come before some that are.
    fn choose(
        &self,
        question: &Question,
        rules: &Rules,
        count: usize,
    ) -> Result<Option<Answer>, RuntimeError> {
        // Over all logits: one that is no number makes all of them none.
        if self.end.is_nan() || self.logprobs.iter().any(|logprob| logprob.is_nan()) {
            return Err(not_numbers());
        }
        if question.force_end {
            let token = NextToken { id: rules.end, logprob: self.end };
            return if self.end.is_finite() { Ok(Some(vec![token])) } else { Err(not_numbers()) };
        }
        let forbidden = |id: usize| id == rules.pad || question.forbid_end && id == rules.end;
        let mut tokens: Vec<(f32, NextToken)> = (self.ids.iter().zip(self.logprobs).zip(self.values))
            .map(|((id, logprob), value)| (*value, NextToken { id: *id as usize, logprob: *logprob }))
            .filter(|(value, token)| *value > f32::NEG_INFINITY && !forbidden(token.id))
            .collect();
        tokens.sort_by(|(a, left), (b, right)| b.total_cmp(a).then(left.id.cmp(&right.id)));
        tokens.truncate(count);
        let Some((least, _)) = tokens.last() else { return Err(not_numbers()) };
        let shortest = self.values.iter().copied().fold(f32::INFINITY, f32::min);
        if !self.whole && *least == shortest {
            return Ok(None);
        }
        Ok(Some(tokens.into_iter().map(|(_, token)| token).collect()))
    }
}

/// The answer of a row that draws.
fn drawn(id: i64, logprob: f32, [sum, possible]: [f32; 2]) -> Result<Answer, RuntimeError> {
    if sum.is_nan() || sum == f32::INFINITY || possible.is_nan() || !logprob.is_finite() {
        return Err(not_numbers());
    }
    Ok(vec![NextToken { id: id as usize, logprob }])
}
