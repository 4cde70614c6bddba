//! Where compiled kernels and the results of tuning are kept from one start of the program to the next.
//!
//! CubeCL keeps both in one database file. By itself it keeps the results of tuning alone, below the outermost folder
//! with a Cargo.toml or in a folder of its own for a user; here both go where the program wants them. What a backend
//! keeps: CUDA its PTX, Vulkan (feature `vulkan`) its SPIR-V, wgpu's WGSL nothing, as the driver compiles that at each
//! start; all of them which kernels were fastest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why kernels are not kept.
#[derive(Debug, thiserror::Error)]
pub enum KernelCacheError {
    /// The folder is not there and cannot be made, or nothing can be written in it.
    #[error("the folder {} cannot be written", dir.display())]
    Unwritable {
        /// The folder.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A device was opened before, or this was called before: whatever held then holds on.
    #[error("kernels are kept in {} already; that is settled when the first device is opened", now.display())]
    Settled {
        /// The folder that they are kept in.
        now: PathBuf,
    },
}

/// Has kernels and the results of tuning kept in `dir`, which is made where it is missing. To be called before the first
/// device is opened. Builds without GPU backends have nothing to keep and do nothing.
///
/// CubeCL's own configuration (cubecl.toml, `CUBECL_…` variables) still says everything but whether and where it caches.
///
/// # Errors
/// [`KernelCacheError`]. Devices work all the same: after [`Unwritable`](KernelCacheError::Unwritable) kernels are
/// compiled and tuned anew at each start.
pub fn keep_in(dir: &Path) -> Result<(), KernelCacheError> {
    settle(dir)
}

/// Row counts with the same number share what tuning found for them; a single row is a product of its own kind and
/// alone in its bucket. Holds for CubeCL's tuning level as it is by default, `balanced`, and for `minimal`, whose
/// buckets are wider.
pub fn tuning_bucket(rows: usize) -> usize {
    rows.next_power_of_two()
}

#[cfg(not(feature = "cube"))]
fn settle(_dir: &Path) -> Result<(), KernelCacheError> {
    Ok(())
}

#[cfg(feature = "cube")]
fn settle(dir: &Path) -> Result<(), KernelCacheError> {
    use cubecl::config::cache::CacheConfig;
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

    let writable = make_writable(dir);
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.autotune.disable_cache |= writable.is_err();
    config.compilation.cache = writable.is_ok();
    config.environment.path = CacheConfig::Directory(dir.to_owned());
    if config.environment.name == cubecl::environment::DEFAULT {
        // Compiled kernels are known by the program's build id, which not every linker writes: a release never reads
        // those of another.
        config.environment.name = concat!("polylora-", env!("CARGO_PKG_VERSION")).to_owned();
    }
    if !CubeClRuntimeConfig::try_set(config) {
        return Err(KernelCacheError::Settled { now: cubecl::environment::root() });
    }
    writable.map_err(|source| KernelCacheError::Unwritable { dir: dir.to_owned(), source })
}

/// Makes the folder and a file in it: what a database needs, and what permissions alone do not tell.
#[cfg_attr(not(any(feature = "cube", test)), expect(dead_code, reason = "only GPU backends keep kernels"))]
fn make_writable(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let probe = dir.join(format!(".probe-{}", std::process::id()));
    fs::write(&probe, b"")?;
    fs::remove_file(probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("polylora-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_folder_is_made_and_a_file_in_its_place_is_an_error() {
        let folder = Folder::new("writable");
        let inner = folder.0.join("a/b");
        make_writable(&inner).expect("made");
        assert_eq!(fs::read_dir(&inner).expect("a folder").count(), 0);
        fs::write(folder.0.join("file"), b"").expect("written");
        assert!(make_writable(&folder.0.join("file")).is_err());
        assert!(make_writable(&folder.0.join("file/below")).is_err());
    }
}
