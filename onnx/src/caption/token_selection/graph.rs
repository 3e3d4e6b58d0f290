//! The graphs that select tokens on a device, built from operators that every provider has fast kernels for: on CUDA a
//! ReduceMax over a vocabulary takes 50 times as long as a TopK.
//!
//! [`best`]: `logits` f32 `[R, V]` -> `values` f32, `ids` i64 and `logprobs` f32 `[R, k]`, the largest logits first (equal
//! ones in any order) with log-probabilities over all tokens, and `end_logprob` f32 `[R, 1]`. The host decides which of them
//! a row may take. A row that is not finite has NaN for log-probabilities.
//!
//! [`sample`]: `logits` f32 `[R, V]`; `forbid_end`, `force_end` bool `[R, 1]`; `uniform` f64 `[R, 1]`; with a repetition
//! penalty `previous_ids` i64 `[R, S]` (an id that is listed twice is penalised once). Outputs: `ids` i64 and `logprobs` f32
//! `[R, 1]`; `check` f32 `[R, 2]`: the sum of the logits, and 0, or NaN where no token is possible. Tokens are kept by
//! thresholds, without sorting a vocabulary: top-k's is the k-th largest logit, top-p's is found by bisection. All logits
//! equal to the threshold are kept, where the host counts them one by one. The distribution function is inverted in the order
//! of ids, in two levels as on the host: the block, then the token in it.

use super::request::SelectionConfig;
use crate::{
    caption::settings::SampleSettings,
    export::graph::{Attr, DType, Dim, GraphBuilder, Value},
};

/// Tokens per block of the two-level inversion.
const BLOCK: usize = 256;
/// Rounds of bisection: enough to halve the range of possible exponents down to the spacing of f32.
const ROUNDS: usize = 30;
/// Exponents up to this one have weight zero, as on the host.
const MIN_EXPONENT: f32 = -87.0;
/// A bound above the largest exponent, which is 0.
const ABOVE_MAX_EXPONENT: f32 = 1e-3;
/// The largest number below one: a product with it stays below the other factor.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON;

/// Builds the graph that finds the `k` largest logits, `k <= vocab`.
pub(super) fn best(k: usize, end: usize, vocab: usize) -> GraphBuilder {
    let mut b = Builder { g: GraphBuilder::new("select"), vocab };
    let logits = b.g.input("logits", DType::F32, &[Dim::Named("rows"), Dim::Fixed(vocab)]);
    let logprobs = b.g.op("LogSoftmax", &[&logits], &[("axis", Attr::Int(-1))]);
    let [values, ids] = b.top(&logits, k);
    // With NaN among the logits any index may come out, even one outside.
    let (first, last) = (b.g.int(0), b.g.int(vocab as i64 - 1));
    let ids = b.binary("Max", &ids, &first);
    let ids = b.binary("Min", &ids, &last);
    let best = b.g.op("GatherElements", &[&logprobs, &ids], &[("axis", Attr::Int(1))]);
    let end = b.columns(&logprobs, end, end + 1);
    let shape = [Dim::Named("rows"), Dim::Fixed(k)];
    b.g.output("values", &values, DType::F32, &shape);
    b.g.output("ids", &ids, DType::I64, &shape);
    b.g.output("logprobs", &best, DType::F32, &shape);
    b.g.output("end_logprob", &end, DType::F32, &[Dim::Named("rows"), Dim::Fixed(1)]);
    b.g
}

/// Builds the graph that samples a token.
pub(super) fn sample(settings: &SampleSettings, config: &SelectionConfig, vocab: usize) -> GraphBuilder {
    let mut b = Builder { g: GraphBuilder::new("select"), vocab };
    let logits = b.g.input("logits", DType::F32, &[Dim::Named("rows"), Dim::Fixed(vocab)]);
    let forbid_end = b.column_input("forbid_end", DType::Bool);
    let force_end = b.column_input("force_end", DType::Bool);
    let logprobs = b.g.op("LogSoftmax", &[&logits], &[("axis", Attr::Int(-1))]);
    let penalised = if config.has_repetition_penalty() {
        b.penalise(&logits, settings.repetition_penalty)
    } else {
        logits.clone()
    };
    let masked = b.mask(&penalised, config, &forbid_end);
    let [best, _] = b.top(&masked, 1);
    let id = b.sample(&masked, &best, settings);
    b.output_tokens(&id, &logprobs, &force_end, config.end);
    b.output_check(&logits, &best, &force_end);
    b.g
}

struct Builder {
    g: GraphBuilder,
    vocab: usize,
}

impl Builder {
    fn column_input(&mut self, name: &str, dtype: DType) -> Value {
        self.g.input(name, dtype, &[Dim::Named("rows"), Dim::Fixed(1)])
    }

    fn f32(&mut self, value: f32) -> Value {
        self.g.real(DType::F32, value)
    }

