//! Where things lie.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_owned()
}

/// A folder of golden data.
pub fn fixtures(name: &str) -> PathBuf {
    repository().join("tests/fixtures").join(name)
}
