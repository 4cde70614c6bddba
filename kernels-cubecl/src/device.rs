//! Devices: how a user names one, and which of them this build and this machine have.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Device};

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
    /// On CUDA bf16 where the card computes in it, else f16; elsewhere f32.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// bfloat16.
    Bf16,
}

/// A device that was opened, and what is computed on it.
#[derive(Clone, Debug)]
pub struct OpenDevice {
    /// The device.
    pub device: Device,
    /// Dtype of weights and activations.
    pub dtype: DType,
    /// The dtype that was asked for, where the device lacks it and weights are converted to `dtype` instead.
    pub replaced: Option<DTypeSpec>,
    /// What to call it: `cpu (avx512)`, `cuda:0 (NVIDIA H100)`.
    pub name: String,
}

impl OpenDevice {
    /// The dtype as a user names it.
    pub fn dtype_name(&self) -> &'static str {
        match self.dtype {
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            _ => "f32",
        }
    }
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The name is not a device's.
    #[error("`{found}` names no device: expected auto, cpu, wgpu, wgpu:N, cuda or cuda:N")]
    UnknownDevice {
        /// What was given.
        found: String,
    },
    /// The name is not a dtype's.
    #[error("`{found}` names no dtype: expected auto, f32, f16 or bf16")]
    UnknownDType {
        /// What was given.
        found: String,
    },
    /// The program was built without this backend.
    #[error("this build has no {backend} support: build with `--features {backend}` (it has: {built_in})")]
    NotBuiltIn {
        /// The backend asked for.
        backend: &'static str,
        /// The backends there are.
        built_in: String,
    },
    /// No such device on this machine.
    #[error("{spec} was asked for, but this machine has {found} such device(s)")]
    NotFound {
        /// What was asked for.
        spec: String,
        /// Devices found.
        found: usize,
    },
    /// NVIDIA's driver and card are there, the compiler for the kernels is not.
    #[error(
        "{spec} compiles its kernels with NVRTC, and no CUDA toolkit with its headers was found: install one, or set \
         CUDA_PATH to its folder (looked for include/cuda_fp16.h in CUDA_PATH, /usr/local/cuda and /opt/cuda)"
    )]
    ToolkitMissing {
        /// What was asked for.
        spec: String,
    },
    /// The device does not compute in this dtype.
    #[error("{device} does not compute in {dtype}: use --dtype f32 (or auto)")]
    DTypeUnsupported {
        /// The device.
        device: String,
        /// The dtype asked for.
        dtype: String,
    },
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
        })
    }
}

/// The backends that this build has.
pub fn built_in() -> &'static [&'static str] {
    &[
        "cpu",
        #[cfg(feature = "wgpu")]
        "wgpu",
        #[cfg(feature = "vulkan")]
        "vulkan",
        #[cfg(feature = "cuda")]
        "cuda",
    ]
}

/// What a device has to do before it computes as fast as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// Nothing: the CPU's kernels are part of the program.
    Nothing,
    /// Kernels are compiled when they are first launched.
    Compiling,
    /// And for each bucket of shapes the fastest product of matrices is found by trying.
    CompilingAndTuning,
}

/// Opens a device for computing in a dtype. `auto` never picks a software adapter. A device without bf16 computes in f32
/// instead, which holds every bf16 value.
///
/// # Errors
/// When the build or the machine lacks the device, or the device the dtype.
pub fn open(spec: DeviceSpec, dtype: DTypeSpec) -> Result<OpenDevice, DeviceError> {
    let Found { device, name, kind } = match spec {
        DeviceSpec::Auto => best_gpu().unwrap_or_else(cpu),
        DeviceSpec::Cpu => cpu(),
        DeviceSpec::Wgpu(index) => wgpu(index)?,
        DeviceSpec::Cuda(index) => cuda(index)?,
    };
    match compute_dtype(kind, dtype, |dtype| device.supports_dtype(dtype)) {
        Some((computed, replaced)) => Ok(OpenDevice { device, dtype: computed, replaced, name }),
        None => Err(DeviceError::DTypeUnsupported { device: name, dtype: dtype.to_string() }),
    }
}

/// Whether `device` is the CPU.
pub fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

/// What `device` has to do before its first batch. A software rasteriser, on which trying takes minutes, goes by rules of
/// thumb instead.
pub fn preparation(device: &Device) -> Preparation {
    if is_cpu(device) {
        return Preparation::Nothing;
    }
    #[cfg(feature = "cube")]
    if device.identity().is_some_and(|identity| identity.physical.is_none()) {
        return Preparation::Compiling;
    }
    Preparation::CompilingAndTuning
}

/// A device on this machine.
struct Found {
    device: Device,
    name: String,
    kind: Kind,
}

/// What a device is, as far as the choice of a dtype goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cpu,
    #[cfg_attr(not(any(feature = "cube", test)), expect(dead_code, reason = "no such device in this build"))]
    Wgpu,
    Cuda,
}

/// The dtype to compute in, and the one that was asked for where it is replaced; `None` where the device lacks it.
fn compute_dtype(
    kind: Kind,
    spec: DTypeSpec,
    supports: impl Fn(DType) -> bool,
) -> Option<(DType, Option<DTypeSpec>)> {
    let exactly = |dtype| supports(dtype).then_some((dtype, None));
    match spec {
        DTypeSpec::Auto if kind == Kind::Cuda => {
            [DType::BF16, DType::F16, DType::F32].into_iter().find_map(exactly)
        }
        DTypeSpec::Auto | DTypeSpec::F32 => exactly(DType::F32),
        DTypeSpec::F16 => exactly(DType::F16),
        DTypeSpec::Bf16 => exactly(DType::BF16)
            .or_else(|| supports(DType::F32).then_some((DType::F32, Some(DTypeSpec::Bf16)))),
    }
}

