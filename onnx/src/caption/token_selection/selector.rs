//! Token selection on a device: a graph on the session's provider. A few bytes per row cross the bus, logits do not.
//!
//! The graph returns a list of best tokens that is a little longer than needed, from which this file selects: it leaves out
//! padding and a forbidden end token, and of equal logits takes the lower id. Where equal logits reach the end of the list,
//! more of them may follow: such a row's logits are copied to the host, which selects.

use ort::{memory::AllocationDevice, session::Session, value::Tensor};

use super::{
    graph, host,
    request::{LogitsRequest, NextToken, SelectionConfig, TokenSelection, TopTokens, non_finite_logits},
};
use crate::{
    model::ModelFolder,
    runtime::{Memory, RuntimeError, SessionOptions, create_in_memory},
};

/// Tokens that may be among the best although they are forbidden: padding and the end token.
const FORBIDDEN: usize = 2;
/// Further tokens of the list: with this many equal logits, selection is left to the host.
const TIES: usize = 5;

/// Runs the selection graph.
#[derive(Debug)]
pub(in crate::caption) struct Selector {
    session: Session,
    config: SelectionConfig,
    vocab: usize,
    /// Ids of the max_ids text.
    max_ids: usize,
    /// Rows that were selected on the host, because of equal logits.
    rows_fetched: u64,
}

