//! The OpenAPI document says what the server does, and its page needs no other host.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, Request};
use polylora_server::settings::{Settings, parse_setting};
use serde_json::{Value, json};

use crate::fake_engine::{FakeEngine, Server, WIDTH};
use crate::fake_llm::VOCABULARY;
use crate::llm_server::LlmServer;

/// With a model that embeds, with one that generates, and with both.
fn all() -> [Server; 3] {
    [Server::new(), LlmServer::alone(Settings::default()).server, LlmServer::new().server]
}

async fn document(server: &Server) -> Value {
    let reply = server.get("/openapi.json").await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, Some("application/json")));
    reply.json()
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.insert(reference.clone());
            }
            map.values().for_each(|inner| references(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_endpoint_is_described() {
    let document = document(&Server::new()).await;
    let paths: Vec<&str> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    insta::assert_snapshot!(paths.join(" "), @"/ /api/adapters/register /api/adapters/registry /api/adapters/{name} /api/adapters/{name}/ab /api/adapters/{name}/health /api/adapters/{name}/metadata /api/adapters/{name}/pin /api/adapters/{name}/promote /api/adapters/{name}/retire /api/adapters/{name}/rollback /api/adapters/{name}/versions /api/status /decode /embed /embed_all /embeddings /health /info /lora-adapters /metrics /openapi.json /ping /ready /similarity /tokenize /v1/embeddings /v1/load_lora_adapter /v1/models /v1/models/{id} /v1/unload_lora_adapter /{model}/decode /{model}/embed /{model}/embed_all /{model}/info /{model}/similarity /{model}/tokenize");
}

#[tokio::test]
async fn what_generates_is_described_where_there_is_such_a_model() {
    let [without, _, with] = all();
    let paths = |document: &Value| -> BTreeSet<String> {
        document["paths"].as_object().expect("paths").keys().cloned().collect()
    };
    let (without, with) = (document(&without).await, document(&with).await);
    let added: Vec<String> = paths(&with).difference(&paths(&without)).cloned().collect();
    assert_eq!(
        added,
        ["/detokenize", "/generate", "/generate_stream", "/v1/chat/completions", "/v1/completions"]
    );
    assert_eq!(without["paths"]["/"].get("post"), None);
    let post = &with["paths"]["/"]["post"];
    assert_eq!(post["tags"], json!(["text-generation-inference"]));
    let schemas = &with["components"]["schemas"];
    assert_eq!(schemas["TokenIds"]["items"]["maximum"], VOCABULARY - 1);
    for (path, own) in [("/v1/completions", "prompt"), ("/v1/chat/completions", "messages")] {
        let body =
            &with["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let body = with.pointer(&body.as_str().expect("a reference")[1..]).expect("a schema");
        let parts: Vec<&Value> = body["allOf"]
            .as_array()
            .expect("parts")
            .iter()
            .map(|part| with.pointer(&part["$ref"].as_str().expect("a reference")[1..]).expect("a schema"))
            .collect();
        for field in [own, "temperature", "stream", "lora_request", "max_tokens", "logprobs"] {
            assert!(parts.iter().any(|part| part["properties"].get(field).is_some()), "{path} {field}");
        }
        let replies =
            with["paths"][path]["post"]["responses"]["200"]["content"].as_object().expect("replies");
        assert!(
            replies.contains_key("application/json") && replies.contains_key("text/event-stream"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn every_described_operation_is_there_and_no_other_method() {
    for server in all() {
        only_described_methods(&server).await;
    }
}

async fn only_described_methods(server: &Server) {
    let document = document(server).await;
    let generates = document["paths"].get("/v1/completions").is_some();
    let embeds = document["paths"].get("/v1/embeddings").is_some();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let adapter = if embeds { "law" } else { "pirate" };
        let concrete = path.replace("{model}", adapter).replace("{id}", adapter);
        let methods: Vec<&str> = item.as_object().expect("methods").keys().map(String::as_str).collect();
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let request = Request::builder().method(method.clone()).uri(&concrete);
            let reply = server.send(request.body(Body::empty()).expect("a request")).await;
            let described = methods.contains(&method.as_str().to_lowercase().as_str());
            if path == "/" && method == Method::POST && !generates {
                // It is there to say that nothing generates.
                continue;
            }
            assert_eq!(reply.status != 405, described, "{method} {path}");
            // The engine of these tests has no adapters to manage: that is said, but not that there is no such path.
            assert!(
                !reply.text.contains("unknown_url") && (reply.status != 404 || path.contains("/adapters/")),
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_no_schema_is_empty() {
    for server in all() {
        whole_schemas(&document(&server).await);
    }
}

fn whole_schemas(document: &Value) {
    let mut found = BTreeSet::new();
    references(document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let schema = document.pointer(&reference[1..]);
        assert!(schema.is_some(), "{reference}");
    }
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        let says_something = ["type", "anyOf", "allOf", "enum"].iter().any(|key| schema.get(key).is_some());
        assert!(says_something, "{name}: {schema}");
    }
}

#[tokio::test]
async fn bounds_are_those_of_the_model_that_is_served() {
    let schemas = document(&Server::new()).await["components"]["schemas"].clone();
    assert_eq!(schemas["Dimensions"]["maximum"], WIDTH);
    assert_eq!(schemas["TokenId"]["maximum"], 30_521);
    assert_eq!(schemas["PromptName"]["enum"], json!(["query"]));
    assert_eq!(schemas["Inputs"]["anyOf"][1]["maxItems"], 4);
    assert_eq!(schemas["Sentences"]["maxItems"], 3);
    assert_eq!(schemas["Text"]["maxLength"], 1000);
    let mut engine = FakeEngine::default();
    engine.model.prompts.clear();
    let server = Server::with(engine, Settings::default());
    assert_eq!(document(&server).await["components"]["schemas"]["PromptName"]["type"], "null");
}

#[tokio::test]
async fn a_key_is_described_where_one_is_needed() {
    let open = document(&Server::new()).await;
    assert!(open["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer");
    assert_eq!(open["paths"]["/embed"]["post"].get("security"), None);
    assert_eq!(open["paths"]["/embed"]["post"]["responses"].get("401"), None);
    let api_key = vec![parse_setting("s3cret").expect("a key")];
    let locked = Server::with(FakeEngine::default(), Settings { api_key, ..Settings::default() });
    // Without the key, as a browser asks.
    let closed = document(&locked).await;
    for (path, method, needs_key) in [
        ("/embed", "post", true),
        ("/{model}/info", "get", true),
        ("/v1/models", "get", true),
        ("/health", "get", false),
        ("/openapi.json", "get", false),
    ] {
        let operation = &closed["paths"][path][method];
        assert_eq!(operation.get("security").is_some(), needs_key, "{path}");
        assert_eq!(operation["responses"].get("401").is_some(), needs_key, "{path}");
        // The key is asked for before the method is looked at.
        let status = locked.get(&path.replace("{model}", "law")).await.status;
        assert_eq!(status == 401, needs_key, "{path}");
    }
}

#[tokio::test]
async fn the_page_is_whole_and_asks_no_other_host() {
    let server = Server::new();
    let reply = server.get("/docs").await;
    assert!(reply.status.is_redirection());
    assert_eq!(reply.header("location"), Some("/docs/"));
    let page = server.get("/docs/").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, Some("text/html")));
    let mut files = vec![];
    for piece in
        page.text.split(['"', '\'']).filter(|piece| piece.ends_with(".js") || piece.ends_with(".css"))
    {
        assert!(!piece.contains("//"), "{piece} is not this server's");
        files.push(piece.trim_start_matches("./").to_owned());
    }
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let reply = server.get(&format!("/docs/{file}")).await;
        assert_eq!(reply.status, 200, "{file}");
        assert!(!reply.text.is_empty());
    }
    let start = server.get("/docs/swagger-initializer.js").await.text;
    assert!(start.contains("/openapi.json") && start.contains("\"none\""), "{start}");
    assert_eq!(server.get("/docs/no-such-file.js").await.error().0, 404);
}
