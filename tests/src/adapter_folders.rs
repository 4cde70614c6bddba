//! Folders of adapters: copies of fixtures, and adapters with random weights for MiniLM.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::json;

/// How large a BERT encoder is.
#[derive(Clone, Copy, Debug)]
pub struct BertSize {
    /// Encoder layers.
    pub layers: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Width within the feed-forward part.
    pub inner: usize,
}

impl BertSize {
    /// all-MiniLM-L6-v2.
    pub const MINILM: Self = Self { layers: 6, width: 384, inner: 1536 };
    /// The model of `fixtures/encoders/bert`.
    pub const TINY: Self = Self { layers: 3, width: 48, inner: 96 };

    /// Linear modules of one layer, with their in and out widths.
    fn modules(self) -> [(&'static str, usize, usize); 6] {
        let Self { width, inner, .. } = self;
        [
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", width, inner),
            ("output.dense", inner, width),
        ]
    }
}

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

/// A LoRA adapter on every linear layer of an encoder with random weights: the same for the same seed.
#[derive(Clone, Copy, Debug)]
pub struct RandomAdapter {
    /// Whence the weights.
    pub seed: u64,
    /// The rank.
    pub rank: usize,
}

impl RandomAdapter {
    /// Its number of weights for MiniLM.
    pub fn weights(self) -> usize {
        self.weights_for(BertSize::MINILM)
    }

    /// Its number of weights for an encoder of that size.
    pub fn weights_for(self, size: BertSize) -> usize {
        size.layers
            * size.modules().iter().map(|(_, input, output)| self.rank * (input + output)).sum::<usize>()
    }

    /// Writes it for MiniLM as PEFT does.
    pub fn write(self, folder: &Path) {
        self.write_for(BertSize::MINILM, folder);
    }

    /// Writes it for an encoder of that size.
    pub fn write_for(self, size: BertSize, folder: &Path) {
        fs::create_dir_all(folder).expect("a folder");
        let config = json!({
            "peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "r": self.rank, "lora_alpha": 2 * self.rank,
            "target_modules": size.modules().map(|(name, ..)| name), "bias": "none", "lora_dropout": 0.0,
            "base_model_name_or_path": "sentence-transformers/all-MiniLM-L6-v2", "inference_mode": true,
        });
        fs::write(folder.join("adapter_config.json"), config.to_string()).expect("written");
        fs::write(folder.join("adapter_model.safetensors"), self.tensors_for(size)).expect("written");
    }

    /// The content of its safetensors file for MiniLM.
    pub fn tensors(self) -> Vec<u8> {
        self.tensors_for(BertSize::MINILM)
    }

    fn tensors_for(self, size: BertSize) -> Vec<u8> {
        let mut state = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = vec![];
        for layer in 0..size.layers {
            for (module, input, output) in size.modules() {
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
