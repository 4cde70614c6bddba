//! Folders of adapters: copies of fixtures, and adapters with random weights for MiniLM.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::json;

/// Encoder layers of MiniLM-L6.
const LAYERS: usize = 6;
/// Linear modules of one layer, with their in and out widths.
const MODULES: [(&str, usize, usize); 6] = [
    ("attention.self.query", 384, 384),
    ("attention.self.key", 384, 384),
    ("attention.self.value", 384, 384),
    ("attention.output.dense", 384, 384),
    ("intermediate.dense", 384, 1536),
    ("output.dense", 1536, 384),
];

/// Copies a folder and what is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// A LoRA adapter on every linear layer of MiniLM's encoder with random weights: the same for the same seed.
#[derive(Clone, Copy, Debug)]
pub struct RandomAdapter {
    /// Whence the weights.
    pub seed: u64,
    /// The rank.
    pub rank: usize,
}

impl RandomAdapter {
    /// Its number of weights.
    pub fn weights(self) -> usize {
        LAYERS * MODULES.iter().map(|(_, input, output)| self.rank * (input + output)).sum::<usize>()
    }

    /// Writes it as PEFT does.
    pub fn write(self, folder: &Path) {
        fs::create_dir_all(folder).expect("a folder");
        let config = json!({
            "peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "r": self.rank, "lora_alpha": 2 * self.rank,
            "target_modules": MODULES.map(|(name, ..)| name), "bias": "none", "lora_dropout": 0.0,
            "base_model_name_or_path": "sentence-transformers/all-MiniLM-L6-v2", "inference_mode": true,
        });
        fs::write(folder.join("adapter_config.json"), config.to_string()).expect("written");
        fs::write(folder.join("adapter_model.safetensors"), self.tensors()).expect("written");
    }

    /// The content of its safetensors file.
    pub fn tensors(self) -> Vec<u8> {
        let mut state = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = vec![];
        for layer in 0..LAYERS {
            for (module, input, output) in MODULES {
                for (part, shape) in [("lora_A", [self.rank, input]), ("lora_B", [output, self.rank])] {
                    let name = format!("base_model.model.encoder.layer.{layer}.{module}.{part}.weight");
                    let values = (0..shape[0] * shape[1]).flat_map(|_| next_weight(&mut state).to_le_bytes());
                    tensors.push((name, shape.to_vec(), values.collect()));
                }
            }
        }
        let views = tensors.iter().map(|(name, shape, data)| {
            (name, TensorView::new(Dtype::F32, shape.clone(), data).expect("a tensor"))
        });
        serialize(views, None).expect("safetensors")
    }
}

/// Marsaglia's xorshift64; -0.05 to 0.05, which moves embeddings without ruling them.
fn next_weight(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    ((*state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) / 10.0
}
