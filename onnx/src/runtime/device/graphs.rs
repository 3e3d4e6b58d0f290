//! The graphs that move tensors, built in memory.
//!
//! ONNX Runtime's ScatterND on CUDA gives every index tuple a thread that copies its whole slice: tuples therefore reach
//! down to the last axis, and a slice is one token's vector or one head's. An output that is bound to the memory of its
//! input is written in place, without a copy of the rest.

use crate::export::graph::{Attr, DType, Dim, GraphBuilder, Value};

/// Operator set of graphs that are built at run time: old enough that every provider has kernels for it.
pub const OPSET: i64 = 17;

/// Input name of tensor `i` that is written into.
pub fn to(i: usize) -> String {
    format!("to_{i}")
}
/// Input name of tensor `i` that is read.
pub fn from(i: usize) -> String {
    format!("from_{i}")
}
/// Output name of tensor `i`, which is the memory of [`to`].
pub fn moved(i: usize) -> String {
    format!("moved_{i}")
}

/// `gathered[i] = from[rows[i]]`, for any rank.
pub fn gather(dtype: DType) -> Vec<u8> {
    let mut g = GraphBuilder::new("gather");
    let from = g.input_of_any_shape("from", dtype);
    let rows = g.input("rows", DType::I64, &[Dim::Named("n")]);
    let gathered = g.declare_output_of_any_shape("gathered", dtype);
    g.op_into("Gather", &[&from, &rows], &gathered, &[("axis", Attr::Int(0))]);
    g.finish_as(OPSET)
}

/// `to_i[to_rows[j]] = from_i[from_rows[j]]` for `tensors` tensors `[_, tokens, W]`.
pub fn load(dtype: DType, tensors: usize, tokens: usize) -> Vec<u8> {
    let mut g = GraphBuilder::new("load");
    let [to_rows, from_rows] =
        ["to_rows", "from_rows"].map(|name| g.input(name, DType::I64, &[Dim::Named("n")]));
    let places = range(&mut g, &[1, tokens as i64, 1]);
    let [to_places, from_places] =
        [&to_rows, &from_rows].map(|rows| tuples(&mut g, rows, &[&places], &[-1, 1, 1]));
    for i in 0..tensors {
        let [target, source] = [to(i), from(i)].map(|name| g.input_of_any_shape(&name, dtype));
        let rows = g.op("GatherND", &[&source, &from_places], &[]);
        let moved = g.declare_output_of_any_shape(&moved(i), dtype);
        g.op_into("ScatterND", &[&target, &to_places, &rows], &moved, &[]);
    }
    g.finish_as(OPSET)
}

/// `to_i[to_rows[j], :, positions] = to_i[from_rows[j], :, positions]` for caches `[R, H, L, D]` with the given heads.
pub fn copy(dtype: DType, heads: &[usize]) -> Vec<u8> {
    let mut g = GraphBuilder::new("copy");
    let [from_rows, to_rows] =
        ["from_rows", "to_rows"].map(|name| g.input(name, DType::I64, &[Dim::Named("n")]));
    let positions = g.input("positions", DType::I64, &[Dim::Named("length")]);
    let shape = g.ints(&[1, 1, -1, 1]);
    let positions = g.op("Reshape", &[&positions, &shape], &[]);
    let mut known: Vec<(usize, [Value; 2])> = Vec::new();
    for (i, count) in heads.iter().enumerate() {
        let places = match known.iter().find(|(h, _)| h == count) {
            Some((_, places)) => places.clone(),
            None => {
                let head = range(&mut g, &[1, *count as i64, 1, 1]);
                let places = [&from_rows, &to_rows]
                    .map(|rows| tuples(&mut g, rows, &[&head, &positions], &[-1, 1, 1, 1]));
                known.push((*count, places.clone()));
                places
            }
        };
        let cache = g.input_of_any_shape(&to(i), dtype);
        let rows = g.op("GatherND", &[&cache, &places[0]], &[]);
        let moved = g.declare_output_of_any_shape(&moved(i), dtype);
        g.op_into("ScatterND", &[&cache, &places[1], &rows], &moved, &[]);
    }
    g.finish_as(OPSET)
}

/// 0, 1, 2, ... in the given shape.
fn range(g: &mut GraphBuilder, shape: &[i64]) -> Value {
    let count: i64 = shape.iter().product();
    g.inline(DType::I64, shape, (0..count).flat_map(i64::to_le_bytes).collect())
}

