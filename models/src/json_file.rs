//! Small JSON files of a model directory.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::ModelError;

/// No configuration file of a model is larger.
const LARGEST_BYTES: u64 = 4 << 20;

/// Reads `dir/name`; `None` when there is no such file.
pub(crate) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>, ModelError> {
    let path = dir.join(name);
    let length = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ModelError::Io { path, source }),
    };
    if length > LARGEST_BYTES {
        let reason = format!("has {length} bytes, expected at most {LARGEST_BYTES}");
        return Err(ModelError::Json { path, reason });
    }
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(source) => return Err(ModelError::Io { path, source }),
    };
    let mut parser = serde_json::Deserializer::from_slice(&text);
    let parsed =
        serde_path_to_error::deserialize(&mut parser).map_err(|e| format!("`{}`: {}", e.path(), e.inner()));
    let parsed = parsed.and_then(|value| parser.end().map(|()| value).map_err(|e| e.to_string()));
    parsed.map(Some).map_err(|reason| ModelError::Json { path, reason })
}
