//! Where kernels are kept is settled once a process, so that this test has a process of its own.

#![cfg(feature = "cube")]

use std::fs;
use std::path::PathBuf;

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
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
