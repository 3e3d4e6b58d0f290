//! Pillow's resampling to the last bit: weights with 22 fractional bits, sums in 32 bits, rounded to u8 after each pass.
//!
//! fast_image_resize has 15 bits at most in a weight, so that a byte of a hundred differs by one. It is several times as fast; this is
//! for images that are squashed, whose models (BLIP) were trained on Pillow's pixels.

use recaption_schemas::Interpolation;

/// Fractional bits of a weight: 32 less 8 of a pixel and 2 for sums beyond one.
const BITS: u32 = 32 - 8 - 2;

/// The source pixels of one pixel of the result.
pub(super) struct Taps {
    /// The first of them.
    from: usize,
    /// A weight for each, times 2^22.
    weights: Vec<i32>,
}

/// Returns the taps of `length` pixels over an axis of `source` pixels. A `reversed` axis is that of an image whose EXIF orientation
/// flips it: Pillow flips first, and its weights are not symmetric to the last bit, which shows where a sum is half a grey level.
pub(super) fn taps(source: u32, length: u32, interpolation: Interpolation, reversed: bool) -> Vec<Taps> {
    let mut taps = upright_taps(source, length, interpolation);
    if reversed {
        taps.reverse();
        for taps in &mut taps {
            taps.from = source as usize - taps.from - taps.weights.len();
            taps.weights.reverse();
        }
    }
    taps
}

fn upright_taps(source: u32, length: u32, interpolation: Interpolation) -> Vec<Taps> {
    let (kernel, support): (fn(f64) -> f64, f64) = match interpolation {
        Interpolation::Bicubic => (bicubic, 2.0),
        Interpolation::Bilinear => (bilinear, 1.0),
    };
    let scale = f64::from(source) / f64::from(length);
    let stretch = scale.max(1.0);
    let reach = support * stretch;
    let taps_of = |pixel: u32| {
        let centre = (f64::from(pixel) + 0.5) * scale;
        // Truncated towards zero, as a cast to a whole number is.
        let from = (centre - reach + 0.5).max(0.0) as usize;
        let to = ((centre + reach + 0.5).max(0.0) as usize).min(source as usize).max(from);
        let weight = |at: usize| kernel((at as f64 - centre + 0.5) / stretch);
        let sum: f64 = (from..to).map(weight).sum();
        let unit = if sum == 0.0 { 1.0 } else { sum };
        let fixed = |at: usize| {
            let scaled = weight(at) / unit * f64::from(1_u32 << BITS);
            (scaled + 0.5_f64.copysign(scaled)) as i32
        };
        Taps { from, weights: (from..to).map(fixed).collect() }
    };
    (0..length).map(taps_of).collect()
}

/// Returns whether Pillow resamples the rows of an image before its columns: it does, but that since version 13.0 columns come first
/// where the height shrinks by more than twice as many pixels as the width.
pub(super) fn rows_first(source: (u32, u32), result: (u32, u32)) -> bool {
    let (width, height) =
        (i64::from(source.0) - i64::from(result.0), i64::from(source.1) - i64::from(result.1));
    height <= 0 || height <= 2 * width
}

/// Catmull and Rom's cubic, a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn bilinear(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Resamples every row of `source [height, width, channels]` into `out [height, taps, channels]`; at most 4 channels.
pub(super) fn along_rows(source: &[u8], (width, channels): (usize, usize), taps: &[Taps], out: &mut [u8]) {
    let lines = source.chunks_exact(width * channels);
    for (line, out) in lines.zip(out.chunks_exact_mut(taps.len() * channels)) {
        for (taps, pixel) in taps.iter().zip(out.chunks_exact_mut(channels)) {
            let mut sums = [1_i32 << (BITS - 1); 4];
            let pixels = line[taps.from * channels..].chunks_exact(channels);
            for (weight, source) in taps.weights.iter().zip(pixels) {
                for (sum, value) in sums.iter_mut().zip(source) {
                    *sum += weight * i32::from(*value);
                }
            }
            for (value, sum) in pixel.iter_mut().zip(sums) {
                *value = rounded(sum);
            }
        }
    }
}

