//! The graphs that choose tokens on a device. Built from plain operators that every provider has fast kernels for: on CUDA a
//! ReduceMax over a vocabulary takes 50 times as long as a TopK.
//!
//! The best tokens ([`best`]): `logits` f32 `[R, V]` -> `values` f32, `ids` i64 and `logprobs` f32 `[R, k]`, the largest
//! logits first (equal ones in any order) with log-probabilities over all tokens, and `end_logprob` f32 `[R, 1]`. Which of them
//! a row may choose is decided on the host. A row that is not finite numbers has log-probabilities that are none.
//!
//! Draws ([`draw`]): `logits` f32 `[R, V]`; `forbid_end`, `force_end` bool `[R, 1]`; `uniform` f64 `[R, 1]`, and `said` i64
//! `[R, S]` where said tokens are penalised (an id that stands there twice is penalised once). Outputs: `ids` i64 and
//! `logprobs` f32 `[R, 1]`; `check` f32 `[R, 2]`: the sum of the logits, and zero, or not a number where nothing is possible.
//! They are made by thresholds, without sorting a vocabulary: top-k's is the k-th largest logit, top-p's is found by
//! bisection. On the border all equal logits stay, where the host counts them one by one. The distribution function is
//! inverted in the order of ids, in two levels as on the host: the block, then the token within.

use super::Rules;
use crate::{
    caption::SampleSettings,
    export::graph::{Attr, DType, Dim, GraphBuilder, Value},
};

/// Tokens per block of the two-level inversion.
const BLOCK: usize = 256;
/// Rounds of bisection: as many as it takes to halve the range of possible exponents down to the spacing of f32.
const ROUNDS: usize = 30;
/// Weights of `exp` of this and less are nothing, as on the host.
const LEAST: f32 = -87.0;
/// Above the largest exponent, which is 0.
const ABOVE_ALL: f32 = 1e-3;
/// What a number below one is at most, so that a product with it stays below the other factor.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON;

/// Builds the graph of the `k` largest logits, `k <= vocab`.
pub fn best(k: usize, end: usize, vocab: usize) -> GraphBuilder {
    let mut b = Builder { g: GraphBuilder::new("select"), vocab };
    let logits = b.g.input("logits", DType::F32, &[Dim::Named("rows"), Dim::Fixed(vocab)]);
    let logprobs = b.g.op("LogSoftmax", &[&logits], &[("axis", Attr::Int(-1))]);
    let [values, ids] = b.top(&logits, k);
    // Among what is no number any place may come out, also one outside.
    let (first, last) = (b.g.int(0), b.g.int(vocab as i64 - 1));
    let ids = b.two("Max", &ids, &first);
    let ids = b.two("Min", &ids, &last);
    let best = b.g.op("GatherElements", &[&logprobs, &ids], &[("axis", Attr::Int(1))]);
    let end = b.columns(&logprobs, end, end + 1);
    let shape = [Dim::Named("rows"), Dim::Fixed(k)];
    b.g.output("values", &values, DType::F32, &shape);
    b.g.output("ids", &ids, DType::I64, &shape);
    b.g.output("logprobs", &best, DType::F32, &shape);
    b.g.output("end_logprob", &end, DType::F32, &[Dim::Named("rows"), Dim::Fixed(1)]);
    b.g
}

