//! Devices: how a user names one, and which of them this build and this machine have.

mod spec;

use burn::tensor::{DType, Device};
use polylora_kernels_cpu::WeightFormat;
use polylora_kernels_cpu::isa::{Isa, IsaError};

pub use spec::{DTypeSpec, DeviceSpec};

use crate::weight::WeightCoding;

/// A device that was opened, and what is computed on it.
#[derive(Clone, Debug)]
pub struct OpenDevice {
    /// The device.
    pub device: Device,
    /// Dtype of activations, and of weights unless `weights` says otherwise.
    pub dtype: DType,
    /// How the weights of linear layers are held.
    pub weights: WeightCoding,
    /// The dtype that was asked for, where the device lacks it and weights are converted to `dtype` instead.
    pub replaced: Option<DTypeSpec>,
    /// What to call it: `cpu (avx512)`, `cuda:0 (NVIDIA H100)`.
    pub name: String,
}

impl OpenDevice {
    /// The dtype as a user names it.
    pub fn dtype_name(&self) -> &'static str {
        if self.weights == WeightCoding::Int8 { "int8" } else { self.activations_name() }
    }

    /// The dtype of activations: `f32`, `f16` or `bf16`.
    pub fn activations_name(&self) -> &'static str {
        match self.dtype {
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            _ => "f32",
        }
    }

    /// Format of the packed weights of linear layers; `None` off the CPU, and for f16, which has no kernels there.
    pub fn weight_format(&self) -> Option<WeightFormat> {
        match (self.weights, self.dtype) {
            _ if !is_cpu(&self.device) => None,
            (WeightCoding::Int8, _) => Some(Isa::current().int8_format()),
            (WeightCoding::Plain, DType::BF16) => Some(WeightFormat::Bf16),
            (WeightCoding::Plain, DType::F32) => Some(WeightFormat::F32),
            (WeightCoding::Plain, _) => None,
        }
    }

    /// By which instructions the CPU multiplies matrices, e.g. `AVX-512 VNNI`; `None` where no kernels of its own do.
    pub fn product_path(&self) -> Option<&'static str> {
        Some(Isa::current().product_path(self.weight_format()?))
    }

    /// About how many rows had better go through all layers together on one thread; `None` off the CPU.
    pub fn rows_together(&self) -> Option<usize> {
        let format = self.weight_format().unwrap_or(WeightFormat::F32);
        is_cpu(&self.device).then(|| Isa::current().rows_together(format))
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
    #[error("`{found}` names no dtype: expected auto, f32, f16, bf16 or int8")]
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
    /// The environment asks for an instruction set that there is not.
    #[error(transparent)]
    CpuIsa(#[from] IsaError),
    /// The device does not compute in this dtype.
    #[error("{device} does not compute in {dtype}: use --dtype f32 (or auto)")]
    DTypeUnsupported {
        /// The device.
        device: String,
        /// The dtype asked for.
        dtype: String,
    },
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
        DeviceSpec::Auto => match best_gpu() {
            Some(gpu) => gpu,
            None => cpu()?,
        },
        DeviceSpec::Cpu => cpu()?,
        DeviceSpec::Wgpu(index) => wgpu(index)?,
        DeviceSpec::Cuda(index) => cuda(index)?,
    };
    match compute_dtype(kind, dtype, |dtype| device.supports_dtype(dtype)) {
        Some(Computed { dtype, weights, replaced }) => {
            Ok(OpenDevice { device, dtype, weights, replaced, name })
        }
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
    Cpu {
        /// Whether bf16 is much faster than f32.
        tiles: bool,
        /// Whether there are dot products of bf16.
        bf16_products: bool,
    },
    #[cfg_attr(not(any(feature = "cube", test)), expect(dead_code, reason = "no such device in this build"))]
    Wgpu,
    #[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "no such device in this build"))]
    Cuda,
}

/// What is computed in, and the dtype that was asked for where it is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Computed {
    dtype: DType,
    weights: WeightCoding,
    replaced: Option<DTypeSpec>,
}