/// Resamples every column of `source [height, line]` into `out [taps, line]`, where a line is a row's pixels with their channels.
pub(super) fn along_columns(source: &[u8], line: usize, taps: &[Taps], out: &mut [u8]) {
    let mut sums = vec![0_i32; line];
    for (taps, out) in taps.iter().zip(out.chunks_exact_mut(line)) {
        sums.fill(1 << (BITS - 1));
        for (weight, source) in taps.weights.iter().zip(source[taps.from * line..].chunks_exact(line)) {
            for (sum, value) in sums.iter_mut().zip(source) {
                *sum += weight * i32::from(*value);
            }
        }
        for (value, sum) in out.iter_mut().zip(&sums) {
            *value = rounded(*sum);
        }
    }
}

/// Returns a sum's whole part, 0 to 255.
fn rounded(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 9 x 5 pixels.
    const SOURCE: [u8; 45] = [
        0, 91, 182, 17, 108, 199, 34, 125, 216, 37, 141, 245, 93, 197, 45, 149, 253, 101, 74, 191, 52, 169,
        30, 147, 8, 125, 242, 111, 241, 115, 245, 119, 249, 123, 253, 127, 148, 35, 178, 65, 208, 95, 238,
        125, 12,
    ];
    /// `Image.resize((4, 7), BICUBIC)` of Pillow 13.0.
    const BICUBIC: [u8; 28] = [
        70, 93, 119, 141, 99, 140, 122, 163, 122, 155, 105, 172, 122, 107, 73, 152, 162, 165, 159, 179, 142,
        162, 186, 147, 99, 123, 168, 95,
    ];
    /// The same with `BILINEAR`.
    const BILINEAR: [u8; 28] = [
        75, 91, 125, 141, 102, 130, 124, 161, 122, 144, 112, 167, 120, 108, 83, 145, 154, 161, 157, 170, 141,
        158, 175, 148, 106, 125, 160, 106,
    ];

    #[test]
    fn pixels_are_pillows() {
        for (interpolation, want) in [(Interpolation::Bicubic, BICUBIC), (Interpolation::Bilinear, BILINEAR)]
        {
            // Three channels that differ.
            let source: Vec<u8> = SOURCE.iter().flat_map(|v| [*v, 255 - *v, *v]).collect();
            let (mut half, mut small) = (vec![0; 4 * 5 * 3], vec![0; 4 * 7 * 3]);
            along_rows(&source, (9, 3), &taps(9, 4, interpolation, false), &mut half);
            along_columns(&half, 4 * 3, &taps(5, 7, interpolation, false), &mut small);
            let first: Vec<u8> = small.iter().step_by(3).copied().collect();
            assert_eq!(first, want, "{interpolation:?}");
            assert!(small.chunks_exact(3).all(|pixel| pixel[0] == pixel[2]));
        }
    }

    #[test]
    fn passes_have_pillows_order() {
        // As seen of Pillow 13.0 with noise: source and result (width, height), whether rows come first.
        for (source, result, want) in [
            ((50, 75), (48, 48), false),
            ((75, 50), (48, 48), true),
            ((60, 72), (48, 48), true),
            ((60, 74), (48, 48), false),
            ((100, 128), (48, 48), true),
            ((30, 46), (48, 48), true),
            ((30, 50), (48, 48), false),
        ] {
            assert_eq!(rows_first(source, result), want, "{source:?}");
        }
    }

    #[test]
    fn an_axis_of_the_same_length_is_unchanged() {
        let mut out = vec![0; SOURCE.len()];
        along_rows(&SOURCE, (9, 1), &taps(9, 9, Interpolation::Bicubic, false), &mut out);
        assert_eq!(out, SOURCE);
        along_columns(&SOURCE, 9, &taps(5, 5, Interpolation::Bilinear, true), &mut out);
        assert_eq!(out, SOURCE);
    }
}
