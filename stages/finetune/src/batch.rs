//! Batches of images and texts, on the host ([`Batch`]) and on a device ([`DeviceBatch`]).

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use recaption_onnx::checkpoint::ModelConfig;

use crate::model::{Texts, albef::AlbefConfig};

/// Id of padding. Padding is never a label: it is ignored wherever it stands (open_clip's `ignore_index`).
pub const PAD: i64 = 0;

/// A batch of samples on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Webdataset keys, `[N]`.
    pub keys: Vec<String>,
    /// RGB at the model's size, u8 `[N, S, S, 3]`, row-major.
    pub pixels: Vec<u8>,
    /// Ids of each text: start, words, end, without padding.
    pub ids: Vec<Vec<i64>>,
}

/// A batch on a device.
#[derive(Debug)]
pub struct DeviceBatch {
    /// Normalised pixels, `[N, G * G, 3 * P * P]`, channel by channel.
    pub patches: Tensor<3>,
    /// Texts `[N, T]`, as long as the longest needs.
    pub texts: Texts,
    /// The decoder's labels, `[N * (T - 1)]`: every id but the first.
    pub labels: Tensor<1, Int>,
}

impl Batch {
    /// Returns the number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the number of labels: every id but the first, unless it is padding.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.ids.iter().flat_map(|ids| ids.iter().skip(1)).filter(|id| **id != PAD).count()
    }

    /// Adds a sample.
    pub fn push(&mut self, key: String, pixels: &[u8], ids: Vec<i64>) {
        self.keys.push(key);
        self.pixels.extend_from_slice(pixels);
        self.ids.push(ids);
    }

    /// Splits the batch into parts of at most `n` samples, in order.
    #[must_use]
    pub fn parts(&self, n: usize) -> Vec<Self> {
        let image = self.pixels.len() / self.len().max(1);
        let part = |(i, keys): (usize, &[String])| {
            let (from, to) = (i * n, i * n + keys.len());
            Self {
                keys: keys.to_vec(),
                pixels: self.pixels[from * image..to * image].to_vec(),
                ids: self.ids[from..to].to_vec(),
            }
        };
        self.keys.chunks(n.max(1)).enumerate().map(part).collect()
    }

    /// Copies the batch to a device.
    #[must_use]
    pub fn to_device(&self, c: &ModelConfig, device: &Device) -> DeviceBatch {
        let n = self.len();
        let patches = self.patches(&PatchSettings::of_coca(c), device);
        let length = self.length(c.text.context_length);
        let at = |ids: &[i64], i: usize| ids.get(i).copied().unwrap_or(PAD);
        let ids: Vec<i64> = self.ids.iter().flat_map(|ids| (0..length).map(|i| at(ids, i))).collect();
        let hidden: Vec<bool> = ids
            .chunks_exact(length)
            .flat_map(|row| std::iter::once(false).chain(row.iter().map(|id| *id == PAD)))
            .collect();
        let labels: Vec<i64> = ids.chunks_exact(length).flat_map(|row| &row[1..]).copied().collect();
        let labels = Tensor::from_data(TensorData::new(labels, [n * (length - 1)]), device);
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [n, length]), device);
        let hidden = Tensor::<2, Bool>::from_data(TensorData::new(hidden, [n, length + 1]), device);
        DeviceBatch { patches, texts: Texts { ids, hidden }, labels }
    }

    /// Copies the images to a device: normalised patches, `[N, G * G, 3 * P * P]`, channel by channel.
    #[must_use]
    pub fn patches(&self, settings: &PatchSettings, device: &Device) -> Tensor<3> {
        let (n, grid, patch) = (self.len(), settings.grid(), settings.patch);
        let patches = cut_patches(&self.pixels, n, settings);
        Tensor::from_data(TensorData::new(patches, [n, grid * grid, 3 * patch * patch]), device)
    }

    /// Returns the number of ids per text: one more than the longest has, at most the context length.
    fn length(&self, context: usize) -> usize {
        let last = |ids: &Vec<i64>| ids.iter().rposition(|id| *id != PAD).map_or(0, |at| at + 1);
        (self.ids.iter().map(last).max().unwrap_or(0) + 1).clamp(2, context)
    }
}

/// How images are cut and normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PatchSettings {
    /// Side of an image, pixels.
    pub side: usize,
    /// Side of a patch, pixels; divides the image's.
    pub patch: usize,
    /// Mean of pixels in [0, 1], RGB.
    pub mean: [f64; 3],
    /// Standard deviation, RGB, > 0.
    pub std: [f64; 3],
}

impl PatchSettings {
    /// Returns a CoCa's.
    #[must_use]
    pub fn of_coca(c: &ModelConfig) -> Self {
        let (side, patch) = (c.vision.image_size, c.vision.patch_size);
        Self { side, patch, mean: c.normalisation.mean, std: c.normalisation.std }
    }

    /// Returns an ALBEF's.
    #[must_use]
    pub fn of_albef(c: &AlbefConfig) -> Self {
        Self { side: c.image_res, patch: c.patch_size, mean: c.mean, std: c.std }
    }

    /// Returns the number of patches per side.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.side / self.patch
    }
}

/// Cuts pixels into normalised patches in the order of the first convolution's weight: channel, row, column.
fn cut_patches(pixels: &[u8], n: usize, s: &PatchSettings) -> Vec<f32> {
    let (side, patch, grid) = (s.side, s.patch, s.grid());
    let area = patch * patch;
    let table: Vec<[f32; 256]> = (0..3)
        .map(|channel| {
            let (mean, std) = (s.mean[channel], s.std[channel]);
            std::array::from_fn(|v| ((v as f64 / 255.0 - mean) / std) as f32)
        })
        .collect();
    let mut patches = vec![0.0; n * grid * grid * 3 * area];
    patches.par_chunks_exact_mut(3 * area).enumerate().for_each(|(i, out)| {
        let (image, at) = (i / (grid * grid), i % (grid * grid));
        let (top, left) = (at / grid * patch, at % grid * patch);
        let image = &pixels[image * side * side * 3..];
        for row in 0..patch {
            let line = &image[((top + row) * side + left) * 3..][..patch * 3];
            for (column, rgb) in line.chunks_exact(3).enumerate() {
                for (channel, v) in rgb.iter().enumerate() {
                    out[channel * area + row * patch + column] = table[channel][usize::from(*v)];
                }
            }
        }
    });
    patches
}
