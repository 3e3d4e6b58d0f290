//! Answers on a device: the selection graph on the session's provider. A few bytes per row cross the bus, logits do not.

use ort::{session::Session, value::Tensor};

use super::{Answer, Choice, NextToken, Question, Rules, graph, not_numbers};
use crate::{
    model::ModelFolder,
    runtime::{RuntimeError, SessionOptions, device::Memory, session},
};

/// Runs the selection graph.
pub struct Selector {
    session: Session,
    rules: Rules,
    /// Ids of the longest text.
    longest: usize,
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
        let session = session::create_in_memory("select", &graph::build(&rules, vocab), options)?;
        Ok(Self { session, rules, longest })
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
        let rows = questions.len();
        let (ids, logprobs, check) = self.run(logits, questions).map_err(|source| RuntimeError::Run {
            graph: "choice of tokens",
            rows,
            source,
        })?;
        let k = ids.len() / rows;
        let tokens = ids.chunks_exact(k).zip(logprobs.chunks_exact(k)).zip(check.as_chunks().0);
        tokens
            .zip(questions)
            .map(|(((ids, logprobs), check), question)| match question {
                Some(_) => tokens_of(ids, logprobs, *check),
                None => Ok(Vec::new()),
            })
            .collect()
    }

    fn run(
        &mut self,
        logits: &Tensor<f32>,
        questions: &[Option<Question>],
    ) -> ort::Result<(Vec<i64>, Vec<f32>, Vec<f32>)> {
        let rows = questions.len();
        let idle = Question::default();
        let each = || questions.iter().map(|question| question.as_ref().unwrap_or(&idle));
        let flags = |flag: fn(&Question) -> bool| {
            Tensor::from_array(([rows, 1], each().map(flag).collect::<Vec<_>>()))
        };
        let mut binding = self.session.create_binding()?;
        binding.bind_input("logits", logits)?;
        binding.bind_input("forbid_end", &flags(|q| q.forbid_end)?)?;
        binding.bind_input("force_end", &flags(|q| q.force_end)?)?;
        if matches!(self.rules.choice, Choice::Draw(_)) {
            let numbers: Vec<f64> = each().map(|q| q.uniform).collect();
            binding.bind_input("uniform", &Tensor::from_array(([rows, 1], numbers))?)?;
        }
        if self.rules.penalises() {
            let longest = self.longest.max(1);
            let said: Vec<i64> = each().flat_map(|q| padded(&q.said, longest)).collect();
            binding.bind_input("said", &Tensor::from_array(([rows, longest], said))?)?;
        }
        let host = Memory::Cpu.info()?;
        for name in ["ids", "logprobs", "check"] {
            binding.bind_output_to_device(name, &host)?;
        }
        binding.synchronize_inputs()?;
        let outputs = self.session.run_binding(&binding)?;
        let reals = |name: &str| Ok::<_, ort::Error>(outputs[name].try_extract_tensor::<f32>()?.1.to_vec());
        let ids = outputs["ids"].try_extract_tensor::<i64>()?.1.to_vec();
        Ok((ids, reals("logprobs")?, reals("check")?))
    }
}

/// `said`, its first id again and again behind it.
fn padded(said: &[i64], longest: usize) -> impl Iterator<Item = i64> {
    let first = said.first().copied().unwrap_or_default();
    said.iter().copied().chain(std::iter::repeat(first)).take(longest)
}

/// What a row's outputs say.
fn tokens_of(ids: &[i64], logprobs: &[f32], [sum, possible]: [f32; 2]) -> Result<Answer, RuntimeError> {
    if sum.is_nan() || sum == f32::INFINITY || possible.is_nan() {
        return Err(not_numbers());
    }
    let tokens: Answer = ids
        .iter()
        .zip(logprobs)
        .take_while(|(_, logprob)| logprob.is_finite())
        .map(|(id, logprob)| NextToken { id: *id as usize, logprob: *logprob })
        .collect();
    if tokens.is_empty() { Err(not_numbers()) } else { Ok(tokens) }
}
