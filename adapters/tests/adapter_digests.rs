//! The digest is the content's: of what is loaded, for this base, and of nothing else.

mod peft_files;

use std::fs;

use peft_files::{
    MadeUpBase, Stored, TemporaryAdapter, adapter, read_config, read_tensors, safetensors_in_order,
    safetensors_of,
};
use polylora_adapters::{AdapterManifest, Digest, FileTrust, LoadedAdapter};
use serde_json::{Value, json};

fn load(config: &Value, weights: &[u8]) -> LoadedAdapter {
    let folder = TemporaryAdapter::new(config, weights);
    load_for(&MadeUpBase::new(), &folder)
}

fn load_for(base: &MadeUpBase, folder: &TemporaryAdapter) -> LoadedAdapter {
    let manifest = AdapterManifest::inspect(folder.path(), FileTrust::WithinFolder, &base.catalog).unwrap();
    manifest.load(base).unwrap()
}

fn original() -> (Value, Vec<Stored>) {
    (read_config(&adapter("qv_r8")), read_tensors(&adapter("qv_r8")))
}

#[test]
fn order_of_the_file_changes_nothing() {
    let (config, mut tensors) = original();
    let first = load(&config, &safetensors_of(&tensors));
    assert_eq!(load(&config, &safetensors_in_order(&tensors)).digest, first.digest);
    tensors.reverse();
    let last = load(&config, &safetensors_in_order(&tensors));
    assert_eq!(last.digest, first.digest);
    assert_eq!(last.extent.values(), first.extent.values());
}

#[test]
fn prefix_and_adapter_name_and_folder_change_nothing() {
    let (config, tensors) = original();
    let plain = load(&config, &safetensors_of(&tensors));
    let renamed = |from: &str, to: &str| {
        let mut tensors = tensors.clone();
        tensors.iter_mut().for_each(|t| t.name = t.name.replace(from, to));
        load(&config, &safetensors_of(&tensors))
    };
    for other in
        [renamed("base_model.model.", "base_model.model.bert."), renamed(".weight", ".my_adapter.weight")]
    {
        assert_eq!(other.digest, plain.digest);
        assert_eq!(other.extent.values(), plain.extent.values());
    }
}

#[test]
fn one_bit_changes_it() {
    let (config, tensors) = original();
    let plain = load(&config, &safetensors_of(&tensors)).digest;
    for at in [0, tensors.len() - 1] {
        let mut changed = tensors.clone();
        changed[at].bytes[0] ^= 1;
        assert_ne!(load(&config, &safetensors_of(&changed)).digest, plain);
    }
}

#[test]
fn the_effective_scale_counts_not_how_it_is_written() {
    let (mut config, tensors) = original();
    let weights = safetensors_of(&tensors);
    let plain = load(&config, &weights).digest;
    config["lora_alpha"] = json!(16.0);
    config["r"] = json!(7);
    config["rank_pattern"] = json!({"query|value": 8});
    config["lora_dropout"] = json!(0.3);
    assert_eq!(load(&config, &weights).digest, plain);
    config["alpha_pattern"] = json!({"encoder.layer.3.attention.self.query": 17});
    assert_ne!(load(&config, &weights).digest, plain);
    config["alpha_pattern"] = json!({});
    config["use_rslora"] = json!(true);
    assert_ne!(load(&config, &weights).digest, plain);
}

#[test]
fn the_base_counts() {
    let (config, tensors) = original();
    let folder = TemporaryAdapter::new(&config, &safetensors_of(&tensors));
    let mut base = MadeUpBase::new();
    let first = load_for(&base, &folder).digest;
    base.digest = Digest([8; 32]);
    assert_ne!(load_for(&base, &folder).digest, first);
}

#[test]
fn equal_values_in_another_dtype_are_another_content_and_the_same_values() {
    let (config, mut tensors) = original();
    for t in &mut tensors {
        let halves: Vec<_> = t
            .bytes
            .chunks(4)
            .map(|b| half::bf16::from_f32(f32::from_le_bytes(b.try_into().unwrap())))
            .collect();
        let widened: Vec<f32> = halves.iter().map(|h| h.to_f32()).collect();
        *t = Stored::f32(&t.name, &t.shape, &widened);
    }
    let wide = load(&config, &safetensors_of(&tensors));
    for t in &mut tensors {
        t.bytes = t.bytes.chunks(4).flat_map(|b| [b[2], b[3]]).collect();
        t.dtype = safetensors::Dtype::BF16;
    }
    let narrow = load(&config, &safetensors_of(&tensors));
    assert_ne!(narrow.digest, wide.digest);
    assert_eq!(narrow.extent.values(), wide.extent.values());
}

#[test]
fn modules_without_effect_do_not_count() {
    let folder = adapter("all_linear_r4_rslora");
    let (config, mut tensors) = (read_config(&folder), read_tensors(&folder));
    let with = load(&config, &safetensors_of(&tensors));
    tensors.retain(|t| !t.name.contains("pooler"));
    let without = load(&config, &safetensors_of(&tensors));
    assert_eq!(with.digest, without.digest);
    assert_eq!(with.extent.values(), without.extent.values());
}

#[test]
fn what_is_hashed_is_what_is_loaded_when_the_file_changes_after_inspection() {
    let (config, tensors) = original();
    let base = MadeUpBase::new();
    let folder = TemporaryAdapter::new(&config, &safetensors_of(&tensors));
    let manifest = AdapterManifest::inspect(folder.path(), FileTrust::WithinFolder, &base.catalog).unwrap();
    let other = read_tensors(&adapter("attn_r16"));
    fs::write(folder.path().join("adapter_model.safetensors"), safetensors_of(&other)).unwrap();
    fs::write(folder.path().join("adapter_config.json"), read_config(&adapter("attn_r16")).to_string())
        .unwrap();
    assert!(manifest.is_stale());
    let loaded = manifest.load(&base).unwrap();
    let expected = load(&read_config(&adapter("attn_r16")), &safetensors_of(&other));
    assert_eq!(loaded.digest, expected.digest);
    assert_eq!(loaded.extent.values(), expected.extent.values());
}