impl Selector {
    /// Builds the graph for a model and texts of at most `max_ids` ids, start token and prompt included.
    ///
    /// # Errors
    /// When ONNX Runtime cannot load it.
    pub(in crate::caption) fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        config: SelectionConfig,
        max_ids: usize,
    ) -> Result<Self, RuntimeError> {
        Self::build(options, config, model.spec.dimensions.vocab_size, max_ids)
    }

    /// Builds the graph for a vocabulary of `vocab` tokens, see [`Selector::load`].
    pub(super) fn build(
        options: &SessionOptions,
        config: SelectionConfig,
        vocab: usize,
        max_ids: usize,
    ) -> Result<Self, RuntimeError> {
        let graph = match &config.selection {
            TokenSelection::Best(count) => {
                graph::best((count + FORBIDDEN + TIES).min(vocab), config.end, vocab)
            }
            TokenSelection::Sample(settings) => graph::sample(settings, &config, vocab),
        };
        let session = create_in_memory("select", graph, options)?;
        Ok(Self { session, config, vocab, max_ids, rows_fetched: 0 })
    }

    /// Returns the number of rows so far whose logits were copied to the host because too many of them were equal.
    pub(in crate::caption) fn rows_fetched(&self) -> u64 {
        self.rows_fetched
    }

    /// Selects the tokens of all rows of `logits` `[R, V]`, which are on the device. Rows without a request get none.
    ///
    /// # Errors
    /// When a requested row is not finite, or the graph fails.
    pub(in crate::caption) fn select(
        &mut self,
        logits: &Tensor<f32>,
        requests: &[Option<LogitsRequest>],
    ) -> Result<Vec<TopTokens>, RuntimeError> {
        if requests.iter().all(Option::is_none) {
            return Ok(vec![Vec::new(); requests.len()]);
        }
        match self.config.selection {
            TokenSelection::Best(count) => self.best(logits, requests, count),
            TokenSelection::Sample(_) => self.sample(logits, requests),
        }
    }

    fn best(
        &mut self,
        logits: &Tensor<f32>,
        requests: &[Option<LogitsRequest>],
        count: usize,
    ) -> Result<Vec<TopTokens>, RuntimeError> {
        let failed = |source| failed(requests.len(), source);
        let (ids, [values, logprobs, end]) =
            self.run(logits, requests, ["values", "logprobs", "end_logprob"]).map_err(failed)?;
        let k = ids.len() / requests.len();
        let lists = ids.chunks_exact(k).zip(values.chunks_exact(k)).zip(logprobs.chunks_exact(k)).zip(&end);
        let mut rows = Vec::with_capacity(requests.len());
        for ((((ids, values), logprobs), end), request) in lists.zip(requests) {
            let list = List { ids, values, logprobs, end: *end, whole: k == self.vocab };
            rows.push(
                request.as_ref().map_or(Ok(Some(Vec::new())), |q| list.select(q, &self.config, count))?,
            );
        }
        if rows.iter().all(Option::is_some) {
            return Ok(rows.into_iter().flatten().collect());
        }
        let mut logits = logits.to(AllocationDevice::CPU, 0).map_err(failed)?;
        let logits = logits.extract_tensor_mut().1.chunks_exact_mut(self.vocab);
        let config = &self.config;
        let mut fetched = 0;
        let tokens = rows.into_iter().zip(logits).zip(requests).map(|((row, logits), request)| match row {
            Some(tokens) => Ok(tokens),
            None => {
                fetched += 1;
                let select = |request| host::select_row(logits, request, config);
                request.as_ref().map_or(Ok(Vec::new()), select)
            }
        });
        let tokens = tokens.collect();
        self.rows_fetched += fetched;
        tokens
    }

    fn sample(
        &mut self,
        logits: &Tensor<f32>,
        requests: &[Option<LogitsRequest>],
    ) -> Result<Vec<TopTokens>, RuntimeError> {
        let failed = |source| failed(requests.len(), source);
        let (ids, [logprobs, check]) = self.run(logits, requests, ["logprobs", "check"]).map_err(failed)?;
        let rows = ids.iter().zip(&logprobs).zip(check.as_chunks().0).zip(requests);
        rows.map(|(((id, logprob), check), request)| match request {
            Some(_) => sampled(*id, *logprob, *check),
            None => Ok(Vec::new()),
        })
        .collect()
    }

    /// Runs the graph; returns `ids` and the named real outputs.
    fn run<const N: usize>(
        &mut self,
        logits: &Tensor<f32>,
        requests: &[Option<LogitsRequest>],
        names: [&str; N],
    ) -> ort::Result<(Vec<i64>, [Vec<f32>; N])> {
        let rows = requests.len();
        let mut binding = self.session.create_binding()?;
        binding.bind_input("logits", logits)?;
        if matches!(self.config.selection, TokenSelection::Sample(_)) {
            let idle = LogitsRequest::default();
            let each = || requests.iter().map(|request| request.as_ref().unwrap_or(&idle));
            let flags = |flag: fn(&LogitsRequest) -> bool| {
                Tensor::from_array(([rows, 1], each().map(flag).collect::<Vec<_>>()))
            };
            binding.bind_input("forbid_end", &flags(|q| q.forbid_end)?)?;
            binding.bind_input("force_end", &flags(|q| q.force_end)?)?;
            let numbers: Vec<f64> = each().map(|q| q.uniform).collect();
            binding.bind_input("uniform", &Tensor::from_array(([rows, 1], numbers))?)?;
            if self.config.has_repetition_penalty() {
                let max_ids = self.max_ids.max(1);
                let ids: Vec<i64> = each().flat_map(|q| padded(&q.previous_ids, max_ids)).collect();
                binding.bind_input("previous_ids", &Tensor::from_array(([rows, max_ids], ids))?)?;
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
    RuntimeError::Run { graph: "token selection", rows, source }
}

/// Returns `previous_ids` padded to `max_ids` with copies of its first id.
fn padded(previous_ids: &[i64], max_ids: usize) -> impl Iterator<Item = i64> {
    let first = previous_ids.first().copied().unwrap_or_default();
    previous_ids.iter().copied().chain(std::iter::repeat(first)).take(max_ids)
}

/// The largest logits of a row, `[k]` each.
struct List<'a> {
    ids: &'a [i64],
    values: &'a [f32],
    logprobs: &'a [f32],
    /// Log-probability of the end token.
    end: f32,
    /// Whether the list holds the whole vocabulary.
    whole: bool,
}

impl List<'_> {
    /// Returns the row's next tokens, or `None` where equal logits beyond the list may rank before some of it.
    fn select(
        &self,
        request: &LogitsRequest,
        config: &SelectionConfig,
        count: usize,
    ) -> Result<Option<TopTokens>, RuntimeError> {
        // Log-probabilities are normalised over all logits: a NaN among them makes all of them NaN.
        if self.end.is_nan() || self.logprobs.iter().any(|logprob| logprob.is_nan()) {
            return Err(non_finite_logits());
        }
        if request.force_end {
            let token = NextToken { id: config.end, logprob: self.end };
            return if self.end.is_finite() { Ok(Some(vec![token])) } else { Err(non_finite_logits()) };
        }
        let forbidden = |id: usize| config.banned == Some(id) || request.forbid_end && id == config.end;
        let mut tokens: Vec<(f32, NextToken)> = (self.ids.iter().zip(self.logprobs).zip(self.values))
            .map(|((id, logprob), value)| (*value, NextToken { id: *id as usize, logprob: *logprob }))
            .filter(|(value, token)| *value > f32::NEG_INFINITY && !forbidden(token.id))
            .collect();
        tokens.sort_by(|(a, left), (b, right)| b.total_cmp(a).then(left.id.cmp(&right.id)));
        tokens.truncate(count);
        let Some((least, _)) = tokens.last() else { return Err(non_finite_logits()) };
        let shortest = self.values.iter().copied().fold(f32::INFINITY, f32::min);
        if !self.whole && *least == shortest {
            return Ok(None);
        }
        Ok(Some(tokens.into_iter().map(|(_, token)| token).collect()))
    }
}

/// Returns the token of a row that was sampled.
fn sampled(id: i64, logprob: f32, [sum, possible]: [f32; 2]) -> Result<TopTokens, RuntimeError> {
    if sum.is_nan() || sum == f32::INFINITY || possible.is_nan() || !logprob.is_finite() {
        return Err(non_finite_logits());
    }
    Ok(vec![NextToken { id: id as usize, logprob }])
}
