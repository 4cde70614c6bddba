//! What cannot be served is refused by the name of the field or tensor, and nothing in a file panics.

use std::fs;
use std::path::Path;

use polylora_kernels::LoraBatch;
use polylora_kernels::device::DTypeSpec;
use polylora_models::{BatchError, LanguageModel, ModelError, PagedRow, WantedLogits};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use crate::fixture::{cpu, edited, golden, llm, load};
use crate::speaker::Speaker;

fn loaded(dir: &Path) -> Result<LanguageModel, ModelError> {
    LanguageModel::load(dir, &cpu(DTypeSpec::F32), None)
}

#[test]
fn what_is_not_served_is_refused_by_file_and_field() {
    let cases: [(&str, &str, Value, &[&str]); 10] = [
        ("config.json", "model_type", json!("gpt2"), &["`model_type`", "`gpt2`"]),
        ("config.json", "rope_scaling", json!({"type": "longrope"}), &["`rope_scaling.type`", "`longrope`"]),
        ("config.json", "quantization_config", json!({"bits": 4}), &["`quantization_config`", "bits"]),
        (
            "config.json",
            "intermediate_size",
            json!(127),
            &["model.layers.0.mlp.gate_proj.weight", "[128, 64]", "[127, 64]"],
        ),
        ("config.json", "num_hidden_layers", json!(4), &["model.layers.3", "missing"]),
        ("config.json", "attention_bias", json!(true), &["model.layers.0.self_attn.q_proj.bias", "missing"]),
        ("config.json", "vocab_size", json!(500), &["tokenizer.json", "511", "500"]),
        ("config.json", "max_position_embeddings", json!(0), &["`max_position_embeddings` is 0"]),
        ("generation_config.json", "temperature", json!(-1), &["generation_config.json", "`temperature`"]),
        ("tokenizer_config.json", "chat_template", json!(1), &["tokenizer_config.json", "`chat_template`"]),
    ];
    for (file, field, value, words) in cases {
        let copy = edited(&llm("llama").join("model"), file, |fields| {
            fields.insert(field.into(), value.clone());
        });
        let message = loaded(copy.path()).err().expect("refused").to_string();
        for word in words {
            assert!(message.contains(word), "{file}: `{message}` does not say {word}");
        }
    }
}

#[test]
fn more_positions_than_tables_may_have_are_refused_unless_fewer_are_asked_for() {
    let copy = edited(&llm("llama").join("model"), "config.json", |c| {
        c.insert("max_position_embeddings".into(), (1 << 24).into());
    });
    fs::remove_file(copy.path().join("tokenizer_config.json")).expect("removes");
    let message = loaded(copy.path()).err().expect("refused").to_string();
    assert!(message.contains("max_position_embeddings") && message.contains("shorter context"), "{message}");
    let model = LanguageModel::load(copy.path(), &cpu(DTypeSpec::F32), Some(64)).expect("loads");
    assert_eq!(model.context(), 64);
}

#[test]
fn a_template_that_does_not_compile_leaves_the_model_to_complete_texts() {
    let copy = edited(&llm("llama").join("model"), "tokenizer_config.json", |c| {
        c.insert("chat_template".into(), "{% if %}".into());
    });
    assert!(loaded(copy.path()).expect("loads").chat().is_some());
}

#[test]
fn damaged_weights_are_errors() {
    let path = llm("llama").join("model/model.safetensors");
    let whole = fs::read(&path).expect("weights");
    let damages: [fn(Vec<u8>) -> Vec<u8>; 3] = [
        |b| b[..b.len() - 100].to_vec(),
        |mut b| {
            b[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
            b
        },
        |mut b| {
            let end = b.len();
            b[end - 4..end].copy_from_slice(&[0xff; 4]);
            b
        },
    ];
    for damage in damages {
        let copy = edited(&llm("llama").join("model"), "config.json", |_| {});
        fs::write(copy.path().join("model.safetensors"), damage(whole.clone())).expect("writes");
        assert!(matches!(loaded(copy.path()), Err(ModelError::Weights { .. })));
    }
}

#[test]
fn shards_are_the_same_model() {
    let copy = edited(&llm("llama").join("model"), "config.json", |_| {});
    let bytes = fs::read(copy.path().join("model.safetensors")).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut map = Map::new();
    for half in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", half + 1);
        let part: Vec<_> =
            tensors.tensors().into_iter().enumerate().filter(|(i, _)| i % 2 == half).map(|t| t.1).collect();
        map.extend(part.iter().map(|(name, _)| (name.clone(), Value::from(file.clone()))));
        fs::write(copy.path().join(file), safetensors::serialize(part, None).expect("bytes"))
            .expect("writes");
    }
    fs::remove_file(copy.path().join("model.safetensors")).expect("removes");
    fs::write(copy.path().join("model.safetensors.index.json"), json!({"weight_map": map}).to_string())
        .expect("writes");
    let sharded = loaded(copy.path()).expect("loads");
    let whole = load("llama", &cpu(DTypeSpec::F32));
    let prompt = &golden("llama").prompts[0].input_ids;
    let logits = |model: &LanguageModel| {
        let row = PagedRow { tokens: prompt, context: 0, blocks: &[0, 1, 2], logits: WantedLogits::Last };
        let mut cache = model.new_cache(3, 4).expect("memory");
        let logits = model.forward(&[row], &mut cache, &LoraBatch::base()).expect("fits");
        logits.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    assert_eq!(logits(&sharded), logits(&whole));
}

#[test]
fn rows_that_do_not_fit_are_refused_with_numbers() {
    let speaker = Speaker::new("llama", &cpu(DTypeSpec::F32));
    let mut cache = speaker.cache();
    let mut refused = |tokens: &[u32], context, blocks: &[u32]| {
        let row = PagedRow { tokens, context, blocks, logits: WantedLogits::Last };
        speaker.model.forward(&[row], &mut cache, &LoraBatch::base()).err()
    };
    let blocks: Vec<u32> = (0..70).collect();
    assert_eq!(refused(&[1], 256, &blocks), Some(BatchError::Length { row: 0, tokens: 257, max: 256 }));
    assert_eq!(refused(&[512], 0, &blocks), Some(BatchError::Token { row: 0, token: 512, vocab_size: 512 }));
    assert_eq!(refused(&[1], 4, &blocks[..1]), Some(BatchError::Blocks { row: 0, found: 1, needed: 2 }));
    assert_eq!(refused(&[1], 0, &[9999]), Some(BatchError::Block { row: 0, block: 9999, blocks: 288 }));
}
