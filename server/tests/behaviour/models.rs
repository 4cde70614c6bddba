//! The models as vLLM lists them.

use polylora_server::settings::Settings;
use polylora_server::state::{AppState, NameClash};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::fake_engine::{BASE, CATALOGUE_ALIAS, FakeEngine, Server};

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect()
}

#[tokio::test]
async fn the_base_leads_under_its_names_and_is_the_parent_of_the_adapters() {
    let settings = Settings { served_model_name: vec!["mini".into(), "mini".into()], ..Settings::default() };
    let reply = Server::with(FakeEngine::default(), settings).get("/v1/models").await;
    let mut list = reply.json();
    assert_eq!(list["object"], "list");
    assert_eq!(ids(&list), ["mini", BASE, CATALOGUE_ALIAS, "law", "team/medical"]);
    assert!(list["data"][0]["created"].as_u64().is_some_and(|created| created > 1_600_000_000));
    list["data"][0]["created"] = json!(0);
    insta::assert_snapshot!(list["data"][0], @r#"{"created":0,"id":"mini","max_model_len":8,"object":"model","owned_by":"polylora","parent":null,"root":"/models/minilm"}"#);
    insta::assert_snapshot!(list["data"][3], @r#"{"created":1700000000,"id":"law","max_model_len":8,"object":"model","owned_by":"polylora","parent":"mini","root":"/adapters/law"}"#);
}

#[tokio::test]
async fn a_model_is_found_by_any_name_with_slashes_plain_or_escaped() {
    let server = Server::new();
    for (path, id) in [
        (BASE, BASE),
        (CATALOGUE_ALIAS, CATALOGUE_ALIAS),
        ("sentence-transformers%2Fall-MiniLM-L6-v2", CATALOGUE_ALIAS),
        ("team/medical", "team/medical"),
        ("law", "law"),
    ] {
        let reply = server.get(&format!("/v1/models/{path}")).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["id"]), (200, &json!(id)), "{path}");
    }
}

#[tokio::test]
async fn a_model_that_is_not_served_is_404() {
    let server = Server::new();
    for name in ["nobody", "broken", "law/", "Law"] {
        let reply = server.get(&format!("/v1/models/{name}")).await;
        assert_eq!(reply.error(), (404, "model_not_found".into(), Some("model".into())), "{name}");
    }
    assert_eq!(server.get("/v1/models/%ff").await.error().0, 400);
}

#[test]
fn an_adapter_with_a_name_of_the_base_stops_the_start() {
    for name in [BASE, CATALOGUE_ALIAS, "mini"] {
        let engine = FakeEngine { adapters: vec!["law", name], ..FakeEngine::default() };
        let settings = Settings { served_model_name: vec!["mini".into()], ..Settings::default() };
        let clash = AppState::new(Arc::new(engine), &[CATALOGUE_ALIAS.into()], &settings).err();
        assert_eq!(clash, Some(NameClash { name: name.into() }));
    }
}
