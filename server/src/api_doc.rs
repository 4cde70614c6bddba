//! The OpenAPI document: types and operations as utoipa reads them off the code, with the bounds of the model that is
//! served now, and a page that shows it.

mod bounded;
mod embedding;
mod errors;
mod generation;
pub(crate) mod page;

use serde_json::{Map, Value, json};
use utoipa::OpenApi;

pub(crate) use bounded::{IdLists, ModelName, PromptName, Sentences, Text, Texts};

use crate::routes::tei::{PATHS, UNDER_A_MODEL};
use crate::routes::{HEALTH, METRICS, PING, PROBES};
use crate::state::AppState;

/// What is documented; its schemas follow from the operations.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "polylora",
        description = "Embeddings and generated text through base models and many LoRA adapters, in the dialects of OpenAI, of \
                       text-embeddings-inference and of text-generation-inference.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    paths(
        crate::routes::embeddings,
        crate::routes::completions::completions,
        crate::routes::chat::chat,
        crate::routes::llm_tokens::detokenize,
        crate::routes::models,
        crate::routes::model,
        crate::routes::tei::embed,
        crate::routes::tei::embed_all,
        crate::routes::tei::similarity,
        crate::routes::tei::tokenize,
        crate::routes::tei::decode,
        crate::routes::tei::info,
        crate::routes::generate::generate,
        crate::routes::generate::generate_stream,
        crate::routes::generate::either,
        crate::routes::adapters::registry,
        crate::routes::adapters::metadata,
        crate::routes::adapters::versions,
        crate::routes::adapters::health,
        crate::routes::adapters::register,
        crate::routes::adapters::promote,
        crate::routes::adapters::rollback,
        crate::routes::adapters::ab,
        crate::routes::adapters::end_ab,
        crate::routes::adapters::pin,
        crate::routes::adapters::retire,
        crate::routes::adapters::remove,
        crate::routes::lora::load,
        crate::routes::lora::unload,
        crate::routes::lora::list,
        crate::routes::about,
        crate::routes::status,
        crate::routes::health,
        crate::routes::ready,
        crate::routes::metrics,
        page::document,
    ),
    components(schemas(
        crate::wire::error::ErrorObject<'static>,
        crate::wire::tei_error::ErrorBody,
        crate::wire::tgi_error::GenerationErrorBody,
        crate::wire::generation_fields::GenerationFields,
        crate::wire::chat::ConversationFields,
        crate::wire::llm_tokens::PromptTokensFields,
        crate::wire::llm_tokens::PromptTokens,
        crate::wire::llm_info::LlmServerInfo,
    )),
    tags(
        (name = OPENAI, description = "As OpenAI's clients speak, with vLLM's ways to name an adapter."),
        (name = TEI, description = "As clients of text-embeddings-inference speak; each also under `/{model}`."),
        (name = TGI, description = "As clients of text-generation-inference and LoRAX speak."),
        (name = FLEET, description = "The adapters: what there is, and changes of it, which need an admin key."),
        (name = OPERATIONS, description = "For whoever runs the server."),
    ),
)]
struct Described;

/// Operations in OpenAI's dialect.
pub(crate) const OPENAI: &str = "OpenAI";
/// Operations in text-embeddings-inference's dialect.
pub(crate) const TEI: &str = "text-embeddings-inference";
/// Operations in text-generation-inference's dialect.
pub(crate) const TGI: &str = "text-generation-inference";
/// Operations on the fleet of adapters.
pub(crate) const FLEET: &str = "Adapters";
/// Operations beside the embedding.
pub(crate) const OPERATIONS: &str = "Operations";

/// Paths whose replies have the headers of `tei_timing.rs`.
const TIMED: [&str; 5] = ["/v1/embeddings", "/embeddings", "/embed", "/embed_all", "/similarity"];

