//! Which errors an operation answers with, in the words of its dialect.

use serde_json::{Value, json};

use super::{FLEET, TEI, TGI};

/// An error as the dialects tell it.
struct Told {
    status: &'static str,
    when: &'static str,
    code: &'static str,
    kind: &'static str,
}

const fn told(status: &'static str, kind: &'static str, code: &'static str, when: &'static str) -> Told {
    Told { status, when, code, kind }
}

const UNAUTHORIZED: Told =
    told("401", "invalid_request_error", "invalid_api_key", "No API key, or none of the server's.");
const NOT_FOUND: Told =
    told("404", "invalid_request_error", "model_not_found", "No model or adapter of that name.");
const BAD_PATH: Told = told("400", "invalid_request_error", "invalid_path", "The path is no UTF-8.");
const INTERNAL: Told = told("500", "server_error", "internal_error", "A bug of the server.");
const UNAVAILABLE: Told =
    told("503", "server_error", "unavailable", "The server is starting, stopping or without its device.");

/// What a body can bring about in OpenAI's dialect.
const OF_BODIES: [Told; 6] = [
    told("400", "invalid_request_error", "invalid_value", "The body is not what it must be."),
    told("408", "invalid_request_error", "body_timeout", "The body did not come in time."),
    told("413", "invalid_request_error", "payload_too_large", "The body is too large."),
    told("415", "invalid_request_error", "unsupported_media_type", "The body is not `application/json`."),
    told("429", "rate_limit_error", "rate_limit_exceeded", "Too many requests or inputs are in flight."),
    NOT_FOUND,
];

/// What a change of the fleet can come to.
const OF_CHANGES: [Told; 4] = [
    told("401", "invalid_request_error", "invalid_admin_key", "No admin key, or none of the server's."),
    told(
        "403",
        "invalid_request_error",
        "admin_off",
        "The server takes no changes, or not from this client.",
    ),
    told("404", "invalid_request_error", "adapter_not_found", "No adapter or version of that name."),
    told(
        "409",
        "invalid_request_error",
        "conflict",
        "It does not fit what is registered, or another version is active.",
    ),
];

/// What a body can bring about in text-embeddings-inference's dialect.
const OF_TEIS_BODIES: [Told; 10] = [
    told("400", "Empty", "", "There is nothing to compute, or the body is no JSON object."),
    told("404", "Validation", "", "No model or adapter of that name."),
    told("408", "Validation", "", "The body did not come in time."),
    told("409", "Validation", "", "The fields and the path name two different adapters."),
    told("413", "Validation", "", "The body, the list of inputs or the reply would be too large."),
    told("415", "Validation", "", "The body is not `application/json`."),
    told("422", "Validation", "", "A field is not what it must be, or a text cannot be tokenised."),
    told("424", "Backend", "", "The computation failed."),
    told("429", "Overloaded", "", "Too many requests or inputs are in flight."),
    told("500", "Backend", "", "A bug of the server."),
];

/// What a body can bring about in text-generation-inference's dialect.
const OF_TGIS_BODIES: [Told; 8] = [
    told("400", "validation", "", "The body is no JSON object."),
    told("404", "validation", "", "No model or adapter of that name."),
    told("408", "validation", "", "The body did not come in time."),
    told("413", "validation", "", "The body is too large."),
    told("415", "validation", "", "The body is not `application/json`."),
    told("422", "validation", "", "A field is not what it must be, or the text is too long for the context."),
    told("429", "overloaded", "", "Too many requests are in flight."),
    told("500", "generation", "", "The computation failed."),
];

/// The error responses of an operation, by status.
pub(super) fn of(dialect: &str, path: &str, has_body: bool, needs_key: bool) -> Vec<(&'static str, Value)> {
    let mut errors: Vec<&Told> = match (dialect, has_body) {
        (TEI, true) => OF_TEIS_BODIES.iter().collect(),
        (TGI, true) => OF_TGIS_BODIES.iter().collect(),
        (_, true) => OF_BODIES.iter().chain([&INTERNAL]).collect(),
        (_, false) => vec![&INTERNAL],
    };
    if path.contains('{') && !has_body {
        errors.extend([&BAD_PATH, &NOT_FOUND]);
    }
    if dialect == FLEET {
        errors.push(&BAD_PATH);
        errors.extend(&OF_CHANGES);
    }
    errors.push(&UNAVAILABLE);
    if needs_key {
        errors.push(&UNAUTHORIZED);
    }
    let response = |error: &Told| {
        let (schema, example) = match dialect {
            TEI => ("ErrorBody", json!({"error": error.when, "error_type": teis_kind(error)})),
            TGI => ("GenerationErrorBody", json!({"error": error.when, "error_type": tgis_kind(error)})),
            _ => (
                "ErrorObject",
                json!({"error": {"message": error.when, "type": error.kind, "param": null, "code": error.code}}),
            ),
        };
        let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
        let content = json!({"application/json": {"schema": schema, "example": example}});
        (error.status, json!({"description": error.when, "content": content}))
    };
    errors.into_iter().map(response).collect()
}

fn tgis_kind(error: &Told) -> &'static str {
    match error.status {
        "503" => "unhealthy",
        "401" => "validation",
        _ => error.kind,
    }
}

fn teis_kind(error: &Told) -> &'static str {
    match error.status {
        "503" => "Unhealthy",
        "500" => "Backend",
        "400" if error.code.is_empty() => "Empty",
        "424" | "429" => error.kind,
        _ => "Validation",
    }
}
