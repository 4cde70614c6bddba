//! What a good request gets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use polylora_engine::EmbedInput;
use polylora_server::settings::Settings;
use serde_json::json;

use crate::fake_engine::{BASE, CATALOGUE_ALIAS, FakeEngine, Server, expected};

#[tokio::test]
async fn a_reply_has_openais_form() {
    let reply = Server::new().post(json!({"input": "one text", "model": BASE}).to_string()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    insta::assert_snapshot!(reply.text, @r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,0.0,-0.5,1e-20]}],"model":"all-MiniLM-L6-v2","usage":{"prompt_tokens":4,"total_tokens":4}}"#);
}

#[tokio::test]
async fn a_reply_in_base64_has_openais_form() {
    let body = json!({"input": ["a", "b"], "model": "law", "encoding_format": "base64"});
    let reply = Server::new().post(body.to_string()).await;
    insta::assert_snapshot!(reply.text, @r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":"zczMPQAAQEAAAAC/COU8Hg=="},{"object":"embedding","index":1,"embedding":"zcyMPwAAQEAAAAC/COU8Hg=="}],"model":"law","usage":{"prompt_tokens":6,"total_tokens":6}}"#);
}

#[tokio::test]
async fn base64_is_the_same_floats_in_little_endian() {
    let server = Server::new();
    let reply = server
        .post(json!({"input": ["a", "b"], "model": BASE, "encoding_format": "base64"}).to_string())
        .await;
    for (index, object) in reply.json()["data"].as_array().expect("a list").iter().enumerate() {
        let bytes = STANDARD.decode(object["embedding"].as_str().expect("a string")).expect("base64");
        let floats: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(floats, expected(index, None));
    }
}

#[tokio::test]
async fn every_shape_of_input_reaches_the_engine() {
    let text = |text: &str| EmbedInput::Text(text.into());
    for (input, inputs) in [
        (json!("a"), vec![text("a")]),
        (json!(["a", "b"]), vec![text("a"), text("b")]),
        (json!([101, 102]), vec![EmbedInput::Tokens(vec![101, 102])]),
        (json!([[101], [7, 102]]), vec![EmbedInput::Tokens(vec![101]), EmbedInput::Tokens(vec![7, 102])]),
    ] {
        let server = Server::new();
        let reply = server.post(json!({"input": input, "model": BASE}).to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json()["data"].as_array().map(Vec::len), Some(inputs.len()));
        assert_eq!(server.computed()[0].inputs, inputs);
    }
}

#[tokio::test]
async fn the_base_answers_to_all_its_names_and_adapters_to_theirs() {
    let settings = Settings {
        served_model_name: vec!["mini".into(), "text-embedding-3-small".into()],
        ..Settings::default()
    };
    for (body, adapter, echoed) in [
        (json!({"model": BASE}), None, BASE),
        (json!({"model": CATALOGUE_ALIAS}), None, CATALOGUE_ALIAS),
        (json!({"model": "text-embedding-3-small"}), None, "text-embedding-3-small"),
        (json!({}), None, "mini"),
        (json!({"model": null, "lora_name": null, "lora_request": null}), None, "mini"),
        (json!({"model": "law"}), Some("law"), "law"),
        (json!({"model": "team/medical"}), Some("team/medical"), "team/medical"),
        (json!({"lora_name": "law"}), Some("law"), "law"),
        (json!({"model": "mini", "lora_name": "law"}), Some("law"), "mini"),
        (json!({"model": BASE, "lora_request": {"lora_name": "law", "lora_int_id": 1}}), Some("law"), BASE),
        (
            json!({"model": "law", "lora_name": "law", "lora_request": {"lora_name": "law"}}),
            Some("law"),
            "law",
        ),
    ] {
        let server = Server::with(FakeEngine::default(), settings.clone());
        let mut sent = body.clone();
        sent["input"] = json!("a");
        let reply = server.post(sent.to_string()).await;
        assert_eq!(reply.status, 200, "{body}: {}", reply.text);
        assert_eq!(reply.json()["model"], echoed, "{body}");
        assert_eq!(server.computed()[0].adapter.as_deref(), adapter, "{body}");
        let embedding = reply.json()["data"][0]["embedding"].clone();
        let floats: Vec<f32> = serde_json::from_value(embedding).expect("numbers");
        assert_eq!(floats, expected(0, adapter), "{body}");
    }
}

#[tokio::test]
async fn options_reach_the_engine_and_foreign_fields_are_ignored() {
    let server = Server::new();
    let body = json!({
        "input": "a", "model": BASE, "dimensions": 2, "prompt_name": "query", "encoding_format": "float",
        "user": {"any": "thing"}, "priority": 3, "unheard_of": [[[]]],
    });
    let reply = server.post(body.to_string()).await;
    assert_eq!(reply.json()["data"][0]["embedding"].as_array().map(Vec::len), Some(2), "{}", reply.text);
    let request = &server.computed()[0];
    assert_eq!((request.dimensions, request.prompt_name.as_deref()), (Some(2), Some("query")));
}

#[tokio::test]
async fn truncation_follows_the_setting_unless_the_request_says() {
    let long = "a b c d e f g h i j";
    for (auto_truncate, asked, truncates) in [
        (true, None, true),
        (false, None, false),
        (false, Some(-1), true),
        (false, Some(8), true),
        (true, Some(100), true),
    ] {
        let settings = Settings { auto_truncate, ..Settings::default() };
        let server = Server::with(FakeEngine::default(), settings);
        let reply = server.post(json!({"input": long, "truncate_prompt_tokens": asked}).to_string()).await;
        let case = format!("{auto_truncate} {asked:?}: {}", reply.text);
        if truncates {
            assert_eq!(reply.json()["usage"]["prompt_tokens"], 8, "{case}");
        } else {
            assert_eq!(
                reply.error(),
                (400, "context_length_exceeded".into(), Some("input[0]".into())),
                "{case}"
            );
        }
    }
}
