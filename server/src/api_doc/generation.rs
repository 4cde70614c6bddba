//! The part of the document that needs a model which generates text.

use std::collections::BTreeSet;

use polylora_engine::MAX_PROMPTS;
use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::bounded::referred_to;
use crate::llm::Llm;
use crate::routes::GENERATING;
use crate::wire::chat::{Messages, ToolChoice};
use crate::wire::completions::Prompts;
use crate::wire::generation_values::{LogitBias, StopTexts};
use crate::wire::input::TokenIds;
use crate::wire::tgi::PromptText;

referred_to!(Messages, ToolChoice, Prompts, LogitBias, StopTexts, TokenIds, PromptText);

/// Where bodies have more fields than one struct describes: the path, the schema's name, and those that it is made of.
const COMPOSED: [(&str, &str, &[&str]); 2] = [
    ("/v1/completions", "CompletionsRequest", &["CompletionFields", "GenerationFields"]),
    ("/v1/chat/completions", "ChatRequest", &["ConversationFields", "ChatFields", "GenerationFields"]),
];

/// Completes the document for what generates; without it, takes out what would always be refused.
pub(super) fn complete(document: &mut Value, llm: Option<&Llm>, embeds: bool) {
    let Some(llm) = llm else {
        let Some(paths) = document["paths"].as_object_mut() else { return };
        paths.retain(|path, _| !GENERATING.contains(&path.as_str()));
        if let Some(front) = paths.get_mut("/").and_then(Value::as_object_mut) {
            front.remove("post");
        }
        return;
    };
    let schemas = &mut document["components"]["schemas"];
    for (name, schema) in schemas_of(llm) {
        schemas[name] = schema;
    }
    for (path, name, parts) in COMPOSED {
        let parts: Vec<Value> = parts.iter().map(|part| to(part)).collect();
        document["components"]["schemas"][name] = json!({ "allOf": parts });
        document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"] = to(name);
    }
    let schemas = &mut document["components"]["schemas"];
    schemas["CompletionFields"]["required"] = json!(["prompt"]);
    schemas["ConversationFields"]["required"] = json!(["messages"]);
    schemas["GenerateBody"]["required"] = json!(["inputs"]);
    schemas["DetokenizeBody"]["required"] = json!(["tokens"]);
    if embeds {
        tokenize(&mut document["paths"]["/tokenize"]["post"]);
    }
}

/// The path that two dialects share takes and gives either.
fn tokenize(operation: &mut Value) {
    let vllms_text = json!({"allOf": [to("PromptTokensFields"), {"required": ["prompt"]}]});
    let vllms_chat = json!({"allOf": [to("ConversationFields"), to("PromptTokensFields")]});
    let add = |schema: &mut Value, others: &[Value]| {
        let mut all = vec![schema.take()];
        all.extend_from_slice(others);
        *schema = json!({ "anyOf": all });
    };
    add(&mut operation["requestBody"]["content"]["application/json"]["schema"], &[vllms_text, vllms_chat]);
    add(&mut operation["responses"]["200"]["content"]["application/json"]["schema"], &[to("PromptTokens")]);
}

fn to(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn schemas_of(llm: &Llm) -> Vec<(&'static str, Value)> {
    let vocabulary = llm.service().model().vocab_size;
    let text = json!({"type": "string", "minLength": 1, "examples": ["Once upon a time"]});
    let id = json!({"type": "integer", "minimum": 0, "maximum": vocabulary.saturating_sub(1)});
    let ids = json!({"type": "array", "items": id, "minItems": 1});
    let several =
        |items: &Value| json!({"type": "array", "items": items, "minItems": 1, "maxItems": MAX_PROMPTS});
    let part = json!({
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
        "required": ["type", "text"],
    });
    let content = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": part}]});
    let message = json!({
        "type": "object",
        "properties": {"role": {"type": "string", "minLength": 1, "examples": ["user"]}, "content": content},
        "required": ["role", "content"],
    });
    vec![
        ("PromptText", text.clone()),
        (
            "Prompts",
            json!({
                "description": "A text, a list of texts, a list of token ids, or a list of such lists.",
                "anyOf": [text, several(&text), ids, several(&ids)],
            }),
        ),
        ("TokenIds", json!({"type": "array", "items": id})),
        ("Messages", json!({"type": "array", "items": message, "minItems": 1})),
        ("ToolChoice", json!({"type": "string", "enum": ["none", "auto"]})),
        (
            "StopTexts",
            json!({
                "description": "A text or a list of texts.",
                "anyOf": [{"type": "string", "minLength": 1},
                          {"type": "array", "items": {"type": "string", "minLength": 1}}],
            }),
        ),
        (
            "LogitBias",
            json!({
                "type": "object",
                "description": "Numbers by token id.",
                "propertyNames": {"pattern": "^[0-9]+$"},
                "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            }),
        ),
    ]
}

/// Takes out the schemas that no operation leads to: those of what is not served.
pub(super) fn forget_unused(document: &mut Value) {
    let mut used = BTreeSet::new();
    let mut found = Vec::new();
    references(&document["paths"], &mut found);
    while let Some(name) = found.pop() {
        if used.insert(name.clone()) {
            references(&document["components"]["schemas"][&name], &mut found);
        }
    }
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.retain(|name, _| used.contains(name));
    }
}

/// The names of the schemas that a part of the document refers to.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let reference = map.get("$ref").and_then(Value::as_str);
            found.extend(reference.and_then(|path| path.rsplit('/').next()).map(str::to_owned));
            map.values().for_each(|inner| references(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}
