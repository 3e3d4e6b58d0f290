//! The patch embedding of a ViT: a matrix product over flattened patches, with the normalisation of pixels folded in.

use super::{
    error::ExportError,
    fold::transpose,
    graph::{Attr, DType, Value},
    tower::Tower,
};
use crate::checkpoint::{Normalisation, TensorReader};

/// Pixels are divided by this before the patch embedding in fp16, so that the folded weights stay normal numbers.
const FP16_PIXEL_SCALE: f32 = 128.0;

/// Sizes of a patch embedding and the names of its tensors.
pub(super) struct PatchEmbedding<'a> {
    /// Side of the image, pixels; a remainder beyond whole patches is ignored, as in the convolution.
    pub(super) image_size: usize,
    /// Side of a patch, pixels.
    pub(super) patch_size: usize,
    /// Width of the tokens, `W`.
    pub(super) width: usize,
    /// The convolution's weight, `[W, 3, P, P]`.
    pub(super) weight: &'a str,
    /// The convolution's bias `[W]`, if there is one.
    pub(super) bias: Option<&'a str>,
    /// How pixels are normalised.
    pub(super) normalisation: Normalisation,
}

impl PatchEmbedding<'_> {
    /// Folds the normalisation of pixels into the convolution's weight `[W, 3, P, P]`: a matrix `[W, P * P * 3]` over raw pixels, times
    /// `scale`, and its bias `[W]`,
    /// `w * (v / 255 - mean) / std = (w / (255 std)) * v - w * mean / std`.
    fn folded(&self, r: &TensorReader, scale: f32) -> Result<(Vec<f32>, Vec<f32>), ExportError> {
        let (width, patch) = (self.width, self.patch_size);
        let conv = r.get(self.weight, &[width, 3, patch, patch])?;
        let area = patch * patch;
        let mut weight = vec![0.0; conv.len()];
        let mut bias = vec![0.0; width];
        for (out, filter) in conv.chunks_exact(3 * area).enumerate() {
            let mut sum = 0.0;
            for channel in 0..3 {
                let (mean, std) = (self.normalisation.mean[channel], self.normalisation.std[channel]);
                for at in 0..area {
                    let w = f64::from(filter[channel * area + at]);
                    weight[(out * area + at) * 3 + channel] = (w * f64::from(scale) / (255.0 * std)) as f32;
                    sum -= w * mean / std;
                }
            }
            bias[out] = sum as f32;
        }
        if let Some(name) = self.bias {
            bias.iter_mut().zip(r.get(name, &[width])?).for_each(|(sum, own)| *sum += own);
        }
        Ok((weight, bias))
    }

    /// Returns what is to be added to every patch's embedding, `[W]`.
    pub(super) fn folded_bias(&self, r: &TensorReader) -> Result<Vec<f32>, ExportError> {
        Ok(self.folded(r, 1.0)?.1)
    }
}

/// Embeds the patches of `pixels` u8 `[N, S, S, 3]` as `[N, G * G, W]`, without [`PatchEmbedding::folded_bias`].
pub(super) fn embed(t: &mut Tower<'_>, p: &PatchEmbedding<'_>, pixels: &Value) -> Result<Value, ExportError> {
    let grid = p.image_size / p.patch_size;
    let (side, patch, width) = (grid as i64, p.patch_size as i64, p.width);
    let used = side * patch;
    let mut x = pixels.clone();
    if used != p.image_size as i64 {
        let (starts, ends, axes) = (t.g.ints(&[0, 0]), t.g.ints(&[used, used]), t.g.ints(&[1, 2]));
        x = t.g.op("Slice", &[&x, &starts, &ends, &axes], &[]);
    }
    // Moving bytes is cheaper than moving floats, so patches are cut before the cast.
    let shape = t.g.ints(&[-1, side, patch, side, patch, 3]);
    let x = t.g.op("Reshape", &[&x, &shape], &[]);
    let x = t.g.op("Transpose", &[&x], &[("perm", Attr::Ints(&[0, 1, 3, 2, 4, 5]))]);
    let shape = t.g.ints(&[-1, patch * patch * 3]);
    let x = t.g.op("Reshape", &[&x, &shape], &[]);
    let mut x = t.g.op("Cast", &[&x], &[("to", Attr::Int(t.dtype.code().into()))]);
    let scale = if t.dtype == DType::F16 { FP16_PIXEL_SCALE } else { 1.0 };
    if t.dtype == DType::F16 {
        let factor = t.g.real(t.dtype, 1.0 / scale);
        x = t.g.op("Mul", &[&x, &factor], &[]);
    }
    let pixels_per_patch = (patch * patch * 3) as usize;
    let sizes = [width, pixels_per_patch];
    let (name, fused) = ("visual.patch_weight", t.is_fused());
    let shape = if fused { [pixels_per_patch, width] } else { sizes };
    let weight = t.derived_weight(name, &shape, |r| {
        let weight = p.folded(r, scale)?.0;
        Ok(if fused { transpose(&weight, sizes) } else { weight })
    })?;
    // The patch embedding is not quantised.
    let x = match fused {
        true => t.g.op("MatMul", &[&x, &weight], &[]),
        false => t.g.op("Gemm", &[&x, &weight], &[("transB", Attr::Int(1))]),
    };
    Ok(t.as_batch(&x, grid * grid, width))
}

/// Adds `positions [G * G, W]` to patches `[N, G * G, W]` and puts the class token before them, whose embedding with its position
/// `class` returns, `[W]`; returns `[N * (G * G + 1), W]`.
pub(super) fn add_positions_and_class(
    t: &mut Tower<'_>,
    x: &Value,
    positions: &Value,
    width: usize,
    class: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
) -> Result<Value, ExportError> {
    let x = t.g.op("Add", &[x, positions], &[]);
    let class = t.derived_weight("visual.class_token", &[1, 1, width], class)?;
    let class = t.repeat(&class, &x, [1, width as i64]);
    let x = t.g.op("Concat", &[&class, &x], &[("axis", Attr::Int(1))]);
    Ok(t.as_rows(&x, width))
}
