//! Who may change the fleet: nobody without an admin key, whatever other keys there are, and loading by those on this machine
//! where that is allowed.

use std::net::SocketAddr;

use axum::body::Body;
use axum::http::{Method, Request, header};
use polylora_server::admin::AdminRules;
use polylora_server::connections::Peer;
use polylora_server::settings::{Settings, parse_setting};
use polylora_server::state::Gatehouse;

use crate::fake_engine::{FakeEngine, Reply, Server};

/// Every change, with a body that would do.
const CHANGES: [(&str, &str, &str); 10] = [
    (
        "POST",
        "/api/adapters/register",
        r#"{"adapter_metadata": {"adapter_id": "a", "custom_metadata": {"adapter_path": "a"}}}"#,
    ),
    ("POST", "/api/adapters/law/promote", "{}"),
    ("POST", "/api/adapters/law/rollback", "{}"),
    ("POST", "/api/adapters/law/ab", r#"{"candidate": "1.0.0", "percent": 5}"#),
    ("DELETE", "/api/adapters/law/ab", ""),
    ("POST", "/api/adapters/law/pin", "{}"),
    ("POST", "/api/adapters/law/retire", "{}"),
    ("DELETE", "/api/adapters/law", ""),
    ("POST", "/v1/load_lora_adapter", r#"{"lora_name": "a", "lora_path": "a"}"#),
    ("POST", "/v1/unload_lora_adapter", r#"{"lora_name": "a"}"#),
];

fn server(api_key: &[&str], admin_api_key: &[&str], allow_runtime_lora_updating: bool) -> Server {
    let keys = |keys: &[&str]| keys.iter().map(|key| parse_setting(key).expect("a key")).collect();
    let settings = Settings {
        api_key: keys(api_key),
        admin_api_key: keys(admin_api_key),
        allow_runtime_lora_updating,
        ..Settings::default()
    };
    let api_keys = std::sync::Arc::new(polylora_server::api_keys::ApiKeys::given(&settings.api_key));
    let admin = AdminRules::unrecorded(&settings);
    Server::behind(Gatehouse { api_keys, admin, ..Gatehouse::default() }, FakeEngine::default(), settings)
}

async fn send(
    server: &Server,
    (method, path, body): (&str, &str, &str),
    key: Option<&str>,
    peer: Option<&str>,
) -> Reply {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request =
        Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    if let Some(key) = key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    let mut request = request.body(Body::from(body.to_owned())).expect("a request");
    if let Some(peer) = peer {
        request.extensions_mut().insert(Peer(peer.parse::<SocketAddr>().expect("an address")));
    }
    server.send(request).await
}

#[tokio::test]
async fn without_an_admin_key_nobody_changes_anything_whatever_he_presents() {
    for change in CHANGES {
        for (api_key, presented) in [(&[][..], None), (&["k"], Some("k")), (&[], Some("x"))] {
            let reply = send(&server(api_key, &[], false), change, presented, Some("127.0.0.1:5")).await;
            let (status, code, _) = reply.error();
            assert_eq!(status, 403, "{change:?}");
            assert!(["admin_off", "runtime_updating_off"].contains(&code.as_str()), "{change:?}: {code}");
        }
    }
}

#[tokio::test]
async fn an_admin_key_and_nothing_else_opens_changes_and_also_reads() {
    let server = server(&["client"], &["root"], false);
    for change in CHANGES {
        for (presented, status) in [(None, 401), (Some("roo"), 401)] {
            assert_eq!(send(&server, change, presented, None).await.error().0, status, "{change:?}");
        }
        let as_client = send(&server, change, Some("client"), Some("127.0.0.1:5")).await.error();
        assert!([401, 403].contains(&as_client.0), "{change:?}: {as_client:?}");
        // The engine of these tests has no fleet.
        let as_admin = send(&server, change, Some("root"), None).await.error();
        assert!([400, 404].contains(&as_admin.0), "{change:?}: {as_admin:?}");
    }
    let registry = ("GET", "/api/adapters/registry", "");
    for (key, status) in [(None, 401), (Some("client"), 200), (Some("root"), 200)] {
        assert_eq!(send(&server, registry, key, None).await.status, status);
    }
}

#[tokio::test]
async fn loading_is_open_to_this_machine_where_allowed_and_to_nobody_who_comes_through_a_proxy() {
    let open = server(&[], &[], true);
    let load = CHANGES[8];
    for (peer, is_let_in) in [
        (Some("127.0.0.1:5"), true),
        (Some("[::1]:5"), true),
        (Some("[::ffff:127.0.0.1]:5"), true),
        (Some("10.0.0.1:5"), false),
        (None, false),
    ] {
        let (status, code, _) = send(&open, load, None, peer).await.error();
        let expected = if is_let_in { (404, "adapter_not_found") } else { (403, "runtime_updating_refused") };
        assert_eq!((status, code.as_str()), expected, "{peer:?}");
    }
    let from_here = |header: &str, value: &str| {
        let request = Request::post(load.1).header(header, value);
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let mut request = request.body(Body::from(load.2)).expect("a request");
        request.extensions_mut().insert(Peer("127.0.0.1:5".parse().expect("an address")));
        request
    };
    for header in ["forwarded", "x-forwarded-for", "via", "origin", "x-real-ip"] {
        assert_eq!(open.send(from_here(header, "10.0.0.1")).await.error().0, 403, "{header}");
    }
    // A page whose name is led to this machine sends that name.
    for (host, is_let_in) in [
        ("localhost:8080", true),
        ("127.0.0.1", true),
        ("[::1]:8080", true),
        ("evil.example:8080", false),
        ("127.0.0.1.evil.example", false),
        ("a b", false),
    ] {
        let status = open.send(from_here("host", host)).await.error().0;
        assert_eq!(status, if is_let_in { 404 } else { 403 }, "{host}");
    }
    let promote = send(&open, CHANGES[1], None, Some("127.0.0.1:5")).await.error();
    assert_eq!(promote.0, 403, "only loading is");
}
