//! The fused operators against burn's own small ones: values and derivatives.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{Bool, Device, Tensor, TensorData, activation, module},
};

use super::{KeyMask, attention, composed, gelu, layer_norm, ops::Kernels, sum_of_squares};
use crate::random::Random;

const EPSILON: f64 = 1e-5;

fn numbers(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    let mut random = Random::new(seed, &[]);
    (0..n).map(|_| scale * random.normal() as f32).collect()
}

fn leaf<const D: usize>(seed: u64, shape: [usize; D], scale: f32) -> Tensor<D> {
    let values = numbers(seed, shape.iter().product(), scale);
    Tensor::from_data(TensorData::new(values, shape), &Device::flex().autodiff()).require_grad()
}

fn host<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data_as::<f32>().try_into_vec().expect("numbers")
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let most = want.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let apart = (got - want).abs();
        assert!(apart <= tolerance * most, "{what}, element {i}: {got}, not {want}, {apart:e} apart");
    }
}

/// A leaf's derivative, on the host.
type Derivative<'a> = &'a dyn Fn(&burn::tensor::Gradients) -> Option<Vec<f32>>;

/// Two results of the same leaves are the same, and so are their derivatives for every leaf.
#[track_caller]
fn alike<const D: usize>(what: &str, [mine, burns]: [&Tensor<D>; 2], leaves: &[Derivative<'_>]) {
    close(what, &host(mine), &host(burns), 2e-6);
    // Weights that differ by element, so that no sum hides a place.
    let weights = numbers(99, mine.dims().iter().product(), 1.0);
    let weights = Tensor::<D>::from_data(TensorData::new(weights, mine.dims()), &Device::flex().autodiff());
    let backward = |y: &Tensor<D>| (y.clone() * weights.clone()).sum().backward();
    let (found, wanted) = (backward(mine), backward(burns));
    for (i, gradient) in leaves.iter().enumerate() {
        let (found, wanted) =
            (gradient(&found).expect("a derivative"), gradient(&wanted).expect("a derivative"));
        close(&format!("{what}, derivative {i}"), &found, &wanted, 5e-6);
    }
}

/// Few elements, a row that fills no lane, more than one task, more rows than a block.
const SHAPES: [[usize; 2]; 5] = [[1, 1], [3, 5], [7, 33], [130, 48], [700, 64]];

#[test]
fn gelu_equals_burns() {
    for shape in SHAPES {
        let x = leaf(1, shape, 3.0);
        alike(
            &format!("gelu {shape:?}"),
            [&gelu(x.clone()), &activation::gelu(x.clone())],
            &[&|found| x.grad(found).map(|g| host(&g))],
        );
    }
    // Far out on both sides.
    let far = [-1e4, -40.0, -13.0, -6.0, -0.0, 0.0, 6.0, 13.0, 40.0, 1e4_f32];
    let x = Tensor::<2>::from_data(TensorData::new(far.to_vec(), [1, 10]), &Device::flex().autodiff())
        .require_grad();
    let y = gelu(x.clone());
    close("gelu far out", &host(&y), &host(&activation::gelu(x.clone())), 1e-6);
    let slope = x.grad(&y.sum().backward()).expect("a derivative");
    close("its slope", &host(&slope), &[0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0], 1e-6);
}

#[test]
fn layer_norm_equals_burns() {
    for [rows, width] in SHAPES.into_iter().skip(1) {
        let (x, gain, shift) =
            (leaf(1, [rows, width], 2.0) + 1.5, leaf(2, [width], 1.0), leaf(3, [width], 1.0));
        let x = x.detach().require_grad();
        let mine = layer_norm(x.clone(), gain.clone(), shift.clone(), EPSILON);
        let burns = module::layer_norm(x.clone(), gain.clone(), Some(shift.clone()), EPSILON);
        alike(
            &format!("layer_norm {rows} x {width}"),
            [&mine, &burns],
            &[
                &|found| x.grad(found).map(|g| host(&g)),
                &|found| gain.grad(found).map(|g| host(&g)),
                &|found| shift.grad(found).map(|g| host(&g)),
            ],
        );
    }
}

/// A frozen part before a trained one, and the other way.
#[test]
fn layer_norm_differentiates_tracked_inputs() {
    let device = Device::flex().autodiff();
    let plain = |seed, n| Tensor::<1>::from_data(TensorData::new(numbers(seed, n, 1.0), [n]), &device);
    let x = Tensor::<2>::from_data(TensorData::new(numbers(1, 24, 1.0), [4, 6]), &device);
    let all =
        layer_norm(x.clone().require_grad(), plain(2, 6).require_grad(), plain(3, 6).require_grad(), EPSILON);
    let (gain, shift) = (plain(2, 6).require_grad(), plain(3, 6));
    let found = layer_norm(x.clone(), gain.clone(), shift.clone(), EPSILON).powi_scalar(2).sum().backward();
    assert!(gain.grad(&found).is_some() && shift.grad(&found).is_none() && x.grad(&found).is_none());
    let leaf = x.clone().require_grad();
    let y = layer_norm(leaf.clone(), plain(2, 6), plain(3, 6), EPSILON);
    assert_eq!(host(&y), host(&all));
    let found = y.powi_scalar(2).sum().backward();
    assert_eq!(leaf.grad(&found).expect("a derivative").dims(), [4, 6]);
}

/// Attention of small operators.
fn composed_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    hidden: Option<&[bool]>,
    causal: bool,
) -> Tensor<4> {
    let [n, heads, queries, dim] = q.dims();
    let keys = k.dims()[2];
    let masked: Vec<bool> = (0..n * heads * queries * keys)
        .map(|i| {
            let (key, query, image) = (i % keys, i / keys % queries, i / (keys * queries * heads));
            causal && key > query || hidden.is_some_and(|hidden| hidden[image * keys + key])
        })
        .collect();
    let mask = Tensor::<4, Bool>::from_data(TensorData::new(masked, [n, heads, queries, keys]), &q.device());
    let scores = q.matmul(k.swap_dims(2, 3)) / (dim as f64).sqrt();
    activation::softmax(scores.mask_fill(mask, f32::NEG_INFINITY), 3).matmul(v)
}

