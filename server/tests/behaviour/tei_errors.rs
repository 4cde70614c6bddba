//! What a bad request gets in text-embeddings-inference's dialect: always its error object, wherever the error was found.

use axum::body::Body;
use axum::http::{Method, Request, header};
use polylora_engine::EmbedError;
use polylora_server::settings::{ByteSize, Settings, parse_setting};
use serde_json::json;

use crate::fake_engine::{FakeEngine, Mood, Reply, Server};

/// Status and type of an error object, which must have its two fields.
fn told(reply: &Reply) -> (u16, String) {
    let json = reply.json();
    let error = json.as_object().unwrap_or_else(|| panic!("no object: {}", reply.text));
    let keys: Vec<_> = error.keys().map(String::as_str).collect();
    assert_eq!(keys, ["error", "error_type"], "{}", reply.text);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(!error["error"].as_str().expect("a message").is_empty());
    (reply.status.as_u16(), error["error_type"].as_str().expect("a type").to_owned())
}

#[tokio::test]
async fn each_mistake_has_its_status_and_type() {
    for (path, body, status, kind) in [
        ("/embed", json!({"inputs": []}), 400, "Empty"),
        ("/embed", json!({"inputs": ""}), 400, "Empty"),
        ("/embed", json!({"inputs": ["a", ""]}), 400, "Empty"),
        ("/embed", json!({"inputs": ["a", "b", "c", "d", "e"]}), 413, "Validation"),
        ("/embed", json!({"inputs": "1 2 3 4 5 6 7", "truncate": false}), 422, "Validation"),
        ("/embed", json!({"inputs": [30522]}), 422, "Validation"),
        ("/embed", json!({"inputs": "a", "dimensions": 5}), 422, "Validation"),
        ("/embed", json!({"inputs": "a", "dimensions": 0}), 422, "Validation"),
        ("/embed", json!({"inputs": "a", "dimensions": -1}), 422, "Validation"),
        ("/embed", json!({"inputs": "a", "prompt_name": "nothing"}), 422, "Validation"),
        ("/embed", json!({"inputs": "a", "normalize": "yes"}), 422, "Validation"),
        ("/embed", json!({"inputs": "a", "truncate": 1}), 422, "Validation"),
        ("/embed", json!({"inputs": "a", "truncation_direction": "up"}), 422, "Validation"),
        ("/embed", json!({"inputs": ["a", 1]}), 422, "Validation"),
        ("/embed", json!({"inputs": {"a": 1}}), 422, "Validation"),
        ("/embed", json!({}), 422, "Validation"),
        ("/embed", json!({"inputs": null}), 422, "Validation"),
        ("/embed", json!(["a"]), 400, "Validation"),
        ("/embed", json!({"inputs": "a", "model": "nobody"}), 404, "Validation"),
        ("/embed", json!({"inputs": "a", "model": 7}), 422, "Validation"),
        ("/embed", json!({"inputs": "a", "adapter_id": "broken"}), 422, "Validation"),
        ("/embed", json!({"inputs": "a", "model": "law", "adapter_id": "team/medical"}), 409, "Validation"),
        ("/law/embed", json!({"inputs": "a", "lora_name": "team/medical"}), 409, "Validation"),
        ("/nobody/embed", json!({"inputs": "a"}), 404, "Validation"),
        ("/%FF/embed", json!({"inputs": "a"}), 400, "Validation"),
        ("/embed_all", json!({"inputs": []}), 400, "Empty"),
        ("/nobody/embed_all", json!({"inputs": "a"}), 404, "Validation"),
        ("/similarity", json!({"inputs": {"source_sentence": "a", "sentences": []}}), 400, "Empty"),
        ("/similarity", json!({"inputs": {"source_sentence": "", "sentences": ["a"]}}), 400, "Empty"),
        ("/similarity", json!({"inputs": {"source_sentence": "a"}}), 422, "Validation"),
        ("/similarity", json!({"inputs": ["a", ["b"]]}), 422, "Validation"),
        ("/similarity", json!({"inputs": {"source_sentence": "a", "sentences": "b"}}), 422, "Validation"),
        (
            "/similarity",
            json!({"inputs": {"source_sentence": "a", "sentences": ["b", "c", "d", "e"]}}),
            413,
            "Validation",
        ),
        (
            "/similarity",
            json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": []}),
            422,
            "Validation",
        ),
        ("/tokenize", json!({"inputs": []}), 400, "Empty"),
        ("/tokenize", json!({"inputs": ""}), 400, "Empty"),
        ("/tokenize", json!({"inputs": [1]}), 422, "Validation"),
        ("/tokenize", json!({"inputs": "untokenisable"}), 422, "Tokenizer"),
        ("/tokenize", json!({"inputs": "a", "prompt_name": "nothing"}), 422, "Validation"),
        ("/tokenize", json!({"inputs": ["a", "b", "c", "d", "e"]}), 413, "Validation"),
        ("/nobody/tokenize", json!({"inputs": "a"}), 404, "Validation"),
        ("/decode", json!({"ids": []}), 400, "Empty"),
        ("/decode", json!({"ids": [[]]}), 400, "Empty"),
        ("/decode", json!({"ids": "a"}), 422, "Validation"),
        ("/decode", json!({"ids": [30522]}), 422, "Validation"),
        ("/decode", json!({}), 422, "Validation"),
        ("/rerank", json!({"query": "a", "texts": ["b"]}), 424, "Backend"),
        ("/predict", json!({"inputs": "a"}), 424, "Backend"),
        ("/embed_sparse", json!({"inputs": "a"}), 424, "Backend"),
        ("/law/rerank", json!({"query": "a", "texts": ["b"]}), 424, "Backend"),
        ("/decode", json!({"ids": [1], "adapter_id": "nobody"}), 404, "Validation"),
    ] {
        let server = Server::new();
        let reply = server.post_to(path, body.to_string()).await;
        assert_eq!(told(&reply), (status, kind.into()), "{path} {body}: {}", reply.text);
        assert!(server.computed().is_empty(), "{body}");
    }
}

