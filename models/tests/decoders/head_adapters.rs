//! Adapters on the head, on embeddings, and on "all-linear".

use std::fs;

use polylora_adapters::{AdapterError, AdapterManifest, BaseModel, FileTrust, LoadedAdapter};
use polylora_kernels::device::DTypeSpec;
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, segments_of};
use polylora_models::{LanguageModel, PagedRow, WantedLogits};
use serde_json::json;

use crate::fixture::{cpu, golden, load};

/// Of the head's adapter.
const B: f32 = 0.125;

/// An adapter of rank 1 for one module.
fn adapter_for(target: &str, module: &str, widths: (usize, usize)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": target});
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).expect("writes");
    let column =
        |value: f32, count| [value].repeat(count).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (a, b) = (column(1.0, widths.0), column(B, widths.1));
    let view = |shape: [usize; 2], data| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), data).expect("a view")
    };
    let tensors = [
        (format!("base_model.model.{module}.lora_A.weight"), view([1, widths.0], &a)),
        (format!("base_model.model.{module}.lora_B.weight"), view([widths.1, 1], &b)),
    ];
    let bytes = safetensors::serialize(tensors, None).expect("bytes");
    fs::write(folder.path().join("adapter_model.safetensors"), bytes).expect("writes");
    folder
}

fn inspected(model: &LanguageModel, target: &str, module: &str) -> Result<AdapterManifest, AdapterError> {
    let adapter = adapter_for(target, module, (64, 512));
    AdapterManifest::inspect(adapter.path(), FileTrust::WithinFolder, model.catalog())
}

#[test]
fn a_head_that_shares_the_embedding_table_refuses_adapters() {
    let model = load("qwen3", &cpu(DTypeSpec::F32));
    let message = inspected(&model, ".*lm_head", "lm_head").expect_err("tied").to_string();
    assert!(message.contains("lm_head") && message.contains("tie_word_embeddings"), "{message}");
}

fn logits(
    model: &LanguageModel,
    tokens: &[u32],
    adapter: &LoadedAdapter,
    on: bool,
    logits: WantedLogits,
) -> Vec<f32> {
    // A batch mate of the base before it, so that rows are counted apart.
    let mate = PagedRow { tokens: &[1, 2], context: 0, blocks: &[0], logits: WantedLogits::Nothing };
    let row = PagedRow { tokens, context: 0, blocks: &[1, 2, 3, 4], logits };
    let segments = segments_of([(2, None), (tokens.len(), on.then_some(0))]);
    let placed = PlacedAdapter { extent: adapter.extent.clone(), offset: 0 };
    let lora = LoraBatch::new(segments, vec![placed], AdapterMemory::HostAlias);
    let mut cache = model.new_cache(5, 4).expect("memory");
    let logits = model.forward(&[mate, row], &mut cache, &lora).expect("fits");
    logits.into_data().iter::<f32>().collect()
}

#[test]
fn a_head_of_its_own_takes_adapters_for_the_rows_that_want_logits() {
    let model = load("llama", &cpu(DTypeSpec::F32));
    let folder = adapter_for(".*lm_head", "lm_head", (64, 512));
    let manifest = AdapterManifest::inspect(folder.path(), FileTrust::WithinFolder, model.catalog());
    let adapter = manifest.expect("inspects").load(&model).expect("loads");
    let prompt = &golden("llama").prompts[0].input_ids;
    let of = |on, wanted| logits(&model, prompt, &adapter, on, wanted);
    let (base, tuned) = (of(false, WantedLogits::Last), of(true, WantedLogits::Last));
    // A of ones and B of one value add the same to every logit.
    let added: Vec<f32> = tuned.iter().zip(&base).map(|(t, b)| t - b).collect();
    assert!(added[0].abs() > 1e-3 && added.iter().all(|value| (value - added[0]).abs() < 1e-4), "{added:?}");
    let all = of(true, WantedLogits::All);
    assert_eq!(all[all.len() - 512..], tuned);
}

#[test]
fn all_linear_leaves_the_head_out_as_peft_does() {
    let model = load("llama", &cpu(DTypeSpec::F32));
    let message =
        inspected(&model, "all-linear", "lm_head").expect_err("the head is not targeted").to_string();
    assert!(message.contains("lm_head"), "{message}");
}

#[test]
fn adapters_on_embeddings_are_refused_by_name() {
    let model = load("llama", &cpu(DTypeSpec::F32));
    let message = inspected(&model, ".*embed_tokens", "model.embed_tokens").expect_err("refused").to_string();
    assert!(message.contains("model.embed_tokens"), "{message}");
}
