//! Small JSON files of a model directory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::ModelError;

/// No configuration file of a model is larger.
const LARGEST_BYTES: u64 = 4 << 20;

/// Reads `dir/name`; `None` when there is no such file.
pub(crate) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>, ModelError> {
    let path = dir.join(name);
    let text = match read_bounded(&path) {
        Ok(Some(text)) => text,
        Ok(None) => {
            let reason = format!("is no regular file of at most {LARGEST_BYTES} bytes");
            return Err(ModelError::Json { path, reason });
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ModelError::Io { path, source }),
    };
    let mut parser = serde_json::Deserializer::from_slice(&text);
    let parsed =
        serde_path_to_error::deserialize(&mut parser).map_err(|e| format!("`{}`: {}", e.path(), e.inner()));
    let parsed = parsed.and_then(|value| parser.end().map(|()| value).map_err(|e| e.to_string()));
    parsed.map(Some).map_err(|reason| ModelError::Json { path, reason })
}

/// The content of a regular file; `None` for anything else and for more than [`LARGEST_BYTES`].
fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Asked before opening: opening a pipe would wait for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut text = vec![];
    File::open(path)?.take(LARGEST_BYTES + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= LARGEST_BYTES).then_some(text))
}
