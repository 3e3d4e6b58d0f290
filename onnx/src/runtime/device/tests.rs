//! The copy graphs, with host memory in place of a device's.

use ort::value::{DynTensor, Tensor};

use super::{CacheShape, CrossShape, DeviceCopyGraphs, copies::LOAD_BATCH};
use crate::{
    export::graph::DType,
    runtime::{Memory, SessionOptions, load_library},
};

fn tensor(shape: &[usize], first: f32) -> DynTensor {
    let count = shape.iter().product::<usize>();
    let mut tensor = Tensor::<f32>::new(&ort::memory::Allocator::default(), shape.to_vec()).expect("tensor");
    tensor.extract_tensor_mut().1.iter_mut().zip(0..count).for_each(|(v, i)| *v = first + i as f32);
    tensor.upcast()
}

fn values(tensor: &DynTensor) -> Vec<f32> {
    tensor.try_extract_tensor::<f32>().expect("f32").1.to_vec()
}

fn copy_graphs() -> DeviceCopyGraphs {
    load_library().expect("ONNX Runtime");
    let cache = |heads, size| CacheShape { heads, size };
    let caches = vec![cache(2, 2), cache(2, 2), cache(1, 4), cache(1, 4)];
    let cross = CrossShape { tensors: 2, tokens: 2, width: 2 };
    DeviceCopyGraphs::load(Memory::Cpu, &SessionOptions::on_cpu(1), DType::F32, cross, caches)
        .expect("graphs")
}

#[test]
fn gather_copies_rows_and_repeats_zeros() {
    let mut graphs = copy_graphs();
    let allocator = graphs.allocator().expect("allocator");
    let old = tensor(&[3, 2], 0.0);
    let new = graphs.gathered(&allocator, &old, [2, 0, 0, 1].into_iter()).expect("gathered");
    assert_eq!(values(&new), [4.0, 5.0, 0.0, 1.0, 0.0, 1.0, 2.0, 3.0]);
    let zeros = graphs.zeros(&allocator, &[2, 1, 2, 2]).expect("zeros");
    assert_eq!((values(&zeros), zeros.shape().to_vec()), (vec![0.0; 8], vec![2, 1, 2, 2]));
}

#[test]
fn load_writes_images_in_place() {
    let mut graphs = copy_graphs();
    let mut to = [tensor(&[3, 2, 2], 0.0), tensor(&[3, 2, 2], 100.0)];
    let addresses = to.each_ref().map(DynTensor::data_ptr);
    let from = [tensor(&[2, 2, 2], 1000.0), tensor(&[2, 2, 2], 2000.0)];
    graphs.load_rows(&mut to, &from, &[(2, 0), (0, 1)]).expect("loaded");
    assert_eq!(
        values(&to[0]),
        [1004.0, 1005.0, 1006.0, 1007.0, 4.0, 5.0, 6.0, 7.0, 1000.0, 1001.0, 1002.0, 1003.0]
    );
    assert_eq!(values(&to[1])[..5], [2004.0, 2005.0, 2006.0, 2007.0, 104.0]);
    graphs.load_rows(&mut to, &from, &[(1, 0), (2, 1)]).expect("all rows, in their order");
    let all: Vec<f32> = (1000..1008).map(|v| v as f32).collect();
    assert_eq!(values(&to[0])[4..], all);
    assert_eq!(to.each_ref().map(DynTensor::data_ptr), addresses);
}

#[test]
fn load_splits_many_images() {
    let mut graphs = copy_graphs();
    let count = LOAD_BATCH + 3;
    let mut to = [tensor(&[count, 2, 2], 0.0), tensor(&[count, 2, 2], 0.0)];
    let from = [tensor(&[count, 2, 2], 5000.0), tensor(&[count, 2, 2], 9000.0)];
    let reversed: Vec<(usize, usize)> = (0..count).map(|i| (count - 1 - i, i)).collect();
    graphs.load_rows(&mut to, &from, &reversed).expect("loaded");
    assert_eq!(values(&to[0])[..4], values(&from[0])[4 * (count - 1)..]);
    assert_eq!(values(&to[1])[4 * (count - 1)..], values(&from[1])[..4]);
}

#[test]
fn copy_writes_the_first_positions_in_place() {
    let mut graphs = copy_graphs();
    // [R, H, L, D]: positions 0 and 1 of 3, of both heads, from row 1 to row 0.
    let mut caches = [
        tensor(&[2, 2, 3, 2], 0.0),
        tensor(&[2, 2, 3, 2], 50.0),
        tensor(&[2, 1, 3, 4], 0.0),
        tensor(&[2, 1, 3, 4], 50.0),
    ];
    graphs.copy_rows(&mut caches, &[(1, 0)], 2).expect("copied");
    let wide: Vec<f32> = [12, 13, 14, 15, 4, 5, 18, 19, 20, 21, 10, 11].iter().map(|v| *v as f32).collect();
    assert_eq!(values(&caches[0])[..12], wide);
    assert_eq!(values(&caches[0])[12..], (12..24).map(|v| v as f32).collect::<Vec<_>>());
    let narrow: Vec<f32> = (12..20).chain(8..12).map(|v| v as f32).collect();
    assert_eq!(values(&caches[2])[..12], narrow);
    assert_eq!(values(&caches[3])[0], 62.0);
}
