//! The models as vLLM lists them.

use polylora_server::routes::router;
use polylora_server::settings::Settings;
use polylora_server::shutdown::CutOff;
use polylora_server::state::{AppState, NameClash};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::fake_engine::{BASE, CATALOGUE_ALIAS, FakeEngine, Server, assembly};

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
    insta::assert_snapshot!(list["data"][0], @r#"{"created":0,"dtype":"f32","id":"mini","max_model_len":8,"object":"model","owned_by":"polylora","parent":null,"root":"/models/minilm"}"#);
    insta::assert_snapshot!(list["data"][3], @r#"{"created":1700000000,"dtype":"f32","id":"law","max_model_len":8,"object":"model","owned_by":"polylora","parent":"mini","root":"/adapters/law"}"#);
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
    let chosen = [vec!["mini".into()], vec!["mini".into(), CATALOGUE_ALIAS.into()]];
    for (name, chosen) in [(BASE, &chosen[0]), ("mini", &chosen[0]), (CATALOGUE_ALIAS, &chosen[1])] {
        let settings = Settings { served_model_name: chosen.clone(), ..Settings::default() };
        let engine = FakeEngine { adapters: vec!["law", name], ..FakeEngine::default() };
        let served = AppState::new(assembly(Arc::new(engine), &[]), &settings).err();
        let refused = AppState::new(assembly(Arc::default(), &[name]), &settings).err();
        for clash in [served, refused] {
            assert_eq!(clash, Some(NameClash { name: name.into() }));
        }
    }
}

#[tokio::test]
async fn an_alias_that_an_adapter_has_is_the_adapters_even_when_it_is_refused() {
    let settings = Settings::default();
    let engine = FakeEngine { adapters: vec![CATALOGUE_ALIAS], ..FakeEngine::default() };
    let server = Server::with(engine, settings.clone());
    assert_eq!(ids(&server.get("/v1/models").await.json()), [BASE, CATALOGUE_ALIAS]);
    let body = json!({"input": "a", "model": CATALOGUE_ALIAS}).to_string();
    assert_eq!(server.post(body.clone()).await.status, 200);
    assert_eq!(server.computed()[0].adapter.as_deref(), Some(CATALOGUE_ALIAS));

    let engine: Arc<FakeEngine> = Arc::default();
    let state = AppState::new(assembly(engine.clone(), &[CATALOGUE_ALIAS]), &settings).expect("no clash");
    let cut_off = CutOff::default();
    let server = Server { engine, router: router(state, cut_off.clone(), &[]), cut_off };
    assert_eq!(server.post(body).await.error().0, 404);
    assert!(server.computed().is_empty(), "never silently the base");
}
