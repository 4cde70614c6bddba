//! What an adapter's tensors may be: each rule with what it accepts and what it refuses.

mod peft_files;

use peft_files::{HIDDEN, Stored, adapter, control, load, read_config, read_tensors, refusal};
use polylora_adapters::AdapterError;
use serde_json::json;

#[test]
fn loras_of_embeddings_are_refused() {
    let (mut config, mut tensors) = control();
    config["target_modules"] = json!(["query", "embeddings.word_embeddings"]);
    let error = refusal(&config, &tensors);
    let table = "embeddings.word_embeddings";
    assert!(matches!(&error, AdapterError::EmbeddingTargeted { module, .. } if module == table), "{error}");
    tensors.push(Stored::filled("base_model.model.embeddings.word_embeddings.lora_embedding_A", &[2, 30522]));
    let error = refusal(&config, &tensors);
    assert!(matches!(&error, AdapterError::EmbeddingTensor { .. }), "{error}");
    assert!(error.to_string().contains("embeddings.word_embeddings.lora_embedding_A"), "{error}");
}

#[test]
fn tensors_that_belong_nowhere_are_refused_by_name() {
    let (config, tensors) = control();
    let name = "base_model.model.encoder.layer.0.attention.self.query";
    type IsThatKind = fn(&AdapterError) -> bool;
    let cases: [(Stored, IsThatKind); 8] = [
        (Stored::filled("encoder.layer.0.attention.self.query.lora_A.weight", &[2, HIDDEN]), |e| {
            matches!(e, AdapterError::TensorUnexpected { .. })
        }),
        (Stored::filled(format!("{name}.weight"), &[1]), |e| {
            matches!(e, AdapterError::TensorUnexpected { .. })
        }),
        (Stored::filled(format!("{name}.lora_B.bias"), &[HIDDEN]), |e| {
            matches!(e, AdapterError::TensorUnexpected { .. })
        }),
        (Stored::filled(format!("{name}.base_layer.bias"), &[HIDDEN]), |e| {
            matches!(e, AdapterError::TensorUnexpected { .. })
        }),
        (Stored::filled(format!("{name}.lora_magnitude_vector"), &[HIDDEN]), |e| {
            matches!(e, AdapterError::TensorUnexpected { .. })
        }),
        (Stored::filled(format!("{name}.lora_A.other.weight"), &[2, HIDDEN]), |e| {
            matches!(e, AdapterError::NamingMixed { part: "adapter name", .. })
        }),
        (
            Stored::filled(
                "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight",
                &[2, HIDDEN],
            ),
            |e| matches!(e, AdapterError::NamingMixed { part: "prefix", .. }),
        ),
        (
            Stored::filled(
                "base_model.model.encoder.layer.5.attention.self.query.lora_A.weight",
                &[2, HIDDEN],
            ),
            |e| matches!(e, AdapterError::TensorNotTargeted { .. }),
        ),
    ];
    for (extra, is_that_kind) in cases {
        let mut tensors = tensors.clone();
        let extra_name = extra.name.clone();
        tensors.push(extra);
        let error = refusal(&config, &tensors);
        assert!(is_that_kind(&error), "{extra_name}: {error:?}");
        if !matches!(error, AdapterError::NamingMixed { .. }) {
            assert!(error.to_string().contains(&extra_name), "{error}");
        }
    }
}

#[test]
fn two_names_for_one_tensor_are_refused() {
    let folder = adapter("dora_r8");
    let (config, mut tensors) = (read_config(&folder), read_tensors(&folder));
    let twin = tensors.iter().find(|t| t.name.ends_with("magnitude_vector")).unwrap().clone();
    tensors.push(Stored { name: format!("{}.weight", twin.name), ..twin.clone() });
    let error = refusal(&config, &tensors);
    assert!(matches!(&error, AdapterError::TensorDuplicate { other, .. } if *other == twin.name), "{error}");
}

#[test]
fn magnitudes_may_be_written_as_a_column_or_a_row() {
    let folder = adapter("dora_r8");
    let (config, tensors) = (read_config(&folder), read_tensors(&folder));
    let plain = load(&config, &tensors).unwrap();
    let reshaped = |shape_of: fn(usize) -> Vec<usize>, tail: &str| {
        let mut tensors = tensors.clone();
        for t in tensors.iter_mut().filter(|t| t.name.ends_with("magnitude_vector")) {
            (t.shape, t.name) = (shape_of(t.shape[0]), format!("{}{tail}", t.name));
        }
        load(&config, &tensors)
    };
    assert_eq!(reshaped(|n| vec![n, 1], "").unwrap().digest, plain.digest);
    assert_eq!(reshaped(|n| vec![1, n], ".weight").unwrap().digest, plain.digest);
    assert!(matches!(reshaped(|n| vec![2, n / 2], "").err(), Some(AdapterError::ShapeMismatch { .. })));
}

#[test]
fn dora_without_magnitudes_is_refused() {
    let folder = adapter("dora_r8");
    let (config, mut tensors) = (read_config(&folder), read_tensors(&folder));
    let at = tensors.iter().position(|t| t.name.ends_with("magnitude_vector")).unwrap();
    let name = tensors.remove(at).name;
    let error = refusal(&config, &tensors);
    assert!(matches!(&error, AdapterError::TensorMissing { tensor, .. } if *tensor == name), "{error}");
}

#[test]
fn a_bias_may_be_named_after_the_module_itself_and_may_be_absent() {
    let folder = adapter("bias_lora_only_r4");
    let (config, mut tensors) = (read_config(&folder), read_tensors(&folder));
    let plain = load(&config, &tensors).unwrap();
    tensors.iter_mut().for_each(|t| t.name = t.name.replace(".base_layer.bias", ".bias"));
    assert_eq!(load(&config, &tensors).unwrap().digest, plain.digest);
    tensors.retain(|t| !t.name.ends_with(".bias"));
    let without = load(&config, &tensors).unwrap();
    assert!(without.extent.layout().slots().iter().all(|slot| slot.bias.is_none()));
    assert_ne!(without.digest, plain.digest);
}

#[test]
fn an_adapter_whose_product_is_zero_has_an_empty_extent() {
    let (config, mut tensors) = control();
    tensors.iter_mut().filter(|t| t.name.contains("lora_B")).for_each(|t| t.bytes.fill(0));
    let loaded = load(&config, &tensors).unwrap();
    assert!(loaded.extent.layout().is_empty());
    assert_eq!(loaded.extent.bytes(), 0);
}
