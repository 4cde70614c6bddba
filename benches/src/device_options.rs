//! Which device a GPU bench runs on.

use clap::Args;
use polylora_kernels::device::{DTypeSpec, DeviceError, DeviceSpec, OpenDevice, is_cpu, open};

use crate::Card;

/// Names of Vulkan and DirectX implementations that compute on the CPU.
const SOFTWARE: [&str; 3] = ["llvmpipe", "SwiftShader", "Basic Render"];

/// Options that the GPU benches share.
#[derive(Args, Clone, Debug)]
pub struct DeviceOptions {
    /// auto, cpu, wgpu, wgpu:N, cuda or cuda:N; auto is the first real GPU.
    #[arg(long, default_value_t = DeviceSpec::Auto)]
    pub device: DeviceSpec,
    /// f32, f16 and bf16; those that the device has not are left out, which is said.
    #[arg(long, value_delimiter = ',', default_values_t = [DTypeSpec::Bf16])]
    pub dtype: Vec<DTypeSpec>,
    /// Tiny shapes and short times, to try the program: figures are meaningless.
    #[arg(long)]
    pub quick: bool,
    /// The card whose floors stand in the tables when there is no device.
    #[arg(long, default_value = "H200")]
    pub card: String,
}

impl DeviceOptions {
    /// The devices, one for each dtype, or why it is not there.
    pub fn open(&self) -> Vec<(DTypeSpec, Result<OpenDevice, String>)> {
        self.dtype.iter().map(|dtype| (*dtype, self.open_for(*dtype))).collect()
    }

    fn open_for(&self, dtype: DTypeSpec) -> Result<OpenDevice, String> {
        if self.device == DeviceSpec::Auto {
            let found = open(DeviceSpec::Auto, DTypeSpec::Auto).map_err(|error| error.to_string())?;
            if is_cpu(&found.device) {
                return Err(
                    "no device (auto found no real GPU; has this build the feature cuda or wgpu?)".into()
                );
            }
        }
        open(self.device, dtype).map_err(|error| match error {
            DeviceError::DTypeUnsupported { .. } => error.to_string(),
            _ => format!("no device ({error})"),
        })
    }

    /// The card whose floors are shown where no device is.
    ///
    /// # Errors
    /// When it is not known.
    pub fn card(&self) -> Result<&'static Card, String> {
        Card::named(&self.card).ok_or_else(|| {
            let known = Card::KNOWN.map(|card| card.name).join(", ");
            format!("`{}` is no card with known peaks: expected one of {known}", self.card)
        })
    }
}

/// Whether a device's name is that of a rasteriser on the CPU.
pub fn is_software(device: &str) -> bool {
    SOFTWARE.iter().any(|name| device.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rasteriser_is_known_by_its_name_and_a_card_is_none() {
        assert!(is_software("wgpu (llvmpipe (LLVM 19.1.7, 256 bits))"));
        assert!(!is_software("cuda:0 (NVIDIA H200)"));
    }

    #[test]
    fn auto_never_means_the_cpu() {
        let options = DeviceOptions {
            device: DeviceSpec::Auto,
            dtype: vec![DTypeSpec::F32],
            quick: true,
            card: "H200".into(),
        };
        for (_, opened) in options.open() {
            match opened {
                Ok(found) => assert!(!is_cpu(&found.device) && !is_software(&found.name)),
                Err(why) => assert!(why.contains("no device"), "{why}"),
            }
        }
        assert_eq!(options.card().map(|c| c.name), Ok("H200"));
        assert!(DeviceOptions { card: "Abacus".into(), ..options }.card().is_err());
    }
}
