//! Execution providers as a user requests them.

use std::str::FromStr;

/// An execution provider, as requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// CUDA where it works, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// NVIDIA GPUs, with image encoders compiled by TensorRT.
    TensorRt,
}

impl Provider {
    /// Returns the provider's name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }
}

impl FromStr for Provider {
    type Err = String;

    /// Parses a name as [`Provider::as_str`] returns it.
    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Auto, Self::Cpu, Self::Cuda, Self::TensorRt]
            .into_iter()
            .find(|provider| provider.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not one of auto, cpu, cuda, tensorrt"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_names_round_trip() {
        for provider in [Provider::Auto, Provider::Cpu, Provider::Cuda, Provider::TensorRt] {
            assert_eq!(provider.as_str().parse(), Ok(provider));
        }
        assert!("gpu".parse::<Provider>().expect_err("unknown").contains("tensorrt"));
    }
}
