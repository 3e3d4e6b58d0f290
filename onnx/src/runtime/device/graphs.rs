//! The graphs that copy tensors, built in memory.
//!
//! An output that is bound to the memory of its input is written in place, without copying the rest.

use super::shapes::{CacheShape, CrossShape};
use crate::export::graph::{Attr, DType, Dim, GraphBuilder, Value};

/// Returns the input name of tensor `i` that is written into.
pub(super) fn target_name(i: usize) -> String {
    format!("to_{i}")
}
/// Returns the input name of tensor `i` that is read.
pub(super) fn source_name(i: usize) -> String {
    format!("from_{i}")
}
/// Returns the output name of tensor `i`, which is bound to the memory of [`target_name`].
pub(super) fn copied_name(i: usize) -> String {
    format!("copied_{i}")
}

/// Builds `gathered[i] = from[rows[i]]`, for any rank.
pub(super) fn gather(dtype: DType) -> GraphBuilder {
    let mut g = GraphBuilder::new("gather");
    let from = g.input_of_any_shape("from", dtype);
    let rows = g.input("rows", DType::I64, &[Dim::Named("n")]);
    let gathered = g.declare_output_of_any_shape("gathered", dtype);
    g.op_into("Gather", &[&from, &rows], &gathered, &[("axis", Attr::Int(0))]);
    g
}

/// Builds `to_i[to_rows[j]] = from_i[j]` for `tensors` tensors `[_, tokens, width]`, in place; with `selected`,
/// `to_i[to_rows[j]] = from_i[from_rows[j]]`.
///
/// ScatterElements uses a thread per element, with adjacent addresses, so a copy runs at the memory's speed; ScatterND uses
/// a thread per index tuple, which took 30 times as long as a copy on an H100.
pub(super) fn load(dtype: DType, cross: CrossShape, selected: bool) -> GraphBuilder {
    let mut g = GraphBuilder::new("load");
    let to_rows = g.input("to_rows", DType::I64, &[Dim::Named("n")]);
    let from_rows = selected.then(|| g.input("from_rows", DType::I64, &[Dim::Named("n")]));
    let rest = g.ints(&[cross.tokens as i64, cross.width as i64]);
    let index = element_index(&mut g, &to_rows, &[-1, 1, 1], &[&rest]);
    for i in 0..cross.tensors {
        let [target, source] =
            [target_name(i), source_name(i)].map(|name| g.input_of_any_shape(&name, dtype));
        let rows = match &from_rows {
            Some(from_rows) => g.op("Gather", &[&source, from_rows], &[("axis", Attr::Int(0))]),
            None => source,
        };
        let copied = g.declare_output_of_any_shape(&copied_name(i), dtype);
        g.op_into("ScatterElements", &[&target, &index, &rows], &copied, &[("axis", Attr::Int(0))]);
    }
    g
}

/// Builds `to_i[to_rows[j], :, ..length] = to_i[from_rows[j], :, ..length]` for caches `[R, heads, L, size]`, in place.
/// `length` is `[1]`, in host memory.
pub(super) fn copy(dtype: DType, caches: &[CacheShape]) -> GraphBuilder {
    let mut g = GraphBuilder::new("copy");
    let [from_rows, to_rows] =
        ["from_rows", "to_rows"].map(|name| g.input(name, DType::I64, &[Dim::Named("n")]));
    let length = g.host_input("length", DType::I64, &[Dim::Fixed(1)]);
    let (start, axis) = (g.ints(&[0]), g.ints(&[2]));
    let mut known: Vec<(CacheShape, Value)> = Vec::new();
    for (i, shape) in caches.iter().enumerate() {
        let index = match known.iter().find(|(known, _)| known == shape) {
            Some((_, index)) => index.clone(),
            None => {
                let (heads, size) = (g.ints(&[shape.heads as i64]), g.ints(&[shape.size as i64]));
                let index = element_index(&mut g, &to_rows, &[-1, 1, 1, 1], &[&heads, &length, &size]);
                known.push((*shape, index.clone()));
                index
            }
        };
        let cache = g.input_of_any_shape(&target_name(i), dtype);
        let rows = g.op("Gather", &[&cache, &from_rows], &[("axis", Attr::Int(0))]);
        let rows = g.op("Slice", &[&rows, &start, &length, &axis], &[]);
        let copied = g.declare_output_of_any_shape(&copied_name(i), dtype);
        g.op_into("ScatterElements", &[&cache, &index, &rows], &copied, &[("axis", Attr::Int(0))]);
    }
    g
}

/// Returns the row of every element to be written, i32 `[n, rest..]`, from rows `[n]`; `column` is `[-1, 1, ..]` of that
/// rank.
fn element_index(g: &mut GraphBuilder, rows: &Value, column: &[i64], rest: &[&Value]) -> Value {
    let count = g.op("Shape", &[rows], &[]);
    let dims: Vec<&Value> = std::iter::once(&count).chain(rest.iter().copied()).collect();
    let shape = g.op("Concat", &dims, &[("axis", Attr::Int(0))]);
    let column = g.ints(column);
    let rows = g.op("Reshape", &[rows, &column], &[]);
    let rows = g.op("Cast", &[&rows], &[("to", Attr::Int(DType::I32.code().into()))]);
    g.op("Expand", &[&rows, &shape], &[])
}
