//! Every kernel that the engine can launch compiles for CUDA, proved without a GPU: CubeCL's C++ route, which the `cuda`
//! feature ships, prints the source, and NVRTC makes machine code of it for sm_80 and sm_90a.
//!
//! Needs NVIDIA's compiler from PyPI in the Python that `POLYLORA_NVRTC_PYTHON` names (tests/cuda/requirements.txt).
//! Without, it says so on stderr; `POLYLORA_REQUIRE_NVRTC=1` makes that a failure.

#![cfg(feature = "cube")]

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cubecl::Compiler;
use cubecl::ir::features::{Features, Plane};
use cubecl::ir::{
    DeviceIdentity, DeviceProperties, HardwareProperties, MemoryDeviceProperties, OpaqueType, VectorSize,
};
use cubecl::profile::TimingMethod;
use cubecl_cpp::register_supported_types;
use cubecl_cpp::shared::{CompilationOptions, CppCompiler, CppSupportedFeatures};
use cubecl_cpp::target::Cuda;
use polylora_kernels::launches::Kernel;
use polylora_kernels::{KernelVariant, definition, variants};

/// Compute capabilities, as NVRTC names the machines.
const MACHINES: [(u32, &str); 2] = [(80, "sm_80"), (90, "sm_90a")];

/// A card of that compute capability as cubecl-cuda 0.11.3 describes it, as far as kernels without tensor cores see it.
fn card(capability: u32) -> Arc<DeviceProperties> {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: 99 * 1024,
        max_cube_count: (i32::MAX as u32, 65_535, 65_535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(108),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    let identity =
        DeviceIdentity { name: "no card".into(), fingerprint: format!("ptx_sm{capability}"), physical: None };
    let memory = MemoryDeviceProperties::new(1 << 34, 512);
    let mut card =
        DeviceProperties::new(Features::default(), memory, hardware, TimingMethod::Device, identity);
    register_supported_types(&mut card);
    card.register_opaque_type(OpaqueType::Barrier);
    card.features.plane.insert(Plane::Sync);
    card.features.plane.insert(Plane::Ops);
    card.features.plane.insert(Plane::NonUniformControlFlow);
    card.features.memory_reinterpret = true;
    card.features.alignment = true;
    card.features.device_memory_scope = true;
    card.features.copy_async = true;
    card.features.cube_cluster = capability >= 90;
    Arc::new(card)
}

/// The compiler's options on such a card, as cubecl-cuda 0.11.3 sets them.
fn options(capability: u32) -> CompilationOptions {
    let hopper = capability >= 90;
    let supports_features = CppSupportedFeatures {
        grid_constants: true,
        fast_math: true,
        fast_tanh: true,
        dp4a: true,
        clusters: hopper,
        elect_sync: hopper,
    };
    CompilationOptions { warp_size: 32, supports_features, amd_wmma: None }
}

/// The variant's CUDA C++.
fn source(variant: &KernelVariant, capability: u32) -> String {
    let kernel = definition(variant, card(capability));
    let compiled = CppCompiler::<Cuda>::default().compile(kernel.define(), &options(capability));
    compiled.unwrap_or_else(|error| panic!("{variant:?} for {capability}: {error:?}")).to_string()
}

#[test]
fn the_table_has_every_kernel_once_a_variant() {
    let table = variants();
    let distinct: HashSet<_> = table.iter().collect();
    assert_eq!(distinct.len(), table.len());
    for kernel in Kernel::ALL {
        assert!(table.iter().any(|variant| variant.kernel() == kernel), "{} has no variant", kernel.name());
    }
}

#[test]
fn every_kernel_that_can_be_launched_compiles_for_cuda() {
    let Some(python) = std::env::var_os("POLYLORA_NVRTC_PYTHON") else {
        assert!(
            std::env::var_os("POLYLORA_REQUIRE_NVRTC").is_none(),
            "POLYLORA_REQUIRE_NVRTC is set, but POLYLORA_NVRTC_PYTHON is not"
        );
        let _ = writeln!(
            std::io::stderr(),
            "NOT RUN: POLYLORA_NVRTC_PYTHON is not set: no kernel was compiled for CUDA"
        );
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cuda/nvrtc_compile.py");
    let table = variants();
    for (capability, machine) in MACHINES {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cuda-{machine}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder for sources");
        for (i, variant) in table.iter().enumerate() {
            let name = format!("{:03}-{}.cu", i, variant.kernel().name());
            fs::write(folder.join(name), source(variant, capability)).expect("a source file");
        }
        let done =
            Command::new(&python).arg(&script).arg(&folder).arg(machine).output().expect("python starts");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
        let all = format!("{0} of {0} compiled", table.len());
        assert!(said.contains(&all), "expected `{all}`: {said}");
        let _ = writeln!(std::io::stderr(), "CUDA {machine}: {all}");
    }
}
