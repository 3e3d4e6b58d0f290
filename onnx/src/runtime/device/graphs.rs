//! The graphs that move tensors, built in memory.
//!
//! An output that is bound to the memory of its input is written in place, without a copy of the rest.

use super::{CacheShape, CrossShape};
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
pub fn gather(dtype: DType) -> GraphBuilder {
    let mut g = GraphBuilder::new("gather");
    let from = g.input_of_any_shape("from", dtype);
    let rows = g.input("rows", DType::I64, &[Dim::Named("n")]);
    let gathered = g.declare_output_of_any_shape("gathered", dtype);
    g.op_into("Gather", &[&from, &rows], &gathered, &[("axis", Attr::Int(0))]);
    g
}

/// `to_i[to_rows[j]] = from_i[j]` for `tensors` tensors `[_, tokens, width]`, in place; with `chosen`,
/// `to_i[to_rows[j]] = from_i[from_rows[j]]`.
///
/// ScatterElements gives every element a thread, neighbours to neighbours, so a copy runs at the memory's speed; ScatterND
/// gives every index tuple a thread, which took 30 times as long as a copy on an H100.
pub fn load(dtype: DType, cross: CrossShape, chosen: bool) -> GraphBuilder {
    let mut g = GraphBuilder::new("load");
    let to_rows = g.input("to_rows", DType::I64, &[Dim::Named("n")]);
    let from_rows = chosen.then(|| g.input("from_rows", DType::I64, &[Dim::Named("n")]));
    let rest = g.ints(&[cross.tokens as i64, cross.width as i64]);
    let index = element_index(&mut g, &to_rows, &[-1, 1, 1], &[&rest]);
    for i in 0..cross.tensors {
        let [target, source] = [to(i), from(i)].map(|name| g.input_of_any_shape(&name, dtype));
        let rows = match &from_rows {
            Some(from_rows) => g.op("Gather", &[&source, from_rows], &[("axis", Attr::Int(0))]),
            None => source,
        };
        let moved = g.declare_output_of_any_shape(&moved(i), dtype);
        g.op_into("ScatterElements", &[&target, &index, &rows], &moved, &[("axis", Attr::Int(0))]);
    }
    g
}

/// `to_i[to_rows[j], :, ..length] = to_i[from_rows[j], :, ..length]` for caches `[R, heads, L, size]`, in place. `length` is
/// `[1]`, in host memory.
pub fn copy(dtype: DType, caches: &[CacheShape]) -> GraphBuilder {
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
        let cache = g.input_of_any_shape(&to(i), dtype);
        let rows = g.op("Gather", &[&cache, &from_rows], &[("axis", Attr::Int(0))]);
        let rows = g.op("Slice", &[&rows, &start, &length, &axis], &[]);
        let moved = g.declare_output_of_any_shape(&moved(i), dtype);
        g.op_into("ScatterElements", &[&cache, &index, &rows], &moved, &[("axis", Attr::Int(0))]);
    }
    g
}

/// The row of every element to be written, i32 `[n, rest..]`, from rows `[n]`; `column` is `[-1, 1, ..]` of that rank.
fn element_index(g: &mut GraphBuilder, rows: &Value, column: &[i64], rest: &[&Value]) -> Value {
    let count = g.op("Shape", &[rows], &[]);
    let dims: Vec<&Value> = std::iter::once(&count).chain(rest.iter().copied()).collect();
    let shape = g.op("Concat", &dims, &[("axis", Attr::Int(0))]);
    let column = g.ints(column);
    let rows = g.op("Reshape", &[rows, &column], &[]);
    let rows = g.op("Cast", &[&rows], &[("to", Attr::Int(DType::I32.code().into()))]);
    g.op("Expand", &[&rows, &shape], &[])
}

#[cfg(test)]
mod tests {
    use ort::value::{DynTensor, Tensor};

    use super::super::{CacheShape, CrossShape, Memory, Movers};
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
        let cache = |heads, size| CacheShape { heads, size };
        let caches = vec![cache(2, 2), cache(2, 2), cache(1, 4), cache(1, 4)];
        let cross = CrossShape { tensors: 2, tokens: 2, width: 2 };
        Movers::load(Memory::Cpu, &SessionOptions::on_cpu(1), DType::F32, cross, caches).expect("graphs")
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
        movers.load_rows(&mut to, &from, &[(1, 0), (2, 1)]).expect("all rows, in their order");
        let all: Vec<f32> = (1000..1008).map(|v| v as f32).collect();
        assert_eq!(values(&to[0])[4..], all);
        assert_eq!(to.each_ref().map(DynTensor::data_ptr), addresses);
    }

    #[test]
    fn more_images_than_one_copy_takes_are_loaded() {
        let mut movers = movers();
        let count = super::super::LOAD_BATCH + 3;
        let mut to = [tensor(&[count, 2, 2], 0.0), tensor(&[count, 2, 2], 0.0)];
        let from = [tensor(&[count, 2, 2], 5000.0), tensor(&[count, 2, 2], 9000.0)];
        let reversed: Vec<(usize, usize)> = (0..count).map(|i| (count - 1 - i, i)).collect();
        movers.load_rows(&mut to, &from, &reversed).expect("loaded");
        assert_eq!(values(&to[0])[..4], values(&from[0])[4 * (count - 1)..]);
        assert_eq!(values(&to[1])[4 * (count - 1)..], values(&from[1])[..4]);
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
