//! Weights of a model directory: one safetensors file, or shards with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use burn::tensor::TensorData;
use burn_store::burn_pack::Tensor as PackTensor;
use burn_store::{KeyRemapper, ModuleStore, SafetensorsStore, bridge};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::load_progress::LoadProgress;
use crate::stored_values::{first_not_finite, is_stored};
use crate::weight_source::WeightSource;
use crate::{ModelError, json_file};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint, read one by one when they are taken.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, PackTensor>,
    taken: BTreeSet<String>,
    progress: LoadProgress,
    opened: Instant,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir`; reads headers only. `remap` are pairs of regex and replacement on tensor names.
    ///
    /// # Errors
    /// When there is none, or a file is not valid safetensors.
    pub fn open(dir: &Path, remap: &[(&str, &str)]) -> Result<Self, ModelError> {
        let files = files_of(dir)?;
        let mut tensors = BTreeMap::new();
        for path in &files {
            let weights = |reason: String| ModelError::Weights { path: path.clone(), reason };
            let remapper =
                KeyRemapper::from_patterns(remap.to_vec()).map_err(|e| weights(format!("remapping: {e}")))?;
            let mut store = SafetensorsStore::from_file(path).remap(remapper);
            let all = store.get_all_tensors().map_err(|e| weights(format!("not valid safetensors: {e}")))?;
            for (name, tensor) in all {
                if tensors.insert(name.clone(), tensor.clone()).is_some() {
                    return Err(weights(format!("tensor `{name}` occurs twice in the checkpoint")));
                }
            }
        }
        let bytes_of = |tensor: &PackTensor| {
            tensor.shape.iter().map(|width| *width as u64).product::<u64>() * tensor.dtype.size() as u64
        };
        let progress = LoadProgress::of(tensors.values().map(bytes_of).sum());
        Ok(Self {
            dir: dir.to_owned(),
            files,
            tensors,
            taken: BTreeSet::new(),
            progress,
            opened: Instant::now(),
        })
    }

    /// Names of tensors that nobody took.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().filter(|name| !self.taken.contains(*name)).map(String::as_str)
    }

    /// SHA-256 over `architecture` (what config.json means to the forward pass) and the weight files, byte for byte, in
    /// order of their names.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn digest(&self, architecture: &str) -> Result<[u8; 32], ModelError> {
        let mut hasher = Sha256::new();
        hasher.update(b"polylora base model 1\0");
        hasher.update((architecture.len() as u64).to_le_bytes());
        hasher.update(architecture);
        for path in &self.files {
            let io = |source| ModelError::Io { path: path.clone(), source };
            let mut file = std::fs::File::open(path).map_err(io)?;
            hasher.update(file.metadata().map_err(io)?.len().to_le_bytes());
            let mut buffer = vec![0; 1 << 20];
            loop {
                match file.read(&mut buffer).map_err(io)? {
                    0 => break,
                    n => hasher.update(&buffer[..n]),
                }
            }
        }
        Ok(hasher.finalize().into())
    }

    fn path(&self) -> PathBuf {
        match self.files.as_slice() {
            [only] => only.clone(),
            _ => self.dir.join(INDEX),
        }
    }
}

impl WeightSource for Checkpoint {
    fn take_data(&mut self, name: &str, shape: &[usize]) -> Result<TensorData, ModelError> {
        let path = self.path();
        let Some(tensor) = self.tensors.get(name) else {
            return Err(ModelError::MissingTensor { path, tensor: name.into(), expected: shape.to_vec() });
        };
        let found: Vec<usize> = tensor.shape.iter().copied().collect();
        if found != shape {
            return Err(ModelError::TensorShape {
                path,
                tensor: name.into(),
                found,
                expected: shape.to_vec(),
            });
        }
        if !is_stored(tensor.dtype) {
            let found = format!("{:?}", tensor.dtype);
            return Err(ModelError::TensorDType { path, tensor: name.into(), found });
        }
        let weights = |reason: String| ModelError::Weights { path: path.clone(), reason };
        let data = bridge::to_data(tensor).map_err(|e| weights(format!("tensor `{name}`: {e}")))?;
        if let Some(at) = first_not_finite(&data) {
            let reason = format!("tensor `{name}` has no finite number at {at}");
            return Err(weights(reason));
        }
        self.taken.insert(name.to_owned());
        if let Some(percent) = self.progress.add(data.as_bytes().len() as u64, self.opened.elapsed()) {
            tracing::info!(percent, folder = %self.dir.display(), "reading weights");
        }
        Ok(data)
    }
}

/// The weight files of `dir`, sorted.
fn files_of(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let single = dir.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let Some(index) = json_file::read::<Index>(dir, INDEX)? else {
        let hint = if dir.join("pytorch_model.bin").is_file() {
            "pytorch_model.bin is a pickle and is never read: convert it to safetensors"
        } else {
            "expected it or model.safetensors.index.json with its shards"
        };
        return Err(ModelError::Missing { path: single, hint });
    };
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    let path = dir.join(INDEX);
    let mut files = vec![];
    for name in names {
        let plain = Path::new(&name).components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || name.is_empty() {
            let reason = format!("weight_map names `{name}`, expected a file in the same directory");
            return Err(ModelError::Json { path, reason });
        }
        files.push(dir.join(name));
    }
    match files.iter().find(|f| !f.is_file()) {
        Some(missing) => {
            Err(ModelError::Missing { path: missing.clone(), hint: "model.safetensors.index.json names it" })
        }
        None => Ok(files),
    }
}
