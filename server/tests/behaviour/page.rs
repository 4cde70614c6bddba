//! The status page: for browsers only, the same for everybody, unable to run what is not its own; and its figures.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use polylora_engine::{DomainLabel, DomainSnapshot, Health, LatencySnapshot, Snapshot};
use polylora_server::settings::{Settings, parse_setting};
use serde_json::json;

use crate::fake_engine::{BASE, FakeEngine, Reply, Server};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const MARKUP: &str = "<img src=x onerror=alert(1)>\"'&";

async fn get_with(server: &Server, path: &str, name: header::HeaderName, value: &str) -> Reply {
    server.send(Request::get(path).header(name, value).body(Body::empty()).expect("a request")).await
}

async fn browse(server: &Server) -> Reply {
    get_with(server, "/", header::ACCEPT, BROWSER).await
}

/// The paths that the page and its scripts load.
async fn files(server: &Server) -> BTreeSet<String> {
    let page = browse(server).await.text;
    let linked = page.split('"').filter(|piece| piece.starts_with("/page/")).map(str::to_owned);
    let mut found: BTreeSet<String> = linked.collect();
    for script in found.clone().iter().filter(|path| path.ends_with(".js")) {
        let text = server.get(script).await.text;
        let imported =
            text.split('"').filter_map(|piece| piece.strip_prefix("./")).map(|name| format!("/page/{name}"));
        found.extend(imported);
    }
    found
}

#[tokio::test]
async fn a_browser_gets_the_page_and_others_the_list_of_endpoints() {
    let server = Server::new();
    let page = browse(&server).await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text.starts_with("<!doctype html>"));
    for accept in ["*/*", "application/json"] {
        let list = get_with(&server, "/", header::ACCEPT, accept).await;
        assert_eq!(list.header("content-type"), Some("application/json"));
        let endpoints = list.json()["endpoints"].clone();
        assert!(endpoints.as_array().expect("a list").contains(&json!("/api/status")), "{endpoints}");
        assert_eq!(list.header("vary"), Some("accept"), "a cache must not give one the other's");
    }
    assert_eq!(page.header("vary"), Some("accept"));
}

#[tokio::test]
async fn every_file_of_the_page_is_there_and_only_files_of_this_server_are_let_in() {
    let server = Server::new();
    let files = files(&server).await;
    assert!(files.len() >= 6, "{files:?}");
    let mut tags = BTreeSet::new();
    for path in files.iter().map(String::as_str).chain(["/"]) {
        let reply = get_with(&server, path, header::ACCEPT, BROWSER).await;
        assert_eq!(reply.status, 200, "{path}");
        let kind = match path.rsplit_once('.').map(|(_, ending)| ending) {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(reply.header("content-type"), Some(kind), "{path}");
        let policy = reply.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
        assert!(tags.insert(reply.header("etag").expect("a tag").to_owned()), "{path} has another's tag");
    }
}

#[tokio::test]
async fn a_browser_that_has_a_file_is_not_sent_it_again() {
    let server = Server::new();
    let tag = server.get("/page/page.js").await.header("etag").expect("a tag").to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let again = get_with(&server, "/page/page.js", header::IF_NONE_MATCH, &known).await;
        assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""), "{known}");
        assert_eq!(again.header("etag"), Some(tag.as_str()));
    }
    assert_eq!(get_with(&server, "/page/page.js", header::IF_NONE_MATCH, "\"other\"").await.status, 200);
}

#[tokio::test]
async fn the_status_is_what_the_engine_says() {
    let domain = |domain, requests, waiting_rows| DomainSnapshot {
        domain,
        requests,
        waiting_rows,
        running_requests: 0,
    };
    let snapshot = Snapshot {
        device: "cpu (avx512)".into(),
        mode: "batched, mixed".into(),
        instances: 1,
        domains: vec![
            domain(DomainLabel::Base, 7, 0),
            domain(DomainLabel::Adapter("law".into()), 3, 12),
            domain(DomainLabel::Others, 1, 2),
        ],
        running_requests: 2,
        waiting_requests: 5,
        rows_per_second: 120.5,
        tokens_per_second: 2400.0,
        latency: Some(LatencySnapshot { p50: Duration::from_micros(2500), p99: Duration::from_millis(40) }),
    };
    let server = Server::with(FakeEngine { snapshot, ..FakeEngine::default() }, Settings::default());
    let reply = server.get("/api/status").await;
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let mut status = reply.json();
    assert!(status["uptime_seconds"].as_u64().is_some());
    status.as_object_mut().expect("an object").remove("uptime_seconds");
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": "ready",
        "device": {"name": "cpu (avx512)", "mode": "batched, mixed", "instances": 1},
        "model": {"name": BASE, "digest": "00".repeat(32), "dimensions": 4, "max_tokens": 8, "dtype": "f32", "pooling": "mean"},
        "adapters": {"total": 2, "listed": [
            {"name": "law", "max_rank": 8, "loaded": false},
            {"name": "team/medical", "max_rank": 8, "loaded": false},
        ]},
        "requests": {"running": 2, "waiting": 5, "limit": 512},
        "throughput": {"inputs_per_second": 120.5, "tokens_per_second": 2400.0},
        "latency": {"p50_ms": 2.5, "p99_ms": 40.0},
        "domains": [
            {"kind": "base", "adapter": null, "requests": 7, "waiting_inputs": 0},
            {"kind": "adapter", "adapter": "law", "requests": 3, "waiting_inputs": 12},
            {"kind": "others", "adapter": null, "requests": 1, "waiting_inputs": 2},
        ],
        "generation": null,
    });
    assert_eq!(status, expected);
    assert_eq!(Server::new().get("/api/status").await.json()["latency"], json!(null));
}