#[test]
fn attention_equals_burns_with_every_mask() {
    for (n, heads, queries, keys, dim) in
        [(1, 1, 1, 1, 4), (2, 3, 5, 5, 8), (3, 2, 18, 18, 4), (2, 2, 4, 40, 8), (4, 4, 70, 70, 8)]
    {
        let (q, k, v) = (
            leaf(1, [n, heads, queries, dim], 2.0),
            leaf(2, [n, heads, keys, dim], 2.0),
            leaf(3, [n, heads, keys, dim], 1.0),
        );
        let mut random = Random::new(4, &[]);
        let hidden: Vec<bool> = (0..n * keys).map(|i| i % keys > 0 && random.below(3) == 0).collect();
        let mask = Tensor::<2, Bool>::from_data(TensorData::new(hidden.clone(), [n, keys]), &q.device());
        let ways = [
            ("all", KeyMask::None, None, false),
            ("causal", KeyMask::Causal, None, true),
            ("causal but hidden", KeyMask::CausalExcept(mask), Some(hidden.as_slice()), true),
        ];
        for (name, visible, hidden, causal) in ways {
            if causal && queries != keys {
                continue;
            }
            let mine = attention(q.clone(), k.clone(), v.clone(), &visible);
            let burns = composed_attention(q.clone(), k.clone(), v.clone(), hidden, causal);
            alike(
                &format!("attention {name}, {n} x {heads} x {queries} x {keys}"),
                [&mine, &burns],
                &[
                    &|found| q.grad(found).map(|g| host(&g)),
                    &|found| k.grad(found).map(|g| host(&g)),
                    &|found| v.grad(found).map(|g| host(&g)),
                ],
            );
        }
    }
}

fn flex(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
}

fn values(x: &FlexTensor) -> Vec<f32> {
    x.to_contiguous().as_slice::<f32>().expect("numbers").to_vec()
}