/// The document for what is served now.
pub(crate) fn document(state: &AppState) -> Value {
    // A document of texts and numbers is always written.
    let mut document = serde_json::to_value(Described::openapi()).unwrap_or_default();
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    // `oneOf` would refuse what two alternatives allow.
    rename_key(&mut document, "oneOf", "anyOf");
    embedding::complete(&mut document, state);
    generation::complete(&mut document, state.llm(), state.embedder().is_some());
    document["components"]["securitySchemes"] = json!({"bearer": {"type": "http", "scheme": "bearer", "description": "One of the server's API keys."}});
    let needs_key = state.api_keys().are_needed();
    if let Some(paths) = document["paths"].as_object_mut() {
        add_paths(paths);
        for (path, item) in paths {
            for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
                let is_public = PROBES.contains(&path.as_str())
                    || path == page::DOCUMENT
                    || path == METRICS && state.metrics_are_public();
                complete(operation, path, needs_key && !is_public);
            }
        }
    }
    embedding::forget_paths(&mut document, state);
    generation::forget_unused(&mut document);
    document
}

/// The routes that are other routes under another path.
fn add_paths(paths: &mut Map<String, Value>) {
    let mut alias = |path: &str, under: String, change: &dyn Fn(&mut Value)| {
        let Some(mut item) = paths.get(path).cloned() else { return };
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            change(operation);
        }
        paths.insert(under, item);
    };
    alias("/v1/embeddings", "/embeddings".to_owned(), &|operation| {
        operation["operationId"] = json!("embeddings_unversioned");
    });
    alias(HEALTH, PING.to_owned(), &|operation| operation["operationId"] = json!("ping"));
    let parameter = json!([{
        "name": "model", "in": "path", "required": true, "schema": {"$ref": "#/components/schemas/ModelName"},
        "description": "Base model, alias or adapter; a slash within it is written `%2F`.",
    }]);
    for path in PATHS {
        alias(path, format!("{UNDER_A_MODEL}{path}"), &|operation| {
            let id = operation["operationId"].as_str().unwrap_or_default();
            operation["operationId"] = json!(format!("{id}_of_model"));
            operation["parameters"] = parameter.clone();
        });
    }
}

/// Adds what all operations of a kind have: errors, headers, the key.
fn complete(operation: &mut Value, path: &str, needs_key: bool) {
    let dialect = operation["tags"][0].as_str().unwrap_or_default().to_owned();
    let has_body = operation["requestBody"].is_object();
    let errors = errors::of(&dialect, path, has_body, needs_key);
    let responses = &mut operation["responses"];
    for (status, response) in errors {
        responses[status] = response;
    }
    let name = path.strip_prefix(UNDER_A_MODEL).unwrap_or(path);
    let number = |description: &str| json!({"description": description, "required": true, "schema": {"type": "integer", "minimum": 0}});
    if TIMED.contains(&name) {
        responses["200"]["headers"] = json!({
            "x-compute-type": {"description": "What computed.", "required": true,
                               "schema": {"type": "string", "enum": ["cpu+optimized", "gpu+optimized"]}},
            "x-compute-time": number("Milliseconds from the body to the reply."),
            "x-compute-characters": number("Characters of the inputs; a token id counts as one."),
            "x-compute-tokens": number("Tokens computed."),
            "x-total-time": number("Milliseconds from the body to the reply."),
            "x-tokenization-time": number("Milliseconds of tokenising."),
            "x-queue-time": number("Milliseconds of waiting for the device."),
            "x-inference-time": number("Milliseconds on the device."),
        });
    }
    for response in responses.as_object_mut().into_iter().flat_map(Map::values_mut) {
        response["headers"]["x-request-id"] = json!({
            "description": "The id that the client sent, or one that the server made.", "required": true,
            "schema": {"type": "string"},
        });
    }
    if needs_key {
        operation["security"] = json!([{"bearer": []}]);
    }
}

fn rename_key(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::Object(map) => {
            if let Some(inner) = map.remove(from) {
                map.insert(to.to_owned(), inner);
            }
            map.values_mut().for_each(|inner| rename_key(inner, from, to));
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| rename_key(inner, from, to)),
        _ => {}
    }
}
