//! The execution provider and device that sessions run on.

/// Images per call of an encoder on a CPU, at most: more are not faster, and with fewer slots are refilled sooner.
const CPU_ENCODE_BATCH: usize = 8;
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

    /// Returns the number of images that are worth encoding in one call, at most.
    #[must_use]
    pub fn encode_batch(self) -> usize {
        if self.is_gpu() { GPU_ENCODE_BATCH } else { CPU_ENCODE_BATCH }
    }
}