/// Index tuples `[n, ..., k]` from rows `[n]` and the other axes, each of which varies along its own place of the shape.
fn tuples(g: &mut GraphBuilder, rows: &Value, axes: &[&Value], shape: &[i64]) -> Value {
    let shape = g.ints(shape);
    let rows = g.op("Reshape", &[rows, &shape], &[]);
    let zero = g.int(0);
    let none: Vec<Value> = std::iter::once(&rows)
        .chain(axes.iter().copied())
        .map(|axis| g.op("Mul", &[axis, &zero], &[]))
        .collect();
    // An axis plus nothing of all others has the shape of all.
    let columns: Vec<Value> = std::iter::once(&rows)
        .chain(axes.iter().copied())
        .enumerate()
        .map(|(i, axis)| {
            let others = none.iter().enumerate().filter(|(j, _)| *j != i);
            others.fold(axis.clone(), |sum, (_, nothing)| g.op("Add", &[&sum, nothing], &[]))
        })
        .collect();
    let columns: Vec<&Value> = columns.iter().collect();
    g.op("Concat", &columns, &[("axis", Attr::Int(-1))])
}

#[cfg(test)]
mod tests {
    use ort::value::{DynTensor, Tensor};

    use super::super::{Memory, Movers};
    use crate::{
        export::graph::DType,
        runtime::{SessionOptions, load_library},
    };

    fn tensor(shape: &[usize], first: f32) -> DynTensor {
        let count = shape.iter().product::<usize>();
        let mut tensor =
            Tensor::<f32>::new(&ort::memory::Allocator::default(), shape.to_vec()).expect("tensor");
        tensor.extract_tensor_mut().1.iter_mut().zip(0..count).for_each(|(v, i)| *v = first + i as f32);
        tensor.upcast()
    }

    fn values(tensor: &DynTensor) -> Vec<f32> {
        tensor.try_extract_tensor::<f32>().expect("f32").1.to_vec()
    }

    fn movers() -> Movers {
        load_library().expect("ONNX Runtime");
        Movers::load(Memory::Cpu, &SessionOptions::on_cpu(1), DType::F32, (2, 2), vec![2, 2, 1, 1])
            .expect("graphs")
    }

    #[test]
    fn rows_are_gathered_and_zeros_spread() {
        let mut movers = movers();
        let allocator = movers.allocator().expect("allocator");
        let old = tensor(&[3, 2], 0.0);
        let new = movers.gathered(&allocator, &old, [2, 0, 0, 1].into_iter()).expect("gathered");
        assert_eq!(values(&new), [4.0, 5.0, 0.0, 1.0, 0.0, 1.0, 2.0, 3.0]);
        let zeros = movers.zeros(&allocator, &[2, 1, 2, 2]).expect("zeros");
        assert_eq!((values(&zeros), zeros.shape().to_vec()), (vec![0.0; 8], vec![2, 1, 2, 2]));
    }

    #[test]
    fn images_are_loaded_in_place() {
        let mut movers = movers();
        let mut to = [tensor(&[3, 2, 2], 0.0), tensor(&[3, 2, 2], 100.0)];
        let addresses = to.each_ref().map(DynTensor::data_ptr);
        let from = [tensor(&[2, 2, 2], 1000.0), tensor(&[2, 2, 2], 2000.0)];
        movers.load_rows(&mut to, &from, &[(2, 0), (0, 1)]).expect("loaded");
        assert_eq!(
            values(&to[0]),
            [1004.0, 1005.0, 1006.0, 1007.0, 4.0, 5.0, 6.0, 7.0, 1000.0, 1001.0, 1002.0, 1003.0]
        );
        assert_eq!(values(&to[1])[..5], [2004.0, 2005.0, 2006.0, 2007.0, 104.0]);
        assert_eq!(to.each_ref().map(DynTensor::data_ptr), addresses);
    }

    #[test]
    fn the_first_positions_of_a_row_are_copied_in_place() {
        let mut movers = movers();
        // [R, H, L, D]: positions 0 and 1 of 3, of both heads, from row 1 to row 0.
        let mut caches = [
            tensor(&[2, 2, 3, 2], 0.0),
            tensor(&[2, 2, 3, 2], 50.0),
            tensor(&[2, 1, 3, 4], 0.0),
            tensor(&[2, 1, 3, 4], 50.0),
        ];
        movers.copy_rows(&mut caches, &[(1, 0)], 2).expect("copied");
        let wide: Vec<f32> =
            [12, 13, 14, 15, 4, 5, 18, 19, 20, 21, 10, 11].iter().map(|v| *v as f32).collect();
        assert_eq!(values(&caches[0])[..12], wide);
        assert_eq!(values(&caches[0])[12..], (12..24).map(|v| v as f32).collect::<Vec<_>>());
        let narrow: Vec<f32> = (12..20).chain(8..12).map(|v| v as f32).collect();
        assert_eq!(values(&caches[2])[..12], narrow);
        assert_eq!(values(&caches[3])[0], 62.0);
    }
}