/// What to compute in; `None` where the device lacks it.
fn compute_dtype(kind: Kind, spec: DTypeSpec, supports: impl Fn(DType) -> bool) -> Option<Computed> {
    let plain = Computed { dtype: DType::F32, weights: WeightCoding::Plain, replaced: None };
    let exactly = |dtype| supports(dtype).then_some(Computed { dtype, ..plain });
    match (spec, kind) {
        (DTypeSpec::Auto, Kind::Cuda) => [DType::BF16, DType::F16, DType::F32].into_iter().find_map(exactly),
        (DTypeSpec::Auto, Kind::Cpu { tiles: true, .. }) => exactly(DType::BF16),
        (DTypeSpec::Auto | DTypeSpec::F32, _) => exactly(DType::F32),
        (DTypeSpec::F16, _) => exactly(DType::F16),
        (DTypeSpec::Bf16, _) => exactly(DType::BF16).or_else(|| {
            let replaced = Some(DTypeSpec::Bf16);
            supports(DType::F32).then_some(Computed { replaced, ..plain })
        }),
        (DTypeSpec::Int8, Kind::Cpu { bf16_products, .. }) => {
            // What is not quantised is coarse anyway; bf16 is less to move, where it is not more to compute.
            let dtype = if bf16_products { DType::BF16 } else { DType::F32 };
            Some(Computed { dtype, weights: WeightCoding::Int8, ..plain })
        }
        (DTypeSpec::Int8, Kind::Wgpu | Kind::Cuda) => None,
    }
}

fn cpu() -> Result<Found, DeviceError> {
    let isa = Isa::from_environment()?;
    let kind = Kind::Cpu { tiles: isa == Isa::Amx, bf16_products: isa.has_bf16_products() };
    Ok(Found { device: Device::flex(), name: format!("cpu ({})", isa.name()), kind })
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
    fn the_cpu_is_always_there() {
        let cpu = open(DeviceSpec::Cpu, DTypeSpec::Auto).expect("a cpu");
        assert!(is_cpu(&cpu.device));
        let auto = if Isa::current() == Isa::Amx { DType::BF16 } else { DType::F32 };
        assert_eq!((cpu.dtype, preparation(&cpu.device)), (auto, Preparation::Nothing));
        let int8 = open(DeviceSpec::Cpu, DTypeSpec::Int8).expect("int8");
        assert_eq!((int8.dtype_name(), int8.weights), ("int8", WeightCoding::Int8));
        let activations = if Isa::current().has_bf16_products() { "bf16" } else { "f32" };
        assert_eq!(int8.activations_name(), activations);
        assert_eq!(int8.product_path(), Some(Isa::current().product_path(Isa::current().int8_format())));
        let half = open(DeviceSpec::Cpu, DTypeSpec::F16).expect("f16");
        assert_eq!((half.dtype_name(), half.product_path()), ("f16", None));
        assert!(built_in().contains(&"cpu"));
    }

    #[test]
    fn auto_is_the_fastest_exact_enough_dtype_and_what_is_replaced_is_said() {
        use DTypeSpec::{Auto, Bf16, F16, F32, Int8};
        const ALL: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
        const CPU: Kind = Kind::Cpu { tiles: false, bf16_products: false };
        const AVX512: Kind = Kind::Cpu { tiles: false, bf16_products: true };
        const AMX: Kind = Kind::Cpu { tiles: true, bf16_products: true };
        for (kind, spec, has, expected) in [
            (Kind::Cuda, Auto, &ALL[..], Some((DType::BF16, None))),
            (Kind::Cuda, Auto, &ALL[..2], Some((DType::F16, None))),
            (Kind::Cuda, Auto, &ALL[..1], Some((DType::F32, None))),
            (Kind::Wgpu, Auto, &ALL, Some((DType::F32, None))),
            (CPU, Auto, &ALL, Some((DType::F32, None))),
            (AVX512, Auto, &ALL, Some((DType::F32, None))),
            (AMX, Auto, &ALL, Some((DType::BF16, None))),
            (AMX, F32, &ALL, Some((DType::F32, None))),
            (CPU, Int8, &ALL, Some((DType::F32, None))),
            (AVX512, Int8, &ALL, Some((DType::BF16, None))),
            (Kind::Wgpu, Int8, &ALL, None),
            (Kind::Cuda, Int8, &ALL, None),
            (Kind::Cuda, F32, &ALL, Some((DType::F32, None))),
            (Kind::Wgpu, F16, &ALL, Some((DType::F16, None))),
            (Kind::Wgpu, F16, &ALL[..1], None),
            (Kind::Cuda, Bf16, &ALL, Some((DType::BF16, None))),
            (Kind::Wgpu, Bf16, &ALL[..2], Some((DType::F32, Some(Bf16)))),
            (Kind::Wgpu, Bf16, &[], None),
        ] {
            let found = compute_dtype(kind, spec, |dtype| has.contains(&dtype));
            let int8 = found.map(|found| found.weights == WeightCoding::Int8);
            assert!(int8.is_none_or(|int8| int8 == (spec == Int8)), "{spec} on {kind:?}");
            let found = found.map(|found| (found.dtype, found.replaced));
            assert_eq!(found, expected, "{spec} on {kind:?} with {has:?}");
        }
    }
}
