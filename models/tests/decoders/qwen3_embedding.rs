//! Qwen3 as an embedding model: causal, the last token pooled.

use std::collections::BTreeMap;

use polylora_adapters::{BaseModel, LoadedAdapter};
use polylora_kernels::device::DTypeSpec;
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, segments_of};
use polylora_models::{EmbeddingModel, LanguageModel};

use crate::fixture::{adapters, cpu, edited, folder, golden_rows, read_json};

const TOLERANCE: f32 = 2e-4;

fn model(dtype: DTypeSpec) -> EmbeddingModel {
    EmbeddingModel::load(&folder("qwen3_embed/model"), &cpu(dtype)).expect("loads")
}

fn embed(model: &EmbeddingModel, rows: &[Vec<u32>], adapter: Option<&LoadedAdapter>) -> Vec<Vec<f32>> {
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let segments = segments_of(rows.iter().map(|row| (row.len(), adapter.map(|_| 0))));
    let placed = adapter.map(|adapter| PlacedAdapter { extent: adapter.extent.clone(), offset: 0 });
    let lora = LoraBatch::new(segments, placed.into_iter().collect(), AdapterMemory::HostAlias);
    model.embed(&rows, &lora).expect("embeds")
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn ids() -> BTreeMap<String, Vec<Vec<u32>>> {
    read_json(&folder("qwen3_embed/input_ids.json"))
}

#[test]
fn documents_and_queries_have_the_ids_and_embeddings_of_sentence_transformers() {
    let model = model(DTypeSpec::F32);
    let adapter = adapters(&folder("qwen3_embed"), &model).remove("a1").expect("an adapter");
    let sentences: Vec<String> = read_json(&folder("qwen3_embed/sentences.json"));
    for (kind, ids) in ids() {
        let prompt = &model.settings().prompts[&kind];
        let encode = |text: &String| model.tokenizer().encode(&format!("{prompt}{text}"), true).expect("ids");
        assert_eq!(sentences.iter().map(encode).collect::<Vec<_>>(), ids, "{kind}");
        for (name, adapter) in [("base", None), ("a1", Some(&adapter))] {
            let file = folder("qwen3_embed/golden.safetensors");
            let expected = golden_rows(&file, &format!("{name}.{kind}"));
            let wrong = largest_difference(&embed(&model, &ids, adapter), &expected);
            assert!(wrong <= TOLERANCE, "{name}, {kind}: {wrong}");
        }
    }
}

#[test]
fn batch_mates_do_not_change_a_bit_of_an_embedding() {
    let model = model(DTypeSpec::F32);
    let ids = &ids()["document"];
    let together = embed(&model, ids, None);
    for (row, found) in ids.iter().zip(together) {
        assert_eq!(embed(&model, std::slice::from_ref(row), None), [found]);
    }
}

#[test]
fn bf16_stays_close() {
    let ids = &ids()["query"];
    let (wide, narrow) =
        (embed(&model(DTypeSpec::F32), ids, None), embed(&model(DTypeSpec::Bf16), ids, None));
    for (wide, narrow) in wide.iter().zip(&narrow) {
        let cosine: f32 = wide.iter().zip(narrow).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{cosine}");
    }
}

#[test]
fn an_encoder_that_sees_both_ways_is_refused_by_name() {
    let source = folder("qwen3_embed/model");
    for (field, value) in [("is_causal", false), ("use_bidirectional_attention", true)] {
        let copy = edited(&source, "config.json", |c| {
            c.insert(field.into(), value.into());
        });
        let error = EmbeddingModel::load(copy.path(), &cpu(DTypeSpec::F32)).err().expect("refused");
        assert!(error.to_string().contains(&format!("`{field}` is {value}")), "{error}");
    }
}

#[test]
fn the_same_sizes_with_and_without_a_head_are_two_base_models() {
    let with_head = folder("llms/qwen3/model");
    let on = cpu(DTypeSpec::F32);
    let speaking = LanguageModel::load(&with_head, &on, None).expect("loads");
    let embedding = EmbeddingModel::load(&with_head, &on).expect("loads, its names stand behind `model.`");
    assert_ne!(speaking.digest(), embedding.digest());
    assert_eq!(speaking.catalog().sites()[0].name, "model.layers.0.self_attn.q_proj");
    assert_eq!(embedding.catalog().sites()[0].name, "layers.0.self_attn.q_proj");
}
