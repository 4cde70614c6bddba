//! Devices and dtypes as users name them.

use std::fmt;
use std::str::FromStr;

use super::DeviceError;

/// A device as a user names it: `auto`, `cpu`, `wgpu`, `wgpu:1`, `cuda`, `cuda:0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The first of CUDA, another real GPU, the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU through wgpu (Metal, Vulkan, DX12); without number the adapter that wgpu prefers.
    Wgpu(Option<usize>),
    /// An NVIDIA GPU.
    Cuda(Option<usize>),
}

/// The dtype of weights and activations as a user names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DTypeSpec {
    /// On CUDA bf16 where the card computes in it, else f16; on a CPU bf16 where it has AMX; elsewhere f32.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit integers for the weights of linear layers, on the CPU.
    Int8,
}

impl FromStr for DeviceSpec {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::UnknownDevice { found: text.to_owned() };
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, Some(index.parse().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (kind, index) {
            ("auto", None) => Ok(DeviceSpec::Auto),
            ("cpu", None) => Ok(DeviceSpec::Cpu),
            ("wgpu", index) => Ok(DeviceSpec::Wgpu(index)),
            ("cuda", index) => Ok(DeviceSpec::Cuda(index)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Auto => f.write_str("auto"),
            DeviceSpec::Cpu => f.write_str("cpu"),
            DeviceSpec::Wgpu(None) => f.write_str("wgpu"),
            DeviceSpec::Wgpu(Some(i)) => write!(f, "wgpu:{i}"),
            DeviceSpec::Cuda(None) => f.write_str("cuda"),
            DeviceSpec::Cuda(Some(i)) => write!(f, "cuda:{i}"),
        }
    }
}

impl FromStr for DTypeSpec {
    type Err = DeviceError;

    /// Takes vLLM's and torch's spellings too.
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(DTypeSpec::Auto),
            "f32" | "float32" | "float" => Ok(DTypeSpec::F32),
            "f16" | "float16" | "half" => Ok(DTypeSpec::F16),
            "bf16" | "bfloat16" => Ok(DTypeSpec::Bf16),
            "int8" | "i8" => Ok(DTypeSpec::Int8),
            _ => Err(DeviceError::UnknownDType { found: text.to_owned() }),
        }
    }
}

impl fmt::Display for DTypeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DTypeSpec::Auto => "auto",
            DTypeSpec::F32 => "f32",
            DTypeSpec::F16 => "f16",
            DTypeSpec::Bf16 => "bf16",
            DTypeSpec::Int8 => "int8",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_nonsense_is_refused_by_name() {
        for (text, spec) in [
            ("auto", DeviceSpec::Auto),
            ("cpu", DeviceSpec::Cpu),
            ("wgpu", DeviceSpec::Wgpu(None)),
            ("wgpu:1", DeviceSpec::Wgpu(Some(1))),
            ("cuda:0", DeviceSpec::Cuda(Some(0))),
        ] {
            assert_eq!(text.parse(), Ok(spec));
            assert_eq!(spec.to_string(), text);
        }
        for text in ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "auto:1"] {
            assert_eq!(text.parse::<DeviceSpec>(), Err(DeviceError::UnknownDevice { found: text.into() }));
        }
        assert_eq!("half".parse(), Ok(DTypeSpec::F16));
        assert_eq!("int8".parse(), Ok(DTypeSpec::Int8));
        assert!("int4".parse::<DTypeSpec>().is_err());
    }
}