    fn f64(&mut self, value: f32) -> Value {
        self.g.real(DType::F64, value)
    }

    fn binary(&mut self, op: &str, a: &Value, b: &Value) -> Value {
        self.g.op(op, &[a, b], &[])
    }

    fn select_where(&mut self, condition: &Value, yes: &Value, no: &Value) -> Value {
        self.g.op("Where", &[condition, yes, no], &[])
    }

    fn cast(&mut self, x: &Value, dtype: DType) -> Value {
        self.g.op("Cast", &[x], &[("to", Attr::Int(dtype.code().into()))])
    }

    /// Returns the largest value of every row, `[R, 1]`; slow for rows as long as a vocabulary.
    fn row_max(&mut self, x: &Value) -> Value {
        self.g.op("ReduceMax", &[x], &[("axes", Attr::Ints(&[-1])), ("keepdims", Attr::Int(1))])
    }

    /// Sums over the last axis, which is kept.
    fn sum(&mut self, x: &Value) -> Value {
        let axis = self.g.ints(&[-1]);
        self.g.op("ReduceSum", &[x, &axis], &[("keepdims", Attr::Int(1))])
    }

    /// Returns columns `from..to` of `[R, _]`.
    fn columns(&mut self, x: &Value, from: usize, to: usize) -> Value {
        let (from, to, axis) = (self.g.ints(&[from as i64]), self.g.ints(&[to as i64]), self.g.ints(&[1]));
        self.g.op("Slice", &[x, &from, &to, &axis], &[])
    }

    /// Returns the k largest values of every row, largest first, and their indices.
    fn top(&mut self, x: &Value, k: usize) -> [Value; 2] {
        let k = self.g.ints(&[k as i64]);
        self.g.op_with_outputs("TopK", &[x, &k], &[("axis", Attr::Int(-1))])
    }

    /// Returns bool `[1, V]`, true at one id.
    fn one_hot(&mut self, id: usize) -> Value {
        let column = (0..self.vocab).map(|i| u8::from(i == id)).collect();
        self.g.inline(DType::Bool, &[1, self.vocab as i64], column)
    }

    /// Makes padding, and the end token where it is forbidden, impossible.
    fn mask(&mut self, x: &Value, config: &SelectionConfig, forbid_end: &Value) -> Value {
        let (end, never) = (self.one_hot(config.end), self.f32(f32::NEG_INFINITY));
        let mut banned = self.binary("And", &end, forbid_end);
        if let Some(id) = config.banned {
            let always = self.one_hot(id);
            banned = self.binary("Or", &always, &banned);
        }
        self.select_where(&banned, &never, x)
    }

    /// Divides positive logits of previous ids by the penalty, and multiplies negative ones.
    fn penalise(&mut self, logits: &Value, penalty: f32) -> Value {
        let previous_ids =
            self.g.input("previous_ids", DType::I64, &[Dim::Named("rows"), Dim::Named("previous")]);
        let (penalty, zero) = (self.f32(penalty), self.f32(0.0));
        let raw = self.g.op("GatherElements", &[logits, &previous_ids], &[("axis", Attr::Int(1))]);
        let negative = self.binary("Less", &raw, &zero);
        let (less, more) = (self.binary("Mul", &raw, &penalty), self.binary("Div", &raw, &penalty));
        let new = self.select_where(&negative, &less, &more);
        self.g.op("ScatterElements", &[logits, &previous_ids, &new], &[("axis", Attr::Int(1))])
    }

    /// Returns ids `[R, 1]` sampled from the logits `x`.
    fn sample(&mut self, x: &Value, best: &Value, settings: &SampleSettings) -> Value {
        let (inverse, least, zero) =
            (self.f32(1.0 / settings.temperature), self.f32(MIN_EXPONENT), self.f32(0.0));
        let z = self.binary("Sub", x, best);
        let z = self.binary("Mul", &z, &inverse);
        let mut possible = self.binary("Greater", &z, &least);
        if settings.top_k > 0 && settings.top_k < self.vocab {
            let [values, _] = self.top(x, settings.top_k);
            let least = self.columns(&values, settings.top_k - 1, settings.top_k);
            let among = self.binary("GreaterOrEqual", x, &least);
            possible = self.binary("And", &possible, &among);
        }
        let weights = self.g.op("Exp", &[&z], &[]);
        let mut weights = self.select_where(&possible, &weights, &zero);
        if settings.top_p < 1.0 {
            let threshold = self.threshold(&z, &weights, settings.top_p);
            let above = self.binary("GreaterOrEqual", &z, &threshold);
            weights = self.select_where(&above, &weights, &zero);
        }
        self.invert(&weights)
    }

