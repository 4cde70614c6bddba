//! Whether this machine has a device that wgpu reaches, be it a software rasteriser.

use std::io::Write;

use polylora_kernels::device::{DTypeSpec, DeviceSpec, OpenDevice, open};

/// With this variable set, a machine without such a device fails the tests instead of not running them.
const REQUIRED: &str = "POLYLORA_REQUIRE_WGPU";

/// The device that wgpu prefers, in f32; `None`, said loudly, where there is none, and `what` is then not tested.
///
/// # Panics
/// When there is none and `POLYLORA_REQUIRE_WGPU` is set.
pub fn wgpu_or_not_run(what: &str) -> Option<OpenDevice> {
    match open(DeviceSpec::Wgpu(None), DTypeSpec::F32) {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var_os(REQUIRED).is_some_and(|value| !value.is_empty() && value != "0");
            assert!(!required, "{REQUIRED} is set, but {what} cannot be tested: {error}");
            // Past the test runner, which keeps what tests print through macros to itself.
            let _ = writeln!(std::io::stderr(), "NOT RUN: {what}: {error}");
            None
        }
    }
}
