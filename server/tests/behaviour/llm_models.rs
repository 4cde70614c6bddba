//! The model that generates among those that are listed, and in the server's health and figures.

use std::sync::Arc;

use polylora_engine::Health;
use polylora_server::settings::Settings;
use polylora_server::state::{AppState, NameClash};
use serde_json::{Value, json};

use crate::fake_engine::{BASE, CATALOGUE_ALIAS, assembly};
use crate::fake_llm::{CONTEXT, FakeLlm, LLM, LLM_ALIAS};
use crate::llm_server::LlmServer;

#[tokio::test]
async fn it_is_listed_after_the_embedding_model_with_its_adapters_and_its_context() {
    let server = LlmServer::new().server;
    let mut list = server.get("/v1/models").await.json();
    let ids: Vec<_> =
        list["data"].as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, [BASE, CATALOGUE_ALIAS, "law", "team/medical", LLM, LLM_ALIAS, "pirate", "team/poet"]);
    list["data"][4]["created"] = json!(0);
    insta::assert_snapshot!(list["data"][4], @r#"{"created":0,"dtype":"bf16","id":"tiny-llm","max_model_len":24,"object":"model","owned_by":"polylora","parent":null,"root":"/models/tiny-llm"}"#);
    insta::assert_snapshot!(list["data"][7], @r#"{"created":1700000001,"dtype":"bf16","id":"team/poet","max_model_len":24,"object":"model","owned_by":"polylora","parent":"tiny-llm","root":"/llm-adapters/team/poet"}"#);
    for (path, id) in [(LLM, LLM), ("someone%2Ftiny-llm", LLM_ALIAS), ("team/poet", "team/poet")] {
        assert_eq!(server.get(&format!("/v1/models/{path}")).await.json()["id"], id);
    }
}

#[test]
fn an_adapter_with_the_name_of_its_base_stops_the_start() {
    let mut both = assembly(Arc::default(), &[]);
    both.generation = Some(Arc::new(FakeLlm { adapters: vec![LLM], ..FakeLlm::default() }));
    let clash = AppState::new(both, &Settings::default()).err();
    assert_eq!(clash, Some(NameClash { name: LLM.into() }));
}

#[tokio::test]
async fn health_needs_both_and_metrics_have_both() {
    for (health, status) in [(Health::Ready, 200), (Health::Starting, 503), (Health::Unavailable, 503)] {
        let server = LlmServer::with(FakeLlm { health, ..FakeLlm::default() }, Settings::default()).server;
        for path in ["/health", "/ready"] {
            assert_eq!(server.get(path).await.status, status, "{health:?}");
        }
    }
    let server = LlmServer::new();
    server.post("/v1/completions", &json!({"prompt": "a"})).await;
    let metrics = server.server.get("/metrics").await.text;
    for line in [
        "polylora_fake 1",
        "polylora_fake_llm 1",
        r#"polylora_http_requests_total{route="/v1/completions",status="200"} 1"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn the_status_tells_of_it_and_the_front_page_of_its_endpoints() {
    let server = LlmServer::new().server;
    let expected = json!({
        "name": LLM, "state": "ready", "digest": "ab".repeat(32), "max_model_len": CONTEXT, "dtype": "bf16",
        "device": "cpu", "has_chat_template": true,
        "adapters": {"total": 2, "listed": [
            {"name": "pirate", "max_rank": 16, "loaded": true},
            {"name": "team/poet", "max_rank": 16, "loaded": true},
        ]},
        "requests": {"running": 3, "waiting": 3, "limit": 512},
        "throughput": {"inputs_per_second": 0.5, "tokens_per_second": 64.0},
        "latency": null,
        "domains": [
            {"kind": "base", "adapter": null, "requests": 4, "waiting_inputs": 0},
            {"kind": "adapter", "adapter": "pirate", "requests": 4, "waiting_inputs": 3},
        ],
    });
    assert_eq!(server.get("/api/status").await.json()["generation"], expected);
    let endpoints: Vec<Value> = server.get("/").await.json()["endpoints"].as_array().expect("a list").clone();
    for path in ["/v1/completions", "/v1/chat/completions", "/generate", "/generate_stream", "/detokenize"] {
        assert!(endpoints.contains(&json!(path)), "{path}");
    }
}