/// What other devices compute is what the CPU computes.
#[test]
fn composed_operators_equal_fused_ones() {
    let (rows, width) = (130, 24);
    let x = flex(numbers(1, rows * width, 2.0), &[rows, width]);
    let grad = flex(numbers(2, rows * width, 1.0), &[rows, width]);
    let gain = flex(numbers(3, width, 1.0), &[width]);
    let mine = Flex::norm_back(x.clone(), gain.clone(), grad.clone(), EPSILON);
    let theirs = composed::norm_back::<Flex>(x, gain, grad, EPSILON);
    for (i, (mine, theirs)) in mine.iter().zip(&theirs).enumerate() {
        close(&format!("norm_back {i}"), &values(mine), &values(theirs), 2e-6);
    }

    let shape @ [n, heads, queries, keys] = [2, 3, 6, 6];
    let count = n * heads * queries * keys;
    let nothing = flex(vec![0.0], &[1, 1]);
    let mut random = Random::new(5, &[]);
    let some =
        (0..n * keys).map(|i| if i % keys > 0 && random.below(3) == 0 { f32::NEG_INFINITY } else { 0.0 });
    let some = flex(some.collect(), &[n, keys]);
    for (name, hidden) in [("nothing hidden", &nothing), ("some hidden", &some)] {
        for causal in [false, true] {
            let scores = flex(numbers(6, count, 5.0), &shape);
            let device = Default::default();
            let below = causal.then(|| composed::below::<Flex>(queries, keys, &device));
            let theirs = composed::softmax_forward::<Flex>(scores.clone(), hidden.clone(), 0.3, below);
            let mine = Flex::softmax_forward(scores, hidden.clone(), 0.3, causal);
            close(&format!("softmax, {name}, causal {causal}"), &values(&mine), &values(&theirs), 1e-6);
            let grad = flex(numbers(7, count, 1.0), &shape);
            let back = composed::softmax_back::<Flex>(theirs, grad.clone(), 0.3);
            close("softmax_back", &values(&Flex::softmax_back(mine, grad, 0.3)), &values(&back), 1e-6);
        }
    }
}

/// Two rows of eight, of which the first is spoilt.
fn spoilt(bad: f32) -> Vec<f32> {
    let mut x = numbers(1, 16, 1.0);
    x[5] = bad;
    x
}

/// NaN and infinity must reach the loss, which is checked.
#[test]
fn nan_passes_through_norm_and_gelu() {
    for bad in [f32::NAN, f32::INFINITY] {
        let x = Tensor::<2>::from_data(TensorData::new(spoilt(bad), [2, 8]), &Device::flex());
        let one = Tensor::<1>::ones([8], &Device::flex());
        let normed = host(&layer_norm(x.clone(), one.clone(), one, EPSILON));
        assert!(normed[..8].iter().all(|v| v.is_nan()), "layer_norm of {bad}: {normed:?}");
        assert!(normed[8..].iter().all(|v| v.is_finite()), "layer_norm of {bad} spoils its neighbour");
        assert!(!host(&gelu(x))[5].is_finite(), "gelu of {bad}");
    }
}

#[test]
fn nan_passes_through_softmax() {
    for bad in [f32::NAN, f32::INFINITY] {
        let scores = flex(spoilt(bad), &[1, 1, 2, 8]);
        let shares = values(&Flex::softmax_forward(scores, flex(vec![0.0], &[1, 1]), 1.0, false));
        assert!(shares[..8].iter().any(|v| v.is_nan()), "softmax of {bad} gives {:?}", &shares[..8]);
        assert!(shares[8..].iter().all(|v| v.is_finite()), "softmax of {bad} spoils its neighbour");
    }
}

#[test]
fn sum_of_squares_is_independent_of_threads() {
    let device = Device::flex();
    // Without, with one and with several whole rows, and with a rest; the last is what burn itself sums in parallel.
    for n in [1, 4096, 8191, 3 * 4096, 3 * 4096 + 7, (4 << 20) + 11] {
        let values = numbers(7, n, 1.0);
        let want: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        let sum = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let x = Tensor::<1>::from_data(TensorData::new(values.clone(), [n]), &device);
            pool.install(|| host(&sum_of_squares(x))[0])
        };
        let one = sum(1);
        assert!((f64::from(one) - want).abs() <= 1e-5 * want, "{n}: {one}, not {want}");
        for threads in [2, 3, 8] {
            assert_eq!(one.to_bits(), sum(threads).to_bits(), "{n} squares on {threads} threads");
        }
    }
}
