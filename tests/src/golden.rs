//! Embeddings that sentence-transformers and PEFT computed for the 64 sentences of `fixtures/minilm`.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use crate::fixtures;

/// The golden data of `fixtures/minilm`.
pub struct Golden {
    /// The sentences.
    pub sentences: Vec<String>,
    /// Their token ids, cut at 256.
    pub ids: Vec<Vec<u32>>,
    /// The adapters' names, sorted.
    pub adapters: Vec<String>,
}

impl Golden {
    /// Reads it.
    pub fn read() -> Self {
        let root = fixtures("minilm");
        let json = |name: &str| fs::read(root.join(name)).expect("a fixture");
        let folders = fs::read_dir(root.join("adapters")).expect("adapters");
        let names = folders.map(|f| f.expect("a folder").file_name().into_string().expect("Unicode"));
        let mut adapters: Vec<String> = names.collect();
        adapters.sort();
        assert!(adapters.len() >= 7, "fixtures/minilm/adapters is not complete");
        Self {
            sentences: serde_json::from_slice(&json("sentences.json")).expect("a list of texts"),
            ids: serde_json::from_slice(&json("input_ids.json")).expect("lists of ids"),
            adapters,
        }
    }

    /// The embeddings of all sentences: `None` is the base.
    pub fn embeddings(&self, adapter: Option<&str>) -> Vec<Vec<f32>> {
        let path = fixtures("minilm").join(format!("{}.safetensors", adapter.unwrap_or("base")));
        golden_rows(&path, "embeddings")
    }
}

/// The rows of a tensor `[rows, width]` f32 in a safetensors file.
pub fn golden_rows(path: &Path, name: &str) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).expect("a golden file");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = tensors.tensor(name).expect("a golden tensor");
    let values: Vec<f32> =
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect();
    values.chunks_exact(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
}

/// The largest absolute difference between two lists of embeddings of the same shape.
pub fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len(), "numbers of embeddings differ");
    let pairs = a.iter().zip(b).flat_map(|(x, y)| {
        assert_eq!(x.len(), y.len(), "widths differ");
        x.iter().zip(y)
    });
    // NaN must not pass as small.
    pairs.map(|(x, y)| (x - y).abs()).fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most })
}
