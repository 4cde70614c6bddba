//! The GPUs of this machine, one after the other.

use std::io::Write;
use std::sync::Mutex;

use super::values::round;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use polylora_kernels::device::{DTypeSpec, DeviceError, DeviceSpec, open};

/// A device and the dtype that is tested on it.
pub struct Gpu {
    pub name: String,
    pub device: Device,
    pub dtype: DType,
    /// What operands are rounded to.
    pub rounding: DType,
    /// Whether it is the CPU, as the plain reference.
    pub oracle: bool,
}

impl Gpu {
    /// The oracle: the plain reference on the CPU in f32, over operands rounded to this device's dtype.
    pub fn reference(&self) -> Gpu {
        Gpu {
            name: "reference".into(),
            device: Device::flex(),
            dtype: DType::F32,
            rounding: self.rounding,
            oracle: true,
        }
    }

    /// A tensor on this device in its dtype.
    pub fn put<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        let shape = tensor.dims();
        let mut values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
        round(&mut values, self.rounding);
        Tensor::<D>::from_data(TensorData::new(values, shape), (&self.device, DType::F32)).cast(self.dtype)
    }

    /// i32 values on this device.
    pub fn ints(&self, values: &[i32]) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (&self.device, DType::I32))
    }
}

/// Runs `test` on every GPU in every dtype it has.
pub fn on_every_gpu(test: impl Fn(&Gpu)) {
    // One test at a time: a software adapter already takes all cores.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (spec, required) in
        [(DeviceSpec::Wgpu(None), "POLYLORA_REQUIRE_WGPU"), (DeviceSpec::Cuda(None), "POLYLORA_REQUIRE_CUDA")]
    {
        let mut dtypes = vec![];
        for dtype in [DTypeSpec::F32, DTypeSpec::F16, DTypeSpec::Bf16] {
            match open(spec, dtype) {
                Ok(found) if dtype == DTypeSpec::F32 || found.dtype != DType::F32 => {
                    dtypes.push(found.dtype_name());
                    let name = format!("{} {}", found.name, found.dtype_name());
                    test(&Gpu {
                        name,
                        device: found.device,
                        dtype: found.dtype,
                        rounding: found.dtype,
                        oracle: false,
                    });
                }
                Ok(_) | Err(DeviceError::DTypeUnsupported { .. }) => {}
                Err(error) => {
                    assert!(std::env::var_os(required).is_none(), "{required} is set, but {error}");
                }
            }
        }
        if dtypes.is_empty() {
            not_run(&format!("no {spec} device: its kernels were not tested"));
        } else if !dtypes.contains(&"f16") {
            not_run(&format!(
                "this {spec} device has no f16: its kernels were tested in {}",
                dtypes.join(", ")
            ));
        }
    }
}

/// Says it past the test runner's capture of output, once.
pub fn not_run(what: &str) {
    static SAID: Mutex<Vec<String>> = Mutex::new(vec![]);
    let mut said = SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !said.iter().any(|s| s == what) {
        let _ = writeln!(std::io::stderr(), "NOT RUN: {what}");
        said.push(what.to_owned());
    }
}