/// Builds the graph of draws.
pub fn draw(settings: &SampleSettings, rules: &Rules, vocab: usize) -> GraphBuilder {
    let mut b = Builder { g: GraphBuilder::new("select"), vocab };
    let logits = b.g.input("logits", DType::F32, &[Dim::Named("rows"), Dim::Fixed(vocab)]);
    let forbid_end = b.column_input("forbid_end", DType::Bool);
    let force_end = b.column_input("force_end", DType::Bool);
    let logprobs = b.g.op("LogSoftmax", &[&logits], &[("axis", Attr::Int(-1))]);
    let penalised =
        if rules.penalises() { b.penalise(&logits, settings.repetition_penalty) } else { logits.clone() };
    let masked = b.mask(&penalised, rules, &forbid_end);
    let [best, _] = b.top(&masked, 1);
    let id = b.draw(&masked, &best, settings);
    b.finish_draw(&id, &logprobs, &force_end, rules.end);
    b.finish_check(&logits, &best, &force_end);
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

    fn two(&mut self, op: &str, a: &Value, b: &Value) -> Value {
        self.g.op(op, &[a, b], &[])
    }

    fn choose(&mut self, condition: &Value, yes: &Value, no: &Value) -> Value {
        self.g.op("Where", &[condition, yes, no], &[])
    }

    fn cast(&mut self, x: &Value, dtype: DType) -> Value {
        self.g.op("Cast", &[x], &[("to", Attr::Int(dtype.code().into()))])
    }

    /// Largest value of every row, `[R, 1]`; only of rows much shorter than a vocabulary.
    fn row_max(&mut self, x: &Value) -> Value {
        self.g.op("ReduceMax", &[x], &[("axes", Attr::Ints(&[-1])), ("keepdims", Attr::Int(1))])
    }

    /// Sum over the last axis, which stays.
    fn sum(&mut self, x: &Value) -> Value {
        let axis = self.g.ints(&[-1]);
        self.g.op("ReduceSum", &[x, &axis], &[("keepdims", Attr::Int(1))])
    }

    /// Columns `from..to` of `[R, _]`.
    fn columns(&mut self, x: &Value, from: usize, to: usize) -> Value {
        let (from, to, axis) = (self.g.ints(&[from as i64]), self.g.ints(&[to as i64]), self.g.ints(&[1]));
        self.g.op("Slice", &[x, &from, &to, &axis], &[])
    }

    /// The k largest values of every row, largest first, and their places.
    fn top(&mut self, x: &Value, k: usize) -> [Value; 2] {
        let k = self.g.ints(&[k as i64]);
        self.g.op_with_outputs("TopK", &[x, &k], &[("axis", Attr::Int(-1))])
    }

    /// `[1, V]`, true at one id.
    fn is(&mut self, id: usize) -> Value {
        let column = (0..self.vocab).map(|i| u8::from(i == id)).collect();
        self.g.inline(DType::Bool, &[1, self.vocab as i64], column)
    }

    /// Padding, and the end where it is forbidden, become impossible.
    fn mask(&mut self, x: &Value, rules: &Rules, forbid_end: &Value) -> Value {
        let (pad, end, never) = (self.is(rules.pad), self.is(rules.end), self.f32(f32::NEG_INFINITY));
        let end = self.two("And", &end, forbid_end);
        let banned = self.two("Or", &pad, &end);
        self.choose(&banned, &never, x)
    }

    /// Positive logits of said tokens are divided, negative ones multiplied.
    fn penalise(&mut self, logits: &Value, penalty: f32) -> Value {
        let said = self.g.input("said", DType::I64, &[Dim::Named("rows"), Dim::Named("said")]);
        let (penalty, zero) = (self.f32(penalty), self.f32(0.0));
        let raw = self.g.op("GatherElements", &[logits, &said], &[("axis", Attr::Int(1))]);
        let negative = self.two("Less", &raw, &zero);
        let (less, more) = (self.two("Mul", &raw, &penalty), self.two("Div", &raw, &penalty));
        let new = self.choose(&negative, &less, &more);
        self.g.op("ScatterElements", &[logits, &said, &new], &[("axis", Attr::Int(1))])
    }

    /// Ids `[R, 1]` drawn from possible logits `x`.
    fn draw(&mut self, x: &Value, best: &Value, settings: &SampleSettings) -> Value {
        let (inverse, least, zero) = (self.f32(1.0 / settings.temperature), self.f32(LEAST), self.f32(0.0));
        let z = self.two("Sub", x, best);
        let z = self.two("Mul", &z, &inverse);
        let mut possible = self.two("Greater", &z, &least);
        if settings.top_k > 0 && settings.top_k < self.vocab {
            let [values, _] = self.top(x, settings.top_k);
            let least = self.columns(&values, settings.top_k - 1, settings.top_k);
            let among = self.two("GreaterOrEqual", x, &least);
            possible = self.two("And", &possible, &among);
        }
        let weights = self.g.op("Exp", &[&z], &[]);
        let mut weights = self.choose(&possible, &weights, &zero);
        if settings.top_p < 1.0 {
            let threshold = self.threshold(&z, &weights, settings.top_p);
            let above = self.two("GreaterOrEqual", &z, &threshold);
            weights = self.choose(&above, &weights, &zero);
        }
        self.invert(&weights)
    }

    /// The largest threshold, nearly, above which a share of all weight lies, `[R, 1]`.
    fn threshold(&mut self, z: &Value, weights: &Value, share: f32) -> Value {
        let (zero, half, share) = (self.f32(0.0), self.f32(0.5), self.f32(share));
        let total = self.sum(weights);
        let wanted = self.two("Mul", &total, &share);
        let (mut low, mut high) = (self.f32(LEAST), self.f32(ABOVE_ALL));
        for _ in 0..ROUNDS {
            let middle = self.two("Add", &low, &high);
            let middle = self.two("Mul", &middle, &half);
            let above = self.two("GreaterOrEqual", z, &middle);
            let mass = self.choose(&above, weights, &zero);
            let mass = self.sum(&mass);
            let enough = self.two("GreaterOrEqual", &mass, &wanted);
            low = self.choose(&enough, &middle, &low);
            high = self.choose(&enough, &high, &middle);
        }
        low
    }

    /// Where the running sum of weights `[R, V]`, in order of ids, exceeds the number in `uniform` times all of it.
    fn invert(&mut self, weights: &Value) -> Value {
        let uniform = self.column_input("uniform", DType::F64);
        let blocks = self.vocab.div_ceil(BLOCK);
        let (missing, size) = (blocks * BLOCK - self.vocab, self.g.int(BLOCK as i64));
        let mut weights = weights.clone();
        if missing > 0 {
            let pads = self.g.ints(&[0, 0, 0, missing as i64]);
            weights = self.two("Pad", &weights, &pads);
        }
        let shape = self.g.ints(&[-1, blocks as i64, BLOCK as i64]);
        let weights = self.two("Reshape", &weights, &shape);
        let sums = self.sum(&weights);
        let shape = self.g.ints(&[-1, blocks as i64]);
        let sums = self.two("Reshape", &sums, &shape);
        let running = self.running(&sums);
        let total = self.columns(&running, blocks - 1, blocks);
        let target = self.two("Mul", &uniform, &total);
        let (block, before) = self.place(&running, &target, blocks);
        let rest = self.two("Sub", &target, &before);
        let inside = self.g.op("GatherND", &[&weights, &block], &[("batch_dims", Attr::Int(1))]);
        let running = self.running(&inside);
        // Rounding must not carry the rest past the block's end.
        let (end, below) = (self.columns(&running, BLOCK - 1, BLOCK), self.f64(BELOW_ONE));
        let end = self.two("Mul", &end, &below);
        let rest = self.two("Min", &rest, &end);
        let (place, _) = self.place(&running, &rest, BLOCK);
        let start = self.two("Mul", &block, &size);
        let (id, last) = (self.two("Add", &start, &place), self.g.int(self.vocab as i64 - 1));
        self.two("Min", &id, &last)
    }

    /// Running sums of a few numbers per row, in f64. (ONNX Runtime's CumSum on CUDA sums anew for every place.)
    fn running(&mut self, x: &Value) -> Value {
        let (x, axis) = (self.cast(x, DType::F64), self.g.int(1));
        self.two("CumSum", &x, &axis)
    }

    /// The first of `count` running sums that exceeds `target`, and the one before it or zero.
    fn place(&mut self, running: &Value, target: &Value, count: usize) -> (Value, Value) {
        let (zero, last) = (self.f64(0.0), self.g.int(count as i64 - 1));
        let passed = self.two("LessOrEqual", running, target);
        let before = self.choose(&passed, running, &zero);
        let before = self.row_max(&before);
        let passed = self.cast(&passed, DType::F32);
        let passed = self.sum(&passed);
        let place = self.cast(&passed, DType::I64);
        (self.two("Min", &place, &last), before)
    }

    /// Outputs of one token per row, which is the end where that is forced.
    fn finish_draw(&mut self, id: &Value, logprobs: &Value, force_end: &Value, end: usize) {
        let end = self.g.int(end as i64);
        let id = self.choose(force_end, &end, id);
        let logprob = self.g.op("GatherElements", &[logprobs, &id], &[("axis", Attr::Int(1))]);
        let shape = [Dim::Named("rows"), Dim::Fixed(1)];
        self.g.output("ids", &id, DType::I64, &shape);
        self.g.output("logprobs", &logprob, DType::F32, &shape);
    }

    fn finish_check(&mut self, logits: &Value, best: &Value, force_end: &Value) {
        let zero = self.f32(0.0);
        let sum = self.sum(logits);
        // Infinity less itself is not a number.
        let possible = self.two("Sub", best, best);
        let possible = self.choose(force_end, &zero, &possible);
        let check = self.g.op("Concat", &[&sum, &possible], &[("axis", Attr::Int(1))]);
        self.g.output("check", &check, DType::F32, &[Dim::Named("rows"), Dim::Fixed(2)]);
    }
}