#[tokio::test]
async fn each_failure_of_the_engine_has_its_status_and_type() {
    for (error, status, kind) in [
        (EmbedError::Overloaded { limit: 3 }, 429, "Overloaded"),
        (EmbedError::QueueFull { limit: 3 }, 429, "Overloaded"),
        (EmbedError::ShuttingDown, 503, "Unhealthy"),
        (EmbedError::Internal { reason: "it".into() }, 424, "Backend"),
        (EmbedError::Tokenize { index: 0, reason: "it".into() }, 422, "Tokenizer"),
        (EmbedError::TooManyTokens { found: 9, max: 8 }, 413, "Validation"),
        (EmbedError::AdapterTooLarge { bytes: 2, pool_bytes: 1 }, 422, "Validation"),
    ] {
        let server = Server::in_mood(Mood::Fails(error.clone()));
        let reply = server.post_to("/embed", json!({"inputs": "a"}).to_string()).await;
        assert_eq!(told(&reply), (status, kind.into()), "{error:?}");
        assert_eq!(reply.header("retry-after").is_some(), [429, 503].contains(&status), "{error:?}");
    }
    let server = Server::in_mood(Mood::Fails(EmbedError::Overloaded { limit: 3 }));
    let reply = server.post_to("/embed", json!({"inputs": "a"}).to_string()).await;
    insta::assert_snapshot!(reply.text, @r#"{"error":"Model is overloaded: 3 requests are in flight, which is the limit: try again shortly","error_type":"Overloaded"}"#);
}

#[tokio::test]
async fn an_engine_that_answers_nonsense_is_the_backends_fault() {
    for mood in [Mood::GivesNan, Mood::LosesRows] {
        for path in ["/embed", "/embed_all"] {
            let server = Server::in_mood(mood.clone());
            let reply = server.post_to(path, json!({"inputs": "a"}).to_string()).await;
            assert_eq!(told(&reply), (424, "Backend".into()), "{mood:?}");
        }
    }
    let reply = Server::in_mood(Mood::Panics).post_to("/embed", json!({"inputs": "a"}).to_string()).await;
    assert_eq!(told(&reply), (500, "Backend".into()));
}

#[tokio::test]
async fn an_error_has_teis_form_with_what_to_do() {
    let reply = Server::new().post_to("/embed", json!({"inputs": ["a", ""]}).to_string()).await;
    insta::assert_snapshot!(reply.text, @r#"{"error":"input 1 is empty: every input needs at least one character or token id","error_type":"Empty"}"#);
    let reply = Server::new().post_to("/nobody/embed", json!({"inputs": "a"}).to_string()).await;
    insta::assert_snapshot!(reply.text, @r#"{"error":"no model or adapter named `nobody` is served; GET /v1/models lists those that are","error_type":"Validation"}"#);
    let body = json!({"inputs": "a", "adapter_id": "law", "lora_name": "team/medical"});
    let reply = Server::new().post_to("/embed", body.to_string()).await;
    insta::assert_snapshot!(reply.text, @r#"{"error":"`adapter_id` names the adapter `law` and `lora_name` names `team/medical`: name one adapter","error_type":"Validation"}"#);
}

#[tokio::test]
async fn what_is_found_before_a_handler_is_told_in_its_words_too() {
    let server = Server::new();
    for body in ["", "{", "{\"inputs\": \"a\"} {}"] {
        assert_eq!(told(&server.post_to("/embed", body).await), (400, "Validation".into()), "{body}");
    }
    let plain = Request::post("/embed").header(header::CONTENT_TYPE, "text/plain");
    let reply = server.send(plain.body(Body::from("{}")).expect("a request")).await;
    assert_eq!(told(&reply), (415, "Validation".into()));
    let wrong = Request::builder().method(Method::DELETE).uri("/law/embed");
    let reply = server.send(wrong.body(Body::empty()).expect("a request")).await;
    assert_eq!(told(&reply), (405, "Validation".into()));
    assert_eq!(reply.header("allow"), Some("POST"));

    let settings = Settings { payload_limit: ByteSize(20), ..Settings::default() };
    let small = Server::with(FakeEngine::default(), settings);
    let reply = small.post_to("/embed", json!({"inputs": "a".repeat(30)}).to_string()).await;
    assert_eq!(told(&reply), (413, "Validation".into()));

    let api_key = vec![parse_setting("s3cret").expect("a key")];
    let locked = Server::with(FakeEngine::default(), Settings { api_key, ..Settings::default() });
    for path in ["/info", "/law/info"] {
        let reply = locked.get(path).await;
        assert_eq!(told(&reply), (401, "Validation".into()));
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    // Elsewhere the words stay OpenAI's.
    assert_eq!(locked.get("/v1/models").await.error().0, 401);
    assert_eq!(server.get("/law/nothing").await.error().0, 404);
}
