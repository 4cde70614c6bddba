//! The two files of an adapter from any bytes: two bytes that say how long the configuration is, then both files.

/// Checks what [`scratch_folder`](crate::scratch_folder) states.
pub fn check(bytes: &[u8]) {
    let Some((length, files)) = bytes.split_first_chunk() else { return };
    let (config, weights) = files.split_at(files.len().min(u16::from_le_bytes(*length).into()));
    crate::scratch_folder::check(config, weights);
}
