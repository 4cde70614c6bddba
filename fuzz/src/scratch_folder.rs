//! An adapter's folder in memory, where the system has such a place, and what must hold of it.

use std::fs;
use std::path::Path;

use polylora_adapters::{AdapterError, AdapterManifest, BaseModel, CONFIG_FILE, FileTrust, WEIGHTS_FILE};
use tempfile::TempDir;

use crate::tiny_base::TinyBase;

/// Bytes that an error's message may have: it goes into a log line.
const LONGEST_MESSAGE: usize = 8 << 10;

thread_local! {
    static FOLDER: TempDir = {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
    };
}

/// Reads an adapter of these files: it is refused by an error that names a file of the folder and fits one line, or it loads
/// to finite values, the same each time.
pub fn check(config: &[u8], weights: &[u8]) {
    FOLDER.with(|folder| {
        let folder = folder.path();
        fs::write(folder.join(CONFIG_FILE), config).expect("room for the configuration");
        fs::write(folder.join(WEIGHTS_FILE), weights).expect("room for the weights");
        let base = TinyBase::new();
        let manifest = match AdapterManifest::inspect(folder, FileTrust::WithinFolder, base.catalog()) {
            Ok(manifest) => manifest,
            Err(error) => return names_a_file(&error, folder),
        };
        match manifest.load(&base) {
            Err(error) => names_a_file(&error, folder),
            Ok(loaded) => {
                let values = loaded.extent.values();
                assert!(values.iter().all(|value| value.is_finite()), "a value is not finite");
                assert!(size_of_val(values) <= manifest.bytes(), "the extent is larger than was announced");
                let again = manifest.load(&base).expect("it loaded a moment ago");
                assert_eq!(again.digest, loaded.digest);
            }
        }
    });
}

fn names_a_file(error: &AdapterError, folder: &Path) {
    let message = error.to_string();
    let named = [CONFIG_FILE, WEIGHTS_FILE].map(|file| folder.join(file).display().to_string());
    assert!(named.iter().any(|file| message.contains(file)), "no file is named: {message}");
    assert!(!message.contains(['\n', '\r']), "more than one line: {message:?}");
    assert!(message.len() <= LONGEST_MESSAGE, "{} bytes", message.len());
}