fn cpu() -> Found {
    let isa = polylora_kernels_cpu::isa::Isa::current();
    Found { device: Device::flex(), name: format!("cpu ({})", isa.name()), kind: Kind::Cpu }
}

#[cfg(not(feature = "cube"))]
fn best_gpu() -> Option<Found> {
    None
}

/// The first CUDA device, else the first wgpu adapter that is a card and not a software rasteriser.
#[cfg(feature = "cube")]
fn best_gpu() -> Option<Found> {
    if let Ok(found) = cuda(None) {
        return Some(found);
    }
    wgpu_devices().into_iter().enumerate().find_map(|(i, device)| {
        let identity = device.identity()?;
        identity.physical?;
        Some(Found { device, name: format!("wgpu:{i} ({})", identity.name), kind: Kind::Wgpu })
    })
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_index: Option<usize>) -> Result<Found, DeviceError> {
    Err(DeviceError::NotBuiltIn { backend: "wgpu", built_in: built_in().join(", ") })
}

#[cfg(feature = "wgpu")]
fn wgpu(index: Option<usize>) -> Result<Found, DeviceError> {
    named(wgpu_devices(), (DeviceSpec::Wgpu(index), Kind::Wgpu), index)
}

#[cfg(all(feature = "cube", not(feature = "wgpu")))]
fn wgpu_devices() -> Vec<Device> {
    vec![]
}

#[cfg(feature = "wgpu")]
fn wgpu_devices() -> Vec<Device> {
    Device::enumerate(burn::tensor::DeviceType::Wgpu).iter().cloned().collect()
}

#[cfg(not(feature = "cuda"))]
fn cuda(_index: Option<usize>) -> Result<Found, DeviceError> {
    Err(DeviceError::NotBuiltIn { backend: "cuda", built_in: built_in().join(", ") })
}

#[cfg(feature = "cuda")]
fn cuda(index: Option<usize>) -> Result<Found, DeviceError> {
    let devices: Vec<Device> = Device::enumerate(burn::tensor::DeviceType::Cuda).iter().cloned().collect();
    let spec = DeviceSpec::Cuda(index);
    if !devices.is_empty() && !has_cuda_headers() {
        return Err(DeviceError::ToolkitMissing { spec: spec.to_string() });
    }
    named(devices, (spec, Kind::Cuda), index)
}

/// Whether the headers are there that kernels include when NVRTC compiles them; the first launch would panic without.
#[cfg(feature = "cuda")]
fn has_cuda_headers() -> bool {
    cubecl::cuda::install::cuda_path().is_some_and(|toolkit| toolkit.join("include/cuda_fp16.h").is_file())
}

#[cfg(feature = "cube")]
fn named(
    devices: Vec<Device>,
    (spec, kind): (DeviceSpec, Kind),
    index: Option<usize>,
) -> Result<Found, DeviceError> {
    let found = devices.len();
    let device = devices.into_iter().nth(index.unwrap_or(0));
    let device = device.ok_or(DeviceError::NotFound { spec: spec.to_string(), found })?;
    let model = device.identity().map_or_else(String::new, |identity| format!(" ({})", identity.name));
    Ok(Found { device, name: format!("{spec}{model}"), kind })
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
        assert!("int8".parse::<DTypeSpec>().is_err());
    }

    #[test]
    fn the_cpu_is_always_there() {
        let cpu = open(DeviceSpec::Cpu, DTypeSpec::Auto).expect("a cpu");
        assert!(is_cpu(&cpu.device));
        assert_eq!((cpu.dtype, preparation(&cpu.device)), (DType::F32, Preparation::Nothing));
        assert!(built_in().contains(&"cpu"));
    }

    #[test]
    fn auto_is_the_fastest_exact_enough_dtype_and_what_is_replaced_is_said() {
        use DTypeSpec::{Auto, Bf16, F16, F32};
        const ALL: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
        for (kind, spec, has, expected) in [
            (Kind::Cuda, Auto, &ALL[..], Some((DType::BF16, None))),
            (Kind::Cuda, Auto, &ALL[..2], Some((DType::F16, None))),
            (Kind::Cuda, Auto, &ALL[..1], Some((DType::F32, None))),
            (Kind::Wgpu, Auto, &ALL, Some((DType::F32, None))),
            (Kind::Cpu, Auto, &ALL, Some((DType::F32, None))),
            (Kind::Cuda, F32, &ALL, Some((DType::F32, None))),
            (Kind::Wgpu, F16, &ALL, Some((DType::F16, None))),
            (Kind::Wgpu, F16, &ALL[..1], None),
            (Kind::Cuda, Bf16, &ALL, Some((DType::BF16, None))),
            (Kind::Wgpu, Bf16, &ALL[..2], Some((DType::F32, Some(Bf16)))),
            (Kind::Wgpu, Bf16, &[], None),
        ] {
            let found = compute_dtype(kind, spec, |dtype| has.contains(&dtype));
            assert_eq!(found, expected, "{spec} on {kind:?} with {has:?}");
        }
    }
}
