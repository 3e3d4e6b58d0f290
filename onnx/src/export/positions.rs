//! Position embeddings of a grid of patches, interpolated to another grid.

/// Parameter of the cubic kernel, as in torch.
const CUBIC: f64 = -0.75;

/// Returns weights of the four neighbours of a point at `offset`, 0 to 1, behind the second.
fn cubic_weights(offset: f64) -> [f64; 4] {
    let near = |x: f64| ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((CUBIC * x - 5.0 * CUBIC) * x + 8.0 * CUBIC) * x - 4.0 * CUBIC;
    [far(offset + 1.0), near(offset), near(1.0 - offset), far(2.0 - offset)]
}

/// Returns the four places, within `0..from`, that place `at` of a side of `to` is interpolated from, and their weights.
fn neighbours(at: usize, from: usize, to: usize) -> [(usize, f64); 4] {
    let source = (at as f64 + 0.5) * from as f64 / to as f64 - 0.5;
    let weights = cubic_weights(source - source.floor());
    std::array::from_fn(|i| {
        let place = (source.floor() + i as f64 - 1.0).clamp(0.0, (from - 1) as f64);
        (place as usize, weights[i])
    })
}

/// Interpolates vectors on a square grid, `[from * from, W]`, to `[to * to, W]`, as torch's `interpolate` with `mode='bicubic'` and
/// `align_corners=False` does: without smoothing, and with the border's vectors beyond it.
pub(super) fn resize_grid(values: &[f32], from: usize, to: usize) -> Vec<f32> {
    let width = values.len() / (from * from);
    let mut out = Vec::with_capacity(to * to * width);
    for row in 0..to {
        let rows = neighbours(row, from, to);
        for column in 0..to {
            let columns = neighbours(column, from, to);
            let mut sums = vec![0.0_f64; width];
            for (y, wy) in rows {
                for (x, wx) in columns {
                    let vector = &values[(y * from + x) * width..][..width];
                    sums.iter_mut().zip(vector).for_each(|(sum, v)| *sum += wy * wx * f64::from(*v));
                }
            }
            out.extend(sums.iter().map(|sum| *sum as f32));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{cubic_weights, resize_grid};

    #[test]
    fn weights_of_a_point_sum_to_one() {
        for step in 0..=8 {
            let sum: f64 = cubic_weights(f64::from(step) / 8.0).iter().sum();
            assert!((sum - 1.0).abs() < 1e-12, "{step}: {sum}");
        }
        assert_eq!(cubic_weights(0.0), [0.0, 1.0, 0.0, 0.0]);
    }

    /// `torch.nn.functional.interpolate(x, size=(n, n), mode='bicubic', align_corners=False)` of torch 2.15 with
    /// x[i, j] = sin(1 + 3 i + 5 j) on a grid of 3.
    #[test]
    fn interpolated_grids_are_torchs() {
        let values: Vec<f32> =
            (0..9).map(|at| (1.0 + 3.0 * (at / 3) as f32 + 5.0 * (at % 3) as f32).sin()).collect();
        for (to, want) in TORCH {
            let got = resize_grid(&values, 3, *to);
            assert_eq!(got.len(), want.len());
            for (at, (got, want)) in got.iter().zip(*want).enumerate() {
                assert!((got - want).abs() < 2e-6, "{to}: {at}: {got} {want}");
            }
        }
        assert_eq!(resize_grid(&values, 3, 3), values);
    }

    /// Each number of a vector is interpolated alone.
    #[test]
    fn vectors_are_interpolated_number_by_number() {
        let plain: Vec<f32> = (0..4).map(|at| at as f32 * 0.7).collect();
        let pairs: Vec<f32> = plain.iter().flat_map(|v| [*v, 1.0 - v]).collect();
        let (one, both) = (resize_grid(&plain, 2, 5), resize_grid(&pairs, 2, 5));
        for (pair, v) in both.as_chunks::<2>().0.iter().zip(one) {
            assert!((pair[0] - v).abs() < 1e-6 && (pair[1] - (1.0 - v)).abs() < 1e-6);
        }
    }

    /// Results of torch, by the side of the grid.
    const TORCH: &[(usize, &[f32])] = &[
        (2, &[0.3258077, -0.4100359, 0.1549141, -0.4350765]),
        (
            5,
            &[
                1.1236132, 0.5355704, -0.3458028, -0.9596479, -1.2722353, 0.1255327, 0.1057485, 0.0572055,
                -0.0355944, -0.1009466, -0.869019, -0.3449119, 0.4121185, 0.8503159, 1.0461425, 0.0041181,
                -0.0542904, -0.1186904, -0.0912662, -0.0551298, 0.9290648, 0.2791333, -0.6276473, -1.0488522,
                -1.1988199,
            ],
        ),
    ];
}
