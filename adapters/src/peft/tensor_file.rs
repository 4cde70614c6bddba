//! A safetensors file, header first: <https://huggingface.co/docs/safetensors/index#format>.
//!
//! Eight bytes give the header's length (little endian), then comes a JSON object from tensor names to dtype, shape
//! and offsets, then the data. Here nothing in the header is believed before it is held against the file's real
//! length; and the tensors must cover the data section exactly, so that no byte of the file goes unexplained.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{folder::OpenFile, tensor_header::RawEntry, tensor_header::RawHeader};
use crate::{AdapterError, error::excerpt, weights::StoredDtype};

/// Longest header that is read, in bytes. Real adapters have some ten kilobytes.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;
/// The length field before the header.
const LENGTH_BYTES: u64 = 8;

/// A tensor of the file: its place and size are known to lie within the file and to agree with each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorEntry {
    pub(super) name: String,
    pub(super) dtype: StoredDtype,
    pub(super) shape: Vec<usize>,
    /// Offset from the file's start.
    at: u64,
    /// Length in bytes.
    len: usize,
}

/// An open file whose header was read and checked.
#[derive(Debug)]
pub(super) struct TensorFile {
    path: PathBuf,
    file: File,
    entries: BTreeMap<String, TensorEntry>,
}

impl TensorFile {
    /// Reads the header of `open`, and nothing else.
    pub(super) fn read_header(open: OpenFile) -> Result<Self, AdapterError> {
        let OpenFile { path, mut file, identity } = open;
        let failed = |source: io::Error| AdapterError::Io { file: path.clone(), source };
        let Some(after_length) = identity.len.checked_sub(LENGTH_BYTES) else {
            return Err(AdapterError::FileTooShort {
                file: path,
                found: identity.len,
                expected: LENGTH_BYTES,
            });
        };
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length).map_err(failed)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES {
            return Err(AdapterError::HeaderTooLong { file: path, found: length, max: MAX_HEADER_BYTES });
        }
        let Some(data_len) = after_length.checked_sub(length) else {
            return Err(AdapterError::HeaderBeyondFile {
                file: path,
                found: length,
                available: after_length,
            });
        };
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(failed)?;
        let header: RawHeader = serde_json::from_slice(&header).map_err(|e| AdapterError::HeaderInvalid {
            file: path.clone(),
            reason: excerpt(&e.to_string()),
        })?;
        covers_data(&path, &header, data_len)?;
        let data_at = LENGTH_BYTES + length;
        let entries = header.tensors.into_iter().map(|(name, raw)| {
            let entry = entry(&path, name.clone(), raw, data_at)?;
            Ok((name, entry))
        });
        let entries = entries.collect::<Result<_, AdapterError>>()?;
        Ok(Self { path, file, entries })
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors by name.
    pub(super) fn entries(&self) -> impl Iterator<Item = &TensorEntry> {
        self.entries.values()
    }

    /// The bytes of `entry`, which is of this file.
    pub(super) fn read(&mut self, entry: &TensorEntry) -> Result<Vec<u8>, AdapterError> {
        let mut bytes = vec![0; entry.len];
        let read = self.file.seek(SeekFrom::Start(entry.at)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|source| AdapterError::Io { file: self.path.clone(), source })?;
        Ok(bytes)
    }
}

/// Checks that the tensors' offsets lie within the data and cover it exactly.
fn covers_data(file: &Path, header: &RawHeader, data_len: u64) -> Result<(), AdapterError> {
    for (name, raw) in &header.tensors {
        let [begin, end] = raw.data_offsets;
        if begin > end || end > data_len {
            let (file, tensor) = (file.to_owned(), name.clone());
            return Err(AdapterError::OffsetsOutsideFile { file, tensor, begin, end, available: data_len });
        }
    }
    let mut by_offset: Vec<_> = header.tensors.iter().map(|(name, raw)| (raw.data_offsets, name)).collect();
    by_offset.sort();
    let (mut covered, mut last) = (0, "");
    for ([begin, end], name) in by_offset {
        if begin > covered {
            let (file, found) = (file.to_owned(), begin - covered);
            return Err(AdapterError::UnclaimedBytes { file, at: covered, found });
        }
        if begin < covered {
            return Err(AdapterError::OffsetsOverlap {
                file: file.to_owned(),
                tensor: name.clone(),
                other: last.to_owned(),
                found: begin,
                expected: covered,
            });
        }
        (covered, last) = (end, name);
    }
    match data_len - covered {
        0 => Ok(()),
        found => Err(AdapterError::UnclaimedBytes { file: file.to_owned(), at: covered, found }),
    }
}

/// An entry whose dtype is supported and whose shape fills its offsets.
fn entry(path: &Path, name: String, raw: RawEntry, data_at: u64) -> Result<TensorEntry, AdapterError> {
    let file = path.to_owned();
    let Some(dtype) = StoredDtype::from_name(&raw.dtype) else {
        return Err(AdapterError::DtypeUnsupported { file, tensor: name, found: excerpt(&raw.dtype) });
    };
    let sized = raw.shape.0.iter().try_fold(dtype.bytes() as u64, |size, &width| size.checked_mul(width));
    let shape: Option<Vec<usize>> = raw.shape.0.iter().map(|&width| width.try_into().ok()).collect();
    let (Some(expected), Some(shape)) = (sized, shape) else {
        return Err(AdapterError::ShapeOverflow { file, tensor: name, found: raw.shape.0 });
    };
    let [begin, end] = raw.data_offsets;
    let found = end - begin;
    if found != expected {
        return Err(AdapterError::SizeMismatch { file, tensor: name, found, expected });
    }
    let Ok(len) = found.try_into() else {
        return Err(AdapterError::ShapeOverflow { file, tensor: name, found: raw.shape.0 });
    };
    Ok(TensorEntry { name, dtype, shape, at: data_at + begin, len })
}
