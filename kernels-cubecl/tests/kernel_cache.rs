//! Where kernels are kept is settled once a process, so that this test has a process of its own.

#![cfg(feature = "cube")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};
use polylora_kernels::kernel_cache::{keep_in, tuning_bucket};

fn folder(name: &str) -> PathBuf {
    let path =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{name}-{}", std::process::id()));
    fs::create_dir_all(&path).expect("a folder");
    path
}

#[test]
fn the_first_folder_holds_and_rows_of_one_bucket_are_tuned_as_one() {
    let (first, second) = (folder("first"), folder("second"));
    keep_in(&first).expect("the first");
    let error = keep_in(&second).expect_err("the second").to_string();
    assert!(error.contains(first.to_str().expect("Unicode")), "{error}");
    let config = CubeClRuntimeConfig::get();
    assert!(config.compilation.cache && !config.autotune.disable_cache);
    let file = cubecl::environment::path();
    assert_eq!(file.parent(), Some(&*first));
    assert!(file.to_str().expect("Unicode").contains(env!("CARGO_PKG_VERSION")), "{file:?}");
    what_is_tuned_is_kept(&file);
    let anchor = |rows| cubecl::tune::anchor(rows, None, None, None);
    for rows in 1..=1usize << 17 {
        let bucket = tuning_bucket(rows);
        assert!(bucket >= rows && (bucket == 1) == (rows == 1));
        assert_eq!(anchor(rows), anchor(bucket), "{rows} rows");
    }
    for used in [first, second] {
        let _ = fs::remove_dir_all(used);
    }
}

/// A sum over rows is tuned on every device, a software rasteriser among them, within seconds.
fn what_is_tuned_is_kept(file: &Path) {
    let device = match open(DeviceSpec::Wgpu(None), DTypeSpec::F32) {
        Ok(found) => found.device,
        Err(error) => {
            assert!(std::env::var_os("POLYLORA_REQUIRE_WGPU").is_none(), "{error}");
            // Past the test runner, which keeps what tests print through macros to itself.
            let _ = writeln!(std::io::stderr(), "NOT RUN: that tuning is kept: {error}");
            return;
        }
    };
    let ones = Tensor::<2>::ones([8, 64], (&device, DType::F32));
    let sums: Vec<f32> = ones.sum_dim(1).into_data().iter::<f32>().collect();
    assert_eq!(sums, [64.0; 8]);
    let kept = cubecl::environment::namespaces();
    let tuned = kept.iter().any(|kept| kept.namespace.starts_with("autotune/") && kept.entries > 0);
    assert!(tuned, "{kept:?}");
    assert!(fs::metadata(file).expect("a database").len() > 0);
}
