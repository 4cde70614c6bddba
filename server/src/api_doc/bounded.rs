//! Schemas whose bounds are the served model's: what a client generates from them is accepted, and what breaks them is not.

use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::embedder::Embedder;
use crate::state::ModelNames;
use crate::wire::fields::{Dimensions, Direction, EncodingFormat, TokenLimit};
use crate::wire::input::Inputs;

/// Stands for a text that is to be embedded.
pub(crate) struct Text;
/// Stands for one text or several.
pub(crate) struct Texts;
/// Stands for sentences that are compared with another.
pub(crate) struct Sentences;
/// Stands for one list of token ids or several.
pub(crate) struct IdLists;
/// Stands for the name of a prompt of the model.
pub(crate) struct PromptName;
/// Stands for the name of a model or adapter.
pub(crate) struct ModelName;

/// Types that are referred to by name; [`schemas`] says what the name means.
macro_rules! referred_to {
    ($($type:ty),* $(,)?) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                RefOr::default()
            }
        }
        impl ToSchema for $type {}
    )*};
}
pub(super) use referred_to;

referred_to!(
    Text,
    Texts,
    Sentences,
    IdLists,
    PromptName,
    ModelName,
    Inputs,
    Dimensions,
    Direction,
    EncodingFormat,
    TokenLimit,
);

/// What is refused although every field is as it must be: OpenAI's body with two adapters. The rule is a little stricter
/// than the server, which takes the same adapter twice.
pub(super) fn one_adapter(names: &ModelNames) -> Value {
    let bases: Vec<&str> = names.iter().collect();
    let adapter = json!({"type": "string", "not": {"enum": bases}});
    let together = |one: (&str, &Value), other: (&str, Value)| json!({"not": {"required": [one.0, other.0], "properties": {one.0: one.1, other.0: other.1}}});
    let (text, object) = (json!({"type": "string"}), json!({"type": "object"}));
    json!([
        together(("model", &adapter), ("lora_name", text.clone())),
        together(("model", &adapter), ("lora_request", object.clone())),
        together(("lora_name", &text), ("lora_request", object)),
    ])
}

/// The schemas, by name.
pub(super) fn schemas(embedder: &Embedder) -> Vec<(&'static str, Value)> {
    let (model, limits) = (embedder.service().model(), embedder.service().limits());
    let most = limits.client_batch_size;
    let to = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let list = |items: Value| json!({"type": "array", "items": items, "minItems": 1, "maxItems": most});
    let ids = json!({"type": "array", "items": to("TokenId"), "minItems": 1});
    let prompts = match &model.prompts[..] {
        [] => json!({"type": "null", "description": "The model has no prompts."}),
        names => json!({"type": "string", "enum": names, "description": "A prompt of the model."}),
    };
    vec![
        (
            "Text",
            json!({"type": "string", "minLength": 1, "maxLength": limits.input_chars,
                   "examples": ["What is deep learning?"]}),
        ),
        ("TokenId", json!({"type": "integer", "minimum": 0, "maximum": model.vocab_size.saturating_sub(1)})),
        (
            "Inputs",
            json!({
                "description": "A text, a list of texts, a list of token ids, or a list of such lists.",
                "anyOf": [to("Text"), list(to("Text")), ids, list(ids.clone())],
            }),
        ),
        (
            "Texts",
            json!({"description": "A text or a list of texts.", "anyOf": [to("Text"), list(to("Text"))]}),
        ),
        (
            "Sentences",
            json!({"type": "array", "items": to("Text"), "minItems": 1, "maxItems": most.saturating_sub(1)}),
        ),
        (
            "IdLists",
            json!({
                "description": "A list of token ids, or a list of such lists.",
                "anyOf": [ids, list(ids.clone())],
            }),
        ),
        ("PromptName", prompts),
        (
            "Dimensions",
            json!({"type": "integer", "minimum": 1, "maximum": model.dimensions,
                   "description": "Width to cut embeddings to."}),
        ),
        (
            "TokenLimit",
            json!({"description": "-1, or a number of tokens from the model's limit upwards.",
                   "anyOf": [{"const": -1}, {"type": "integer", "minimum": model.max_tokens, "maximum": i64::MAX}]}),
        ),
        ("EncodingFormat", json!({"type": "string", "enum": ["float", "base64"]})),
        ("Direction", json!({"type": "string", "enum": ["left", "right", "Left", "Right"]})),
    ]
}
