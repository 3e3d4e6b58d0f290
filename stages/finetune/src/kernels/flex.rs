//! The operators on the CPU: one pass over rows, vectorised by the compiler for the machine at hand (pulp), rows distributed
//! over threads (rayon). Every row is computed alone and sums over rows (gain, shift) are made of fixed blocks, so results do
//! not depend on the number of threads.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::TensorData,
};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::ops::Kernels;

/// Smallest number of elements of a parallel task.
const TASK: usize = 16 << 10;
/// Number of rows whose share of a gain's gradient is summed together: fixed, so that sums are the same on any machine.
const BLOCK_ROWS: usize = 64;
/// 1 / sqrt(2 pi).
const DENSITY: f32 = 0.398_942_3;

/// Computes e^x for x <= 0 to 2 ulp: 2^n times a polynomial (Cephes' `expf`); 0 below -87.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, whose bits are the exponent.
    const ROUND: f32 = 12_582_912.0;
    const LOWEST: f32 = -87.5;
    // Not `max`, which would turn NaN into a number.
    let x = if x < -87.0 { LOWEST } else { x };
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, so that n * ln 2 is exact enough.
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_2e-4_f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = p.mul_add(r, c);
    }
    let power = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x == LOWEST { 0.0 } else { power * scale }
}

/// Computes Phi(x) and the normal density at x; erf by Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / 0.327_591_1_f32.mul_add(z, 1.0);
    let gauss = exp(-z * z);
    let mut p = 1.061_405_4_f32;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = p.mul_add(t, c);
    }
    let tail = 0.5 * p * t * gauss;
    (if x < 0.0 { tail } else { 1.0 - tail }, gauss * DENSITY)
}

/// Work on rows, compiled once per instruction set, with everything that it calls inlined. `FnMut`, as the closures are: a call
/// through another trait goes through a shim that is not inlined and is compiled for the oldest machine.
struct Work<F>(F);

impl<F: FnMut()> WithSimd for Work<F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        (self.0)();
    }
}

/// Calls `f` with each row of `width` elements of the output and the inputs, in parallel tasks, each vectorised.
fn rows<const N: usize>(
    out: &mut [f32],
    inputs: [&[f32]; N],
    width: usize,
    f: impl Fn(usize, &mut [f32], [&[f32]; N]) + Sync,
) {
    let per_task = (TASK / width.max(1)).max(1);
    out.par_chunks_mut(per_task * width).enumerate().for_each(|(task, out)| {
        Arch::new().dispatch(Work(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(width).enumerate() {
                    let row = task * per_task + i;
                    f(
                        row,
                        out,
                        inputs.map(
                            #[inline(always)]
                            |input| &input[row * width..(row + 1) * width],
                        ),
                    );
                }
            },
        ));
    });
}

/// Sums `f` over a row, in lanes that the compiler can keep in registers.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let whole = row.len() / 16 * 16;
    for at in (0..whole).step_by(16) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(at + lane);
        }
    }
    let rest: f32 = (whole..row.len()).map(&f).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Computes mean and 1 / sqrt(variance + epsilon) of a row.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x, |i| x[i]) / n;
    let variance = sum(x, |i| (x[i] - mean) * (x[i] - mean)) / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

fn contiguous(x: &FlexTensor) -> FlexTensor {
    if x.as_slice::<f32>().is_some() { x.clone() } else { x.to_contiguous() }
}

/// Returns the values of a contiguous tensor.
fn values(x: &FlexTensor) -> &[f32] {
    match x.as_slice::<f32>() {
        Some(values) => values,
        None => panic!("these operators take single-precision tensors, not {:?}", x.dtype()),
    }
}

fn tensor(values: Vec<f32>, like: &FlexTensor) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, like.layout().shape().clone()))
}

fn vector(values: Vec<f32>) -> FlexTensor {
    let n = values.len();
    FlexTensor::from_data(TensorData::new(values, [n]))
}

fn last_dimension(x: &FlexTensor) -> usize {
    x.layout().shape().last().copied().unwrap_or(1).max(1)
}

impl Kernels for Flex {
    fn gelu_forward(x: FlexTensor) -> FlexTensor {
        let x = contiguous(&x);
        let input = values(&x);
        let mut out = vec![0.0; input.len()];
        rows(
            &mut out,
            [input],
            last_dimension(&x),
            #[inline(always)]
            |_, out, [x]| {
                out.iter_mut().zip(x).for_each(|(y, x)| *y = x * normal(*x).0);
            },
        );
        tensor(out, &x)
    }

    fn gelu_back(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (x, grad) = (contiguous(&x), contiguous(&grad));
        let mut out = vec![0.0; values(&x).len()];
        rows(
            &mut out,
            [values(&x), values(&grad)],
            last_dimension(&x),
            #[inline(always)]
            |_, out, [x, grad]| {
                for ((out, x), grad) in out.iter_mut().zip(x).zip(grad) {
                    let (share, density) = normal(*x);
                    *out = grad * x.mul_add(density, share);
                }
            },
        );
        tensor(out, &x)
    }

