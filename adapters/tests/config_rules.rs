//! What a configuration may say: each rule with what it accepts and what it refuses.

mod peft_files;

use std::fs;

use peft_files::{
    MadeUpBase, Stored, TemporaryAdapter, adapter, control, load, pair, read_config, read_tensors, refusal,
    safetensors_of, sites,
};
use polylora_adapters::{AdapterError, AdapterManifest, FileTrust};
use polylora_kernels::extent::SiteId;
use serde_json::{Value, json};

#[test]
fn what_has_an_effect_and_is_not_computed_is_refused_by_name() {
    let (config, tensors) = control();
    for (field, value) in [
        ("modules_to_save", json!(["classifier"])),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("target_parameters", json!(["experts.up"])),
        ("trainable_token_indices", json!([1, 2])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("layer_replication", json!([[0, 4], [2, 5]])),
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"nblocks": 2})),
        ("arrow_config", json!({"top_k": 2})),
        ("kasa_config", json!({"beta": 1.0})),
        ("velora_config", json!({"scale": 1.0})),
        ("monteclora_config", json!({"num_samples": 8})),
        ("bias", json!("all")),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("of next year")),
    ] {
        let mut config = config.clone();
        config[field] = value.clone();
        let error = refusal(&config, &tensors);
        assert!(matches!(&error, AdapterError::FieldUnsupported { field: f, .. } if f == field), "{error}");
        let shown = value.as_str().map(str::to_owned).unwrap_or_default();
        assert!(
            error.to_string().contains(&format!("`{field}`")) && error.to_string().contains(&shown),
            "{error}"
        );
    }
}

#[test]
fn what_has_no_effect_is_accepted() {
    let (config, tensors) = control();
    let plain = load(&config, &tensors).unwrap();
    for (field, value) in [
        ("lora_dropout", json!(0.1)),
        ("task_type", Value::Null),
        ("auto_mapping", json!({"base_model_class": "BertModel"})),
        ("megatron_config", json!({"x": 1})),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("eva_config", json!({"rho": 2.0})),
        ("init_lora_weights", json!(false)),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("EVA")),
        ("init_lora_weights", json!("orthogonal")),
        ("init_lora_weights", json!("mica")),
        ("modules_to_save", json!([])),
        ("bias", Value::Null),
        ("use_dora", Value::Null),
        ("of_next_year", Value::Null),
        ("of_next_year", json!(false)),
        ("of_next_year", json!({})),
        ("rank_pattern", Value::Null),
        ("base_model_name_or_path", Value::Null),
    ] {
        let mut config = config.clone();
        config[field] = value;
        assert_eq!(load(&config, &tensors).unwrap().digest, plain.digest, "{field}");
    }
}

#[test]
fn an_unknown_field_that_is_set_is_refused_with_the_versions_that_are_known() {
    let (mut config, tensors) = control();
    config["of_next_year"] = json!(1);
    let error = refusal(&config, &tensors);
    assert!(matches!(&error, AdapterError::FieldUnknown { field, .. } if field == "of_next_year"), "{error}");
    assert!(error.to_string().contains("0.21.2"), "{error}");
}

#[test]
fn fields_of_the_wrong_type_are_named() {
    let (config, tensors) = control();
    for (field, value, place) in [
        ("r", json!(2.5), "`r`"),
        ("r", json!(true), "`r`"),
        ("lora_alpha", json!("4"), "`lora_alpha`"),
        ("use_rslora", json!("yes"), "`use_rslora`"),
        ("target_modules", json!(["query", 1]), "`target_modules`"),
        ("target_modules", json!(7), "`target_modules`"),
        ("rank_pattern", json!(["query"]), "`rank_pattern`"),
        ("rank_pattern", json!({"query": "x"}), "`rank_pattern[\"query\"]`"),
        ("alpha_pattern", json!({"query": null}), "`alpha_pattern[\"query\"]`"),
        ("layers_to_transform", json!("0"), "`layers_to_transform`"),
        ("layers_to_transform", json!([-1]), "`layers_to_transform`"),
        ("bias", json!("some"), "`bias`"),
        ("base_model_name_or_path", json!(3), "`base_model_name_or_path`"),
    ] {
        let mut config = config.clone();
        config[field] = value;
        let error = refusal(&config, &tensors);
        assert!(matches!(error, AdapterError::FieldInvalid { .. }), "{error}");
        assert!(error.to_string().contains(place), "{place} is not in: {error}");
    }
    for field in ["peft_type", "target_modules"] {
        let mut config = config.clone();
        config.as_object_mut().unwrap().remove(field);
        let error = refusal(&config, &tensors);
        assert!(matches!(&error, AdapterError::FieldMissing { field: f, .. } if f == field), "{error}");
    }
}

#[test]
fn rank_and_alpha_are_eight_unless_said() {
    let (mut config, _) = control();
    config.as_object_mut().unwrap().retain(|field, _| field != "r" && field != "lora_alpha");
    config["layers_to_transform"] = json!(1);
    let tensors = pair("encoder.layer.1.attention.self.query", 8);
    let loaded = load(&config, &tensors).unwrap();
    let slot = loaded.extent.layout().slot(SiteId(6)).unwrap();
    let stored = f32::from_le_bytes(tensors[1].bytes[..4].try_into().unwrap());
    assert_eq!((slot.shape.rank, loaded.extent.values()[slot.b]), (8, stored));
}

