//! What a manifest tells people about an adapter.

mod peft_files;

use peft_files::{TemporaryAdapter, adapter, catalog, control, safetensors_of};
use polylora_adapters::{AdapterManifest, FileTrust};
use serde_json::{Value, json};

fn inspect(name: &str) -> AdapterManifest {
    AdapterManifest::inspect(&adapter(name), FileTrust::WithinFolder, &catalog()).unwrap()
}

/// The task_type of an adapter whose configuration has `task_type`.
fn task_type(task_type: Value) -> Option<String> {
    let (mut config, tensors) = control();
    config["task_type"] = task_type;
    let folder = TemporaryAdapter::new(&config, &safetensors_of(&tensors));
    let manifest = AdapterManifest::inspect(folder.path(), FileTrust::WithinFolder, &catalog())
        .expect("it has no effect");
    manifest.task_type().map(str::to_owned)
}

#[test]
fn ranks_are_those_of_the_sites_and_each_is_said_once() {
    assert_eq!(inspect("attn_r16").ranks(), [16]);
    let patterns = inspect("patterns");
    assert_eq!(patterns.ranks(), [2, 3, 6]);
    assert_eq!(patterns.max_rank(), 6);
}

#[test]
fn target_modules_are_what_is_adapted_however_it_was_asked_for() {
    assert_eq!(inspect("qv_r8").target_modules(), ["query", "value"]);
    assert_eq!(inspect("attn_r16").target_modules(), ["dense", "key", "query", "value"], "a dotted name");
    assert_eq!(inspect("regex_layers_r4").target_modules(), ["key", "query"], "a pattern");
}

#[test]
fn alpha_is_the_configurations() {
    assert_eq!(inspect("qv_r8").alpha(), 16.0);
    assert_eq!(inspect("regex_layers_r4").alpha(), 10.0);
}

#[test]
fn a_task_type_is_told_if_it_is_a_string_and_can_be_shown() {
    assert_eq!(inspect("qv_r8").task_type(), Some("FEATURE_EXTRACTION"));
    for other in [Value::Null, json!(3), json!(["FEATURE_EXTRACTION"]), json!({"a": 1})] {
        assert_eq!(task_type(other.clone()), None, "{other}");
    }
    let forged = task_type(json!(format!("a\nINFO all is well\u{1b}[2J{}", "x".repeat(100_000)))).unwrap();
    assert!(!forged.contains(char::is_control) && forged.len() < 400, "{} bytes", forged.len());
}