#[tokio::test]
async fn the_status_is_told_also_when_there_is_trouble() {
    for (health, state) in [(Health::Starting, "starting"), (Health::Unavailable, "unavailable")] {
        let server = Server::with(FakeEngine { health, ..FakeEngine::default() }, Settings::default());
        let reply = server.get("/api/status").await;
        assert_eq!((reply.status.as_u16(), &reply.json()["state"]), (200, &json!(state)));
    }
}

#[tokio::test]
async fn markup_in_the_name_of_an_adapter_is_data_and_never_part_of_the_page() {
    let snapshot = Snapshot {
        domains: vec![DomainSnapshot {
            running_requests: 0,
            domain: DomainLabel::Adapter(MARKUP.into()),
            requests: 1,
            waiting_rows: 0,
        }],
        ..Snapshot::default()
    };
    let engine = FakeEngine { adapters: vec![MARKUP], snapshot, ..FakeEngine::default() };
    let server = Server::with(engine, Settings::default());
    let status = server.get("/api/status").await;
    // No browser takes that for a page, also when somebody opens it.
    assert_eq!(status.header("content-type"), Some("application/json"));
    assert_eq!(status.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(status.json()["adapters"]["listed"][0]["name"], MARKUP);
    assert_eq!(status.json()["domains"][0]["adapter"], MARKUP);
    let (with, without) = (browse(&server).await, browse(&Server::new()).await);
    assert_eq!(with.text, without.text);
}

#[tokio::test]
async fn the_status_is_bounded_however_many_adapters_are_served() {
    let names = |count: usize| (0..count).map(|number| format!("{number:04}{}", "\"".repeat(251)));
    let adapters = names(2000).map(|name| &*name.leak()).collect();
    // As many as an engine tells apart.
    let domains = names(66).map(|name| DomainSnapshot {
        running_requests: 0,
        domain: DomainLabel::Adapter(name),
        requests: u64::MAX,
        waiting_rows: usize::MAX,
    });
    let snapshot = Snapshot { domains: domains.collect(), ..Snapshot::default() };
    let server =
        Server::with(FakeEngine { adapters, snapshot, ..FakeEngine::default() }, Settings::default());
    let status = server.get("/api/status").await;
    assert!(status.text.len() < 200_000, "{} bytes", status.text.len());
    assert_eq!(status.json()["adapters"]["total"], 2000);
    assert_eq!(status.json()["adapters"]["listed"].as_array().map(Vec::len), Some(256));
}

#[tokio::test]
async fn the_page_needs_no_key_and_its_figures_do() {
    let api_key = vec![parse_setting("s3cret").expect("a key")];
    let locked = Server::with(FakeEngine::default(), Settings { api_key, ..Settings::default() });
    let (page, open) = (browse(&locked).await, browse(&Server::new()).await);
    assert_eq!((page.status.as_u16(), &page.text), (200, &open.text), "the page is the same for everybody");
    for file in files(&locked).await {
        assert_eq!(locked.get(&file).await.status, 200, "{file}");
    }
    for path in ["/", "/api/status", "/page", "/page/", "/page/other.js", "/page/page.js/"] {
        assert_eq!(locked.get(path).await.error().0, 401, "{path}");
    }
    assert_eq!(get_with(&locked, "/v1/models", header::ACCEPT, BROWSER).await.error().0, 401);
    let status = get_with(&locked, "/api/status", header::AUTHORIZATION, "Bearer s3cret").await;
    assert_eq!(status.status, 200);
    assert!(!status.text.contains("s3cret"));
}

#[tokio::test]
async fn adapters_may_be_named_like_the_folders_of_the_page() {
    let engine = FakeEngine { adapters: vec!["page", "api"], ..FakeEngine::default() };
    let server = Server::with(engine, Settings::default());
    for name in ["page", "api"] {
        let reply = server.post_to(&format!("/{name}/embed"), "{\"inputs\":\"a\"}").await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text);
    }
    let asked: Vec<_> = server.computed().into_iter().map(|request| request.adapter).collect();
    assert_eq!(asked, [Some("page".to_owned()), Some("api".to_owned())]);
}