    fn norm_forward(x: FlexTensor, gain: FlexTensor, shift: FlexTensor, epsilon: f64) -> FlexTensor {
        let (x, gain, shift) = (contiguous(&x), contiguous(&gain), contiguous(&shift));
        let (gain, shift) = (values(&gain), values(&shift));
        let mut out = vec![0.0; values(&x).len()];
        rows(
            &mut out,
            [values(&x)],
            gain.len(),
            #[inline(always)]
            |_, out, [x]| {
                let (mean, scale) = moments(x, epsilon as f32);
                for (((out, x), gain), shift) in out.iter_mut().zip(x).zip(gain).zip(shift) {
                    *out = ((x - mean) * scale).mul_add(*gain, *shift);
                }
            },
        );
        tensor(out, &x)
    }

    fn norm_back(x: FlexTensor, gain: FlexTensor, grad: FlexTensor, epsilon: f64) -> [FlexTensor; 3] {
        let (x, gain, grad) = (contiguous(&x), contiguous(&gain), contiguous(&grad));
        let (xs, gains, grads) = (values(&x), values(&gain), values(&grad));
        let width = gains.len();
        let mut out = vec![0.0; xs.len()];
        let block = BLOCK_ROWS * width;
        // Blocks of rows, each with its share of the gradients of gain and shift.
        let sums: Vec<Vec<f32>> = out
            .par_chunks_mut(block)
            .enumerate()
            .map(|(i, out)| {
                let mut sums = vec![0.0; 2 * width];
                let (x, grad) = (&xs[i * block..][..out.len()], &grads[i * block..][..out.len()]);
                Arch::new().dispatch(Work(
                    #[inline(always)]
                    || {
                        let lines = out.chunks_exact_mut(width).zip(x.chunks_exact(width));
                        for ((out, x), grad) in lines.zip(grad.chunks_exact(width)) {
                            norm_back_row(out, [x, grad, gains], &mut sums, epsilon as f32);
                        }
                    },
                ));
                sums
            })
            .collect();
        let mut total = vec![0.0; 2 * width];
        for sums in sums {
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
        let shift = total.split_off(width);
        [tensor(out, &x), vector(total), vector(shift)]
    }

    fn softmax_forward(scores: FlexTensor, hidden: FlexTensor, scale: f64, causal: bool) -> FlexTensor {
        let (scores, hidden) = (contiguous(&scores), contiguous(&hidden));
        let shape = scores.layout().shape();
        let (heads, queries, keys) = (shape[1], shape[2], shape[3]);
        let hidden = (hidden.layout().shape().num_elements() > 1).then(|| values(&hidden));
        let mut out = vec![0.0; values(&scores).len()];
        rows(
            &mut out,
            [values(&scores)],
            keys,
            #[inline(always)]
            |row, out, [scores]| {
                let seen = if causal { (row % queries + 1).min(keys) } else { keys };
                let (out, scores) = (&mut out[..seen], &scores[..seen]);
                match hidden {
                    Some(hidden) => {
                        let hidden = &hidden[row / (heads * queries) * keys..][..seen];
                        for ((out, score), hidden) in out.iter_mut().zip(scores).zip(hidden) {
                            *out = score.mul_add(scale as f32, *hidden);
                        }
                    }
                    None => out.iter_mut().zip(scores).for_each(|(out, score)| *out = score * scale as f32),
                }
                let most = out.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                out.iter_mut().for_each(|x| *x = exp(*x - most));
                let total = 1.0 / sum(out, |i| out[i]);
                out.iter_mut().for_each(|x| *x *= total);
            },
        );
        tensor(out, &scores)
    }

    fn softmax_back(shares: FlexTensor, grad: FlexTensor, scale: f64) -> FlexTensor {
        let (shares, grad) = (contiguous(&shares), contiguous(&grad));
        let mut out = vec![0.0; values(&shares).len()];
        let inputs = [values(&shares), values(&grad)];
        rows(
            &mut out,
            inputs,
            last_dimension(&shares),
            #[inline(always)]
            |_, out, [shares, grad]| {
                let mean = sum(shares, |i| shares[i] * grad[i]);
                for ((out, share), grad) in out.iter_mut().zip(shares).zip(grad) {
                    *out = share * (grad - mean) * scale as f32;
                }
            },
        );
        tensor(out, &shares)
    }
}

/// Computes one row of LayerNorm's derivatives: for `x` into `out`, for gain and shift added to `sums` `[2 * W]`.
#[inline(always)]
fn norm_back_row(out: &mut [f32], [x, grad, gain]: [&[f32]; 3], sums: &mut [f32], epsilon: f32) {
    let n = x.len() as f32;
    let (mean, scale) = moments(x, epsilon);
    let (gains, shifts) = sums.split_at_mut(x.len());
    for i in 0..x.len() {
        // The normalised value; `out` holds it until the result replaces it.
        out[i] = (x[i] - mean) * scale;
        gains[i] += grad[i] * out[i];
        shifts[i] += grad[i];
    }
    let by_gain = sum(x, |i| grad[i] * gain[i]) / n;
    let by_value = sum(x, |i| grad[i] * gain[i] * out[i]) / n;
    for i in 0..x.len() {
        out[i] = scale * (grad[i] * gain[i] - by_gain - out[i] * by_value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_tolerance() {
        for i in 0..=200_000 {
            let x = -f64::from(i) * 0.000_45;
            let (got, want) = (f64::from(exp(x as f32)), f64::from(x as f32).exp());
            let tolerance = if want < 1e-37 { 1e-37 } else { want * 3e-7 };
            assert!((got - want).abs() <= tolerance, "exp({x}) = {got:e}, not {want:e}");
        }
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY)), (1.0, 0.0));
    }
}
