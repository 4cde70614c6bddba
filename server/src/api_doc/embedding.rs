//! The part of the document that needs a model which makes embeddings.

use serde_json::{Value, json};

use super::bounded;
use crate::routes::EMBEDDING;
use crate::routes::tei::UNDER_A_MODEL;
use crate::state::AppState;

/// Completes the document for what makes embeddings; without it, takes out what would always be refused.
pub(super) fn complete(document: &mut Value, state: &AppState) {
    if let Some(embedder) = state.embedder() {
        let schemas = &mut document["components"]["schemas"];
        for (name, schema) in bounded::schemas(embedder) {
            schemas[name] = schema;
        }
        schemas["EmbeddingsRequest"]["allOf"] = bounded::one_adapter(embedder.names());
    } else {
        if let Some(paths) = document["paths"].as_object_mut() {
            paths.retain(|path, _| !EMBEDDING.contains(&path.as_str()));
        }
        let to = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        let paths = &mut document["paths"];
        // What is left of the paths that two dialects share is the other dialect's.
        let tokenize = &mut paths["/tokenize"]["post"];
        let vllms_text = json!({"allOf": [to("PromptTokensFields"), {"required": ["prompt"]}]});
        let vllms_chat = json!({"allOf": [to("ConversationFields"), to("PromptTokensFields")]});
        tokenize["requestBody"]["content"]["application/json"]["schema"] =
            json!({ "anyOf": [vllms_text, vllms_chat] });
        tokenize["responses"]["200"]["content"]["application/json"]["schema"] = to("PromptTokens");
        paths["/info"]["get"]["responses"]["200"]["content"]["application/json"]["schema"] =
            to("LlmServerInfo");
    }
    document["components"]["schemas"]["ModelName"] = json!({
        "type": "string", "examples": [state.primary_name()],
        "description": "GET /v1/models lists those that are served.",
    });
}

/// Takes out what stands under the path of a model and needs one that makes embeddings.
pub(super) fn forget_paths(document: &mut Value, state: &AppState) {
    if state.embedder().is_none()
        && let Some(paths) = document["paths"].as_object_mut()
    {
        paths.remove(&format!("{UNDER_A_MODEL}/tokenize"));
    }
}