    /// Returns the largest threshold `[R, 1]`, within f32's spacing, above which `share` of the total weight lies.
    fn threshold(&mut self, z: &Value, weights: &Value, share: f32) -> Value {
        let (zero, half, share) = (self.f32(0.0), self.f32(0.5), self.f32(share));
        let total = self.sum(weights);
        let wanted = self.binary("Mul", &total, &share);
        let (mut low, mut high) = (self.f32(MIN_EXPONENT), self.f32(ABOVE_MAX_EXPONENT));
        for _ in 0..ROUNDS {
            let middle = self.binary("Add", &low, &high);
            let middle = self.binary("Mul", &middle, &half);
            let above = self.binary("GreaterOrEqual", z, &middle);
            let mass = self.select_where(&above, weights, &zero);
            let mass = self.sum(&mass);
            let enough = self.binary("GreaterOrEqual", &mass, &wanted);
            low = self.select_where(&enough, &middle, &low);
            high = self.select_where(&enough, &high, &middle);
        }
        low
    }

    /// Returns where the running sum of weights `[R, V]`, in the order of ids, exceeds `uniform` times the total.
    fn invert(&mut self, weights: &Value) -> Value {
        let uniform = self.column_input("uniform", DType::F64);
        let blocks = self.vocab.div_ceil(BLOCK);
        let (missing, size) = (blocks * BLOCK - self.vocab, self.g.int(BLOCK as i64));
        let mut weights = weights.clone();
        if missing > 0 {
            let pads = self.g.ints(&[0, 0, 0, missing as i64]);
            weights = self.binary("Pad", &weights, &pads);
        }
        let shape = self.g.ints(&[-1, blocks as i64, BLOCK as i64]);
        let weights = self.binary("Reshape", &weights, &shape);
        let sums = self.sum(&weights);
        let shape = self.g.ints(&[-1, blocks as i64]);
        let sums = self.binary("Reshape", &sums, &shape);
        let running = self.running_sum(&sums);
        let total = self.columns(&running, blocks - 1, blocks);
        let target = self.binary("Mul", &uniform, &total);
        let (block, before) = self.first_above(&running, &target, blocks);
        let rest = self.binary("Sub", &target, &before);
        let inside = self.g.op("GatherND", &[&weights, &block], &[("batch_dims", Attr::Int(1))]);
        let running = self.running_sum(&inside);
        // Rounding must not carry the rest past the block's end.
        let (end, below) = (self.columns(&running, BLOCK - 1, BLOCK), self.f64(BELOW_ONE));
        let end = self.binary("Mul", &end, &below);
        let rest = self.binary("Min", &rest, &end);
        let (place, _) = self.first_above(&running, &rest, BLOCK);
        let start = self.binary("Mul", &block, &size);
        let (id, last) = (self.binary("Add", &start, &place), self.g.int(self.vocab as i64 - 1));
        self.binary("Min", &id, &last)
    }

    /// Returns running sums in f64. For short rows only: ONNX Runtime's CumSum on CUDA is quadratic in their length.
    fn running_sum(&mut self, x: &Value) -> Value {
        let (x, axis) = (self.cast(x, DType::F64), self.g.int(1));
        self.binary("CumSum", &x, &axis)
    }

    /// Returns the index of the first of `count` running sums that exceeds `target`, and the sum before it or zero.
    fn first_above(&mut self, running: &Value, target: &Value, count: usize) -> (Value, Value) {
        let (zero, last) = (self.f64(0.0), self.g.int(count as i64 - 1));
        let passed = self.binary("LessOrEqual", running, target);
        let before = self.select_where(&passed, running, &zero);
        let before = self.row_max(&before);
        let passed = self.cast(&passed, DType::F32);
        let passed = self.sum(&passed);
        let place = self.cast(&passed, DType::I64);
        (self.binary("Min", &place, &last), before)
    }

    /// Adds the outputs of one token per row, the end token where it is forced.
    fn output_tokens(&mut self, id: &Value, logprobs: &Value, force_end: &Value, end: usize) {
        let end = self.g.int(end as i64);
        let id = self.select_where(force_end, &end, id);
        let logprob = self.g.op("GatherElements", &[logprobs, &id], &[("axis", Attr::Int(1))]);
        let shape = [Dim::Named("rows"), Dim::Fixed(1)];
        self.g.output("ids", &id, DType::I64, &shape);
        self.g.output("logprobs", &logprob, DType::F32, &shape);
    }

    /// Adds the output `check`.
    fn output_check(&mut self, logits: &Value, best: &Value, force_end: &Value) {
        let zero = self.f32(0.0);
        let sum = self.sum(logits);
        // Infinity minus itself is NaN.
        let possible = self.binary("Sub", best, best);
        let possible = self.select_where(force_end, &zero, &possible);
        let check = self.g.op("Concat", &[&sum, &possible], &[("axis", Attr::Int(1))]);
        self.g.output("check", &check, DType::F32, &[Dim::Named("rows"), Dim::Fixed(2)]);
    }
}