#[test]
fn a_scale_beyond_f32_is_refused() {
    let (mut config, tensors) = control();
    config["lora_alpha"] = json!(1e300);
    assert!(matches!(refusal(&config, &tensors), AdapterError::ScaleNotFinite { rank: 2, .. }));
    config["lora_alpha"] = json!(3e38);
    assert!(load(&config, &tensors).is_ok());
}

#[test]
fn patterns_match_in_the_order_of_the_file() {
    let (config, tensors) = control();
    let text = config.to_string();
    let at = text.find("\"alpha_pattern\":{}").unwrap();
    let with = |map: &str| {
        let mut text = text.clone();
        text.replace_range(at..at + "\"alpha_pattern\":{}".len(), &format!("\"alpha_pattern\":{map}"));
        let folder = TemporaryAdapter::new(&Value::Null, &safetensors_of(&tensors));
        fs::write(folder.path().join("adapter_config.json"), text).unwrap();
        let base = MadeUpBase::new();
        let manifest =
            AdapterManifest::inspect(folder.path(), FileTrust::WithinFolder, &base.catalog).unwrap();
        manifest.load(&base).unwrap().digest
    };
    let (z, a) = (with(r#"{"z|query": 7, ".*query": 9}"#), with(r#"{".*query": 9, "z|query": 7}"#));
    assert_eq!(z, with(r#"{"query": 7}"#));
    assert_eq!(a, with(r#"{"query": 9}"#));
}

#[test]
fn layers_bound_a_list_of_targets_but_not_a_full_name() {
    let (mut config, _) = control();
    let tensors = |layers: &[u32]| -> Vec<Stored> {
        layers.iter().flat_map(|l| pair(&format!("encoder.layer.{l}.attention.self.query"), 2)).collect()
    };
    config["layers_to_transform"] = json!([0, 4]);
    assert_eq!(sites(&load(&config, &tensors(&[0, 4])).unwrap()), [0, 24]);
    config["layers_pattern"] = json!(["block", "layer"]);
    assert_eq!(sites(&load(&config, &tensors(&[0, 4])).unwrap()), [0, 24]);
    config["layers_pattern"] = json!("block");
    assert!(matches!(refusal(&config, &tensors(&[0, 4])), AdapterError::TargetsMatchNothing { .. }));
    config["layers_pattern"] = Value::Null;
    config["target_modules"] = json!(["encoder.layer.5.attention.self.query", "query"]);
    assert_eq!(sites(&load(&config, &tensors(&[0, 4, 5])).unwrap()), [0, 24, 30]);
    config["layers_to_transform"] = json!([]);
    assert_eq!(sites(&load(&config, &tensors(&[0, 1, 2, 3, 4, 5])).unwrap()).len(), 6);

    config["layers_to_transform"] = json!([1]);
    config["target_modules"] = json!(".*query");
    assert!(refusal(&config, &tensors(&[1])).to_string().contains("`layers_to_transform`"));
    config["layers_to_transform"] = Value::Null;
    config["layers_pattern"] = json!("layer");
    assert!(refusal(&config, &tensors(&[1])).to_string().contains("`layers_pattern`"));
}

#[test]
fn excluded_modules_are_not_targeted() {
    let (mut config, _) = control();
    config["layers_to_transform"] = json!([3]);
    config["target_modules"] = json!(["query", "value"]);
    let both: Vec<Stored> = ["query", "value"]
        .iter()
        .flat_map(|m| pair(&format!("encoder.layer.3.attention.self.{m}"), 2))
        .collect();
    assert_eq!(sites(&load(&config, &both).unwrap()), [18, 20]);
    for excluded in [json!(["self.value"]), json!(".*value")] {
        config["exclude_modules"] = excluded;
        assert_eq!(sites(&load(&config, &both[..2]).unwrap()), [18]);
        assert!(matches!(refusal(&config, &both), AdapterError::TensorNotTargeted { .. }));
    }
}

#[test]
fn all_linear_targets_every_site_and_no_embedding() {
    let folder = adapter("all_linear_r4_rslora");
    let (mut config, tensors) = (read_config(&folder), read_tensors(&folder));
    config["target_modules"] = json!("All-Linear");
    assert_eq!(sites(&load(&config, &tensors).unwrap()).len(), 36);
}

#[test]
fn patterns_see_the_prefix_that_the_tensors_have() {
    let (mut config, mut tensors) = control();
    tensors.iter_mut().for_each(|t| t.name = t.name.replace("model.encoder", "model.bert.encoder"));
    config["layers_to_transform"] = Value::Null;
    config["target_modules"] = json!(r"bert\.encoder\.layer\.[0-2]\..*query");
    config["alpha_pattern"] = json!({"^bert.encoder.layer.1.attention.self.query": 8});
    let loaded = load(&config, &tensors).unwrap();
    assert_eq!(sites(&loaded), [0, 6, 12]);
    config["alpha_pattern"] = json!({});
    assert_ne!(load(&config, &tensors).unwrap().digest, loaded.digest);
}
