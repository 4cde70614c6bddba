//! What a bad request gets: always an OpenAI error object, never plain text, never silently the base.

use axum::body::Body;
use axum::http::{Method, Request, header};
use polylora_engine::EmbedError;
use polylora_server::settings::{ByteSize, Settings};
use serde_json::json;

use crate::fake_engine::{BASE, FakeEngine, Mood, Server};

#[tokio::test]
async fn an_error_has_openais_form() {
    let reply = Server::new().post(json!({"input": "a", "model": "nobody"}).to_string()).await;
    assert_eq!(reply.status, 404);
    insta::assert_snapshot!(reply.text, @r#"{"error":{"message":"no model or adapter named `nobody` is served; GET /v1/models lists those that are","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#);
    let reply = Server::new().post(json!({"input": "a", "model": "broken"}).to_string()).await;
    assert_eq!(reply.status, 400);
    insta::assert_snapshot!(reply.text, @r#"{"error":{"message":"adapter `broken` is refused: adapter_config.json: r is 0, expected at least 1","type":"invalid_request_error","param":"model","code":"adapter_invalid"}}"#);
}

#[tokio::test]
async fn an_unknown_name_computes_nothing_wherever_it_stands() {
    let long = "x".repeat(10_000);
    for (body, param) in [
        (json!({"model": "nobody"}), "model"),
        (json!({"model": ""}), "model"),
        (json!({"model": "ALL-MINILM-L6-V2"}), "model"),
        (json!({"model": BASE, "lora_name": "nobody"}), "lora_name"),
        (json!({"lora_name": BASE}), "lora_name"),
        (json!({"lora_request": {"lora_name": "nobody"}}), "lora_request.lora_name"),
        (json!({"model": long}), "model"),
    ] {
        let server = Server::new();
        let mut sent = body.clone();
        sent["input"] = json!("a");
        let reply = server.post(sent.to_string()).await;
        assert_eq!(reply.error(), (404, "model_not_found".into(), Some(param.into())), "{body}");
        assert!(server.computed().is_empty(), "{body}");
        assert!(reply.text.len() < 600, "{}", reply.text);
    }
}

#[tokio::test]
async fn fields_that_name_two_adapters_are_refused_with_both() {
    let server = Server::new();
    for body in [
        json!({"input": "a", "model": "law", "lora_name": "team/medical"}),
        json!({"input": "a", "model": "law", "lora_request": {"lora_name": "team/medical"}}),
        json!({"input": "a", "lora_name": "law", "lora_request": {"lora_name": "team/medical"}}),
    ] {
        let reply = server.post(body.to_string()).await;
        assert_eq!((reply.error().0, reply.error().1.as_str()), (400, "conflicting_adapters"));
        assert!(
            reply.message().contains("`law`") && reply.message().contains("`team/medical`"),
            "{}",
            reply.text
        );
    }
    assert!(server.computed().is_empty());
}

#[tokio::test]
async fn each_mistake_has_its_status_code_and_param() {
    for (body, status, code, param) in [
        (json!({"input": []}), 400, "no_inputs", Some("input")),
        (json!({"input": ""}), 400, "empty_input", Some("input[0]")),
        (json!({"input": ["a", ""]}), 400, "empty_input", Some("input[1]")),
        (json!({"input": [[1], []]}), 400, "empty_input", Some("input[1]")),
        (json!({"input": ["a", "b", "c", "d", "e"]}), 400, "too_many_inputs", Some("input")),
        (json!({"input": [30522]}), 400, "token_out_of_vocabulary", Some("input[0]")),
        (json!({"input": "a", "dimensions": 0}), 400, "dimensions_out_of_range", Some("dimensions")),
        (json!({"input": "a", "dimensions": 5}), 400, "dimensions_out_of_range", Some("dimensions")),
        (json!({"input": "a", "dimensions": -1}), 400, "invalid_value", Some("dimensions")),
        (json!({"input": "a", "dimensions": "2"}), 400, "invalid_value", Some("dimensions")),
        (json!({"input": "a", "prompt_name": "nothing"}), 400, "unknown_prompt", Some("prompt_name")),
        (json!({"input": "a", "encoding_format": "int8"}), 400, "invalid_value", Some("encoding_format")),
        (
            json!({"input": "a", "truncate_prompt_tokens": 3}),
            400,
            "unsupported_value",
            Some("truncate_prompt_tokens"),
        ),
        (
            json!({"input": "a", "truncate_prompt_tokens": -2}),
            400,
            "unsupported_value",
            Some("truncate_prompt_tokens"),
        ),
        (json!({"input": "a", "model": 7}), 400, "invalid_value", Some("model")),
        (json!({"input": "a", "lora_request": {}}), 400, "invalid_value", Some("lora_request")),
        (
            json!({"input": "a", "lora_request": {"lora_name": 1}}),
            400,
            "invalid_value",
            Some("lora_request.lora_name"),
        ),
        (json!({"input": ["a", 1]}), 400, "invalid_value", Some("input[1]")),
        (json!({"input": [[1, 2], [3, -4]]}), 400, "invalid_value", Some("input[1][1]")),
        (json!({"input": {"text": "a"}}), 400, "invalid_value", Some("input")),
        (json!({"input": null}), 400, "missing_required_parameter", Some("input")),
        (json!({"model": BASE}), 400, "missing_required_parameter", Some("input")),
        (json!(["a"]), 400, "invalid_json", None),
        (json!("a"), 400, "invalid_value", None),
    ] {
        let server = Server::new();
        let reply = server.post(body.to_string()).await;
        assert_eq!(reply.error(), (status, code.into(), param.map(str::to_owned)), "{body}: {}", reply.text);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
        assert!(server.computed().is_empty(), "{body}");
    }
}

#[tokio::test]
async fn malformed_json_is_told_with_line_and_column() {
    let server = Server::new();
    for (body, said) in [
        ("", "EOF"),
        ("{", "line 1 column"),
        ("{\"input\": \"a\",\n  \"model\" \"b\"}", "line 2 column"),
        ("{\"input\": \"a\"} {}", "trailing"),
        ("{\"input\": \"\\ud800\"}", "line 1 column"),
        ("{\"input\": NaN}", "line 1 column"),
    ] {
        let reply = server.post(body.to_owned()).await;
        assert_eq!(reply.error(), (400, "invalid_json".into(), None), "{:.100}: {}", body, reply.text);
        assert!(reply.message().contains(said), "{}", reply.text);
    }
    let reply = server.post(b"{\"input\": \"\xff\"}".to_vec()).await;
    assert_eq!(reply.error().0, 400);
    let reply = server.post("{\n\"input\": \"a\",\n\"dimensions\": \"two\"}").await;
    assert!(
        reply.message().starts_with("`dimensions` must be a whole number above 0 at line 3"),
        "{}",
        reply.text
    );
}

#[tokio::test]
async fn a_value_of_the_wrong_kind_is_told_with_what_was_expected() {
    for (field, wrong, expected) in [
        ("encoding_format", vec![json!(7), json!({}), json!([]), json!("int8")], r#""float" or "base64""#),
        (
            "dimensions",
            vec![json!("2"), json!(-1), json!(1.5), json!(1e30), json!([])],
            "a whole number above 0",
        ),
        (
            "lora_request",
            vec![json!("law"), json!(["law"]), json!(7), json!(true)],
            "an object with lora_name",
        ),
        ("truncate_prompt_tokens", vec![json!("all"), json!(0.5)], "a whole number of tokens, or -1"),
        ("model", vec![json!(7), json!({}), json!([])], "a string"),
    ] {
        for wrong in wrong {
            let server = Server::new();
            let reply = server.post(json!({"input": "a", field: wrong}).to_string()).await;
            assert_eq!(reply.error(), (400, "invalid_value".into(), Some(field.into())), "{}", reply.text);
            let said = format!("`{field}` must be {expected} at line 1 column ");
            assert!(reply.message().starts_with(&said), "{said}: {}", reply.text);
        }
    }
    let reply = Server::new().post(json!({"input": "a", "dimensions": "a, expected b"}).to_string()).await;
    assert!(reply.message().ends_with(r#"found string "a, expected b""#), "{}", reply.text);
}

#[tokio::test]
async fn a_body_that_is_not_utf_8_is_refused_wherever_the_fault_lies() {
    let server = Server::new();
    for body in [
        &b"{\"input\": \"a\xff\"}"[..],
        b"{\"input\": \"a\", \"x\": \"\xff\"}",
        b"{\"input\": \"a\", \"\xff\": 1}",
    ] {
        let reply = server.post(body.to_vec()).await;
        assert_eq!(reply.error(), (400, "invalid_json".into(), None), "{}", reply.text);
        assert!(reply.message().contains("is not UTF-8"), "{}", reply.text);
    }
    assert!(server.computed().is_empty());
}

#[tokio::test]
async fn nesting_a_hundred_thousand_deep_does_no_harm() {
    let server = Server::new();
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let reply = server.post(format!("{{\"input\": {open}{close}}}")).await;
    assert_eq!(reply.error(), (400, "invalid_value".into(), Some("input[0][0]".into())));
    let objects = "{\"lora_name\": ".repeat(100_000);
    let reply = server.post(format!("{{\"input\": \"a\", \"lora_request\": {objects}")).await;
    assert_eq!(reply.error().0, 400);
    let reply = server.post(format!("{{\"input\": \"a\", \"x\": {open}")).await;
    assert_eq!(reply.error(), (400, "invalid_json".into(), None));
    // What is ignored is skipped without a stack, however deep.
    assert_eq!(server.post(format!("{{\"input\": \"a\", \"x\": {open}{close}}}")).await.status, 200);
}

#[tokio::test]
async fn a_quoted_text_makes_no_long_message() {
    let reply =
        Server::new().post(json!({"input": "a", "dimensions": "x".repeat(100_000)}).to_string()).await;
    assert_eq!(reply.error().1, "invalid_value");
    assert!(reply.text.len() < 1500);
}

#[tokio::test]
async fn a_body_that_is_no_json_by_its_type_is_refused() {
    let server = Server::new();
    for content_type in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx")]
    {
        let mut request = Request::post("/v1/embeddings");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let reply = server.send(request.body(Body::from("{\"input\":\"a\"}")).expect("a request")).await;
        assert_eq!(reply.error(), (415, "unsupported_media_type".into(), None));
        assert!(reply.message().contains("Content-Type: application/json"));
    }
    let request =
        Request::post("/v1/embeddings").header(header::CONTENT_TYPE, "Application/JSON; charset=utf-8");
    let reply = server.send(request.body(Body::from("{\"input\":\"a\"}")).expect("a request")).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_with_or_without_a_length() {
    let settings = Settings { payload_limit: ByteSize(100), ..Settings::default() };
    let server = Server::with(FakeEngine::default(), settings);
    let body = |length: usize| {
        let frame = json!({"input": ""}).to_string().len();
        json!({"input": "x".repeat(length - frame)}).to_string()
    };
    assert_eq!(server.post(body(100)).await.status, 200);
    let reply = server.post(body(101)).await;
    assert_eq!(reply.error(), (413, "payload_too_large".into(), None));
    assert!(reply.message().contains("100 bytes") && reply.message().contains("--payload-limit"));
    let request = Request::post("/v1/embeddings")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, "101");
    let reply = server.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(reply.error().0, 413);
    assert_eq!(server.computed().len(), 1);
}

#[tokio::test]
async fn wrong_methods_and_paths_are_error_objects_too() {
    let server = Server::new();
    let reply = server.get("/v1/embeddings").await;
    assert_eq!(reply.error(), (405, "method_not_allowed".into(), None));
    assert_eq!(reply.header("allow"), Some("POST"));
    let request = Request::builder().method(Method::DELETE).uri("/v1/models").body(Body::empty());
    assert_eq!(server.send(request.expect("a request")).await.error().0, 405);
    for path in ["/v1/embedding", "/v1/embeddings/", "/v1", "/favicon.ico", "/v1/models/"] {
        assert_eq!(server.get(path).await.error(), (404, "unknown_url".into(), None), "{path}");
    }
}

#[tokio::test]
async fn the_engines_own_troubles_have_their_statuses() {
    for (error, status, code, retry_after) in [
        (EmbedError::Overloaded { limit: 512 }, 429, "rate_limit_exceeded", Some("1")),
        (EmbedError::QueueFull { limit: 9 }, 429, "rate_limit_exceeded", Some("1")),
        (EmbedError::AdapterTooLarge { bytes: 2, pool_bytes: 1 }, 400, "adapter_too_large", None),
        (EmbedError::ShuttingDown, 503, "shutting_down", Some("1")),
        (EmbedError::Internal { reason: "the device is gone".into() }, 500, "internal_error", None),
        (EmbedError::Tokenize { index: 0, reason: "odd".into() }, 400, "tokenization_failed", None),
    ] {
        let reply = Server::in_mood(Mood::Fails(error)).post(json!({"input": "a"}).to_string()).await;
        assert_eq!((reply.error().0, reply.error().1.as_str()), (status, code));
        assert_eq!(reply.header("retry-after"), retry_after, "{code}");
    }
}

#[tokio::test]
async fn a_panic_a_nan_and_a_lost_row_are_500_for_that_request() {
    for mood in [Mood::Panics, Mood::GivesNan, Mood::LosesRows] {
        for format in ["float", "base64"] {
            let server = Server::in_mood(mood.clone());
            let reply = server.post(json!({"input": "a", "encoding_format": format}).to_string()).await;
            assert_eq!(reply.error(), (500, "internal_error".into(), None), "{mood:?}");
            assert!(!reply.text.contains("the fake engine panics"));
            assert!(reply.header("x-request-id").is_some());
            assert_eq!(server.get("/health").await.status, 200);
        }
    }
}
