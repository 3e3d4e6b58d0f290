//! The execution provider and device that sessions run on.

use crate::model::ModelFolder;

/// Images per call of an encoder on a CPU, at most: more are not faster, and with fewer slots are refilled sooner.
const CPU_ENCODE_BATCH: usize = 8;
/// Tokens per call of an encoder on a CPU, about: activations of more do not fit into a core's second-level cache. With 2 MiB of it a base
/// ViT of 577 tokens takes 0.9 times the time for an image alone as for one of eight, in int8 0.8; one of 50 tokens 1.4 times
/// (`benchmarks/encoder_calls.py`).
const CPU_ENCODE_TOKENS: usize = 512;
/// Images per call of an encoder on a GPU, at most: on an H100 a ViT-L/14 encodes 256 images 1.18 times as fast as 64.
const GPU_ENCODE_BATCH: usize = 256;

/// An execution provider that works, and its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// The CPU.
    Cpu,
    /// A GPU, with CUDA.
    Cuda {
        /// Number of the GPU.
        device: u32,
    },
    /// A GPU, with TensorRT for image encoders and CUDA for everything else.
    TensorRt {
        /// Number of the GPU.
        device: u32,
    },
}

impl Execution {
    /// Returns the name of the provider, as in records and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda { .. } => "cuda",
            Self::TensorRt { .. } => "tensorrt",
        }
    }

    /// Returns whether the device is a GPU.
    #[must_use]
    pub fn is_gpu(self) -> bool {
        self != Self::Cpu
    }

    /// Returns the number of the GPU, if there is one.
    #[must_use]
    pub fn device(self) -> Option<u32> {
        match self {
            Self::Cpu => None,
            Self::Cuda { device } | Self::TensorRt { device } => Some(device),
        }
    }

    /// Returns the number of images that are worth encoding in one call of a model's image encoder, at most.
    #[must_use]
    pub fn encode_batch(self, model: &ModelFolder) -> usize {
        if self.is_gpu() { GPU_ENCODE_BATCH } else { cpu_encode_batch(model.spec.dimensions.encoder_tokens) }
    }
}

/// Returns the images per call on a CPU, where an image has so many tokens.
fn cpu_encode_batch(tokens: Option<usize>) -> usize {
    let images = |tokens: usize| (CPU_ENCODE_TOKENS + tokens / 2) / tokens.max(1);
    tokens.map_or(CPU_ENCODE_BATCH, images).clamp(1, CPU_ENCODE_BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_many_tokens_are_encoded_one_by_one() {
        let tokens = [None, Some(0), Some(17), Some(50), Some(197), Some(257), Some(577), Some(4097)];
        assert_eq!(tokens.map(cpu_encode_batch), [8, 8, 8, 8, 3, 2, 1, 1]);
    }
}
