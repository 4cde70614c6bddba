//! A server without an embedding model: what embeds says what can be asked, and everything else works.

use polylora_server::assemble::start_engine;
use polylora_server::settings::{EmbeddingModelChoice, Settings};
use serde_json::{Value, json};

use crate::fake_llm::{CONTEXT, LLM, LLM_ALIAS};
use crate::llm_server::LlmServer;

fn server() -> LlmServer {
    LlmServer::alone(Settings::default())
}

#[tokio::test]
async fn each_route_that_embeds_says_what_can_be_asked() {
    let server = server();
    for body in
        [json!({"input": "a"}), json!({"model": LLM, "input": "a"}), json!({"model": "x", "input": ["a"]})]
    {
        for path in ["/v1/embeddings", "/embeddings"] {
            let reply = server.post(path, &body).await;
            assert_eq!(reply.error(), (400, "model_not_supported".into(), Some("model".into())), "{path}");
            let message = reply.message();
            assert!(message.contains(LLM) && message.contains("/v1/chat/completions"), "{message}");
        }
    }
    let sentences = json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}});
    for (path, body) in [
        ("/embed", json!({"inputs": "a"})),
        ("/embed_all", json!({"inputs": "a"})),
        ("/similarity", sentences),
        ("/decode", json!({"ids": [1]})),
        ("/tokenize", json!({"inputs": "a"})),
        ("/pirate/embed", json!({"inputs": "a"})),
        ("/pirate/tokenize", json!({"inputs": "a"})),
    ] {
        let reply = server.post(path, &body).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["error_type"]),
            (400, &json!("Validation")),
            "{path}"
        );
        assert!(
            reply.text.contains("makes embeddings") && reply.text.contains(LLM),
            "{path}: {}",
            reply.text
        );
    }
    assert!(server.server.computed().is_empty() && server.asked().is_empty());
}

#[tokio::test]
async fn text_is_generated_as_beside_an_embedding_model() {
    let (alone, both) = (server(), LlmServer::new());
    let messages = json!([{"role": "user", "content": "a"}]);
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "a b", "max_tokens": 3})),
        ("/v1/completions", json!({"model": "pirate", "prompt": "a b", "max_tokens": 3})),
        ("/v1/chat/completions", json!({"model": LLM_ALIAS, "messages": messages, "max_tokens": 3})),
        ("/generate", json!({"inputs": "a b"})),
        ("/tokenize", json!({"prompt": "a b"})),
        ("/detokenize", json!({"tokens": [1, 2]})),
    ] {
        assert_eq!(alone.reply(path, &body).await, both.reply(path, &body).await, "{path}");
    }
    let reply = alone.post("/v1/completions", &json!({"model": "nobody", "prompt": "a"})).await;
    assert_eq!(reply.error(), (404, "model_not_found".into(), Some("model".into())));
}

#[tokio::test]
async fn its_model_is_listed_under_the_names_that_the_user_chose() {
    let chosen = Settings { served_model_name: vec!["gpt".into(), "mine".into()], ..Settings::default() };
    let server = LlmServer::alone(chosen).server;
    let list = server.get("/v1/models").await.json();
    let of = |name: &str| -> Vec<Value> {
        let models = list["data"].as_array().expect("a list").iter();
        models.map(|model| model[name].clone()).collect()
    };
    assert_eq!(json!(of("id")), json!(["gpt", "mine", LLM, LLM_ALIAS, "pirate", "team/poet"]));
    assert_eq!(json!(of("parent")), json!([null, null, null, null, "gpt", "gpt"]));
    assert_eq!(server.get("/v1/models/mine").await.json()["max_model_len"], CONTEXT);
}

#[tokio::test]
async fn probes_metrics_and_status_are_the_language_models() {
    let server = server().server;
    for path in ["/health", "/ping", "/ready", "/api/adapters/registry", "/lora-adapters", "/docs/"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("polylora_fake_llm 1") && !metrics.contains("polylora_fake 1"), "{metrics}");
    let status = server.get("/api/status").await.json();
    assert_eq!((&status["state"], &status["model"]), (&json!("ready"), &Value::Null));
    assert_eq!(status["device"], json!({"name": "cpu", "mode": "continuous batching", "instances": 1}));
    assert_eq!(status["generation"]["name"], LLM);
    for part in ["adapters", "requests", "throughput", "latency", "domains"] {
        assert_eq!(status[part], status["generation"][part], "{part}");
    }
    assert_eq!(status["requests"], json!({"running": 3, "waiting": 3, "limit": 512}));
    let endpoints = server.get("/").await.json()["endpoints"].clone();
    let endpoints: Vec<&str> =
        endpoints.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for path in ["/v1/completions", "/tokenize", "/info"] {
        assert!(endpoints.contains(&path), "{path}");
    }
    for path in ["/v1/embeddings", "/embed", "/decode"] {
        assert!(!endpoints.contains(&path), "{path}");
    }
}

#[tokio::test]
async fn info_is_text_generation_inferences() {
    let server = server().server;
    let mut info = server.get("/info").await.json();
    info["version"] = json!("x");
    let expected = json!({
        "model_id": LLM, "model_sha": "ab".repeat(32), "model_dtype": "bfloat16", "model_device_type": "cpu",
        "model_pipeline_tag": "text-generation", "served_model_name": LLM, "max_concurrent_requests": 512,
        "max_input_tokens": CONTEXT - 1, "max_total_tokens": CONTEXT, "version": "x", "sha": null,
        "docker_label": null,
    });
    assert_eq!(info, expected);
    assert_eq!(server.get("/pirate/info").await.json()["served_model_name"], "pirate");
    assert_eq!(server.get("/nobody/info").await.status, 404);
}

#[tokio::test]
async fn only_what_is_served_is_described() {
    let document = server().server.get("/openapi.json").await.json();
    let paths = document["paths"].as_object().expect("paths");
    for path in ["/v1/embeddings", "/embeddings", "/embed", "/{model}/embed", "/decode", "/{model}/tokenize"]
    {
        assert!(!paths.contains_key(path), "{path}");
    }
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    assert!(!schemas.contains_key("EmbeddingsRequest") && schemas.contains_key("LlmServerInfo"));
    assert_eq!(schemas["ModelName"]["examples"], json!([LLM]));
}

#[test]
fn neither_model_is_a_start_error_that_says_what_to_do() {
    let settings = Settings { embedding_model: EmbeddingModelChoice(None), ..Settings::default() };
    let error = start_engine(&settings, &[]).err().expect("nothing to serve");
    let reason = error.source.to_string();
    assert!(reason.contains("--embedding-model none") && reason.contains("--llm"), "{reason}");
}
