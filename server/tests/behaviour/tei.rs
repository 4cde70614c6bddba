//! What a good request gets in text-embeddings-inference's dialect.

use polylora_engine::{EmbedInput, RowOutput, TruncationSide};
use polylora_server::settings::Settings;
use serde_json::{Value, json};

use crate::fake_engine::{BASE, CATALOGUE_ALIAS, FakeEngine, Server, WIDTH, expected};

#[tokio::test]
async fn embed_answers_with_a_list_of_embeddings_also_for_one_input() {
    let server = Server::new();
    let reply = server.post_to("/embed", json!({"inputs": "one text"}).to_string()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    insta::assert_snapshot!(reply.text, @"[[0.1,0.0,-0.5,1e-20]]");
    let reply = server.post_to("/embed", json!({"inputs": ["a", "b"], "model": "law"}).to_string()).await;
    insta::assert_snapshot!(reply.text, @"[[0.1,3.0,-0.5,1e-20],[1.1,3.0,-0.5,1e-20]]");
}

#[tokio::test]
async fn every_shape_of_inputs_reaches_the_engine() {
    let text = |text: &str| EmbedInput::Text(text.into());
    for (inputs, read) in [
        (json!("a"), vec![text("a")]),
        (json!(["a", "b"]), vec![text("a"), text("b")]),
        (json!([101, 102]), vec![EmbedInput::Tokens(vec![101, 102])]),
        (json!([[101], [7, 102]]), vec![EmbedInput::Tokens(vec![101]), EmbedInput::Tokens(vec![7, 102])]),
    ] {
        let server = Server::new();
        let reply = server.post_to("/embed", json!({ "inputs": inputs }).to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json().as_array().map(Vec::len), Some(read.len()));
        assert_eq!(server.computed()[0].inputs, read);
    }
}

#[tokio::test]
async fn options_reach_the_engine_and_have_their_defaults() {
    for (options, truncate, side, output, dimensions) in [
        (json!({}), true, TruncationSide::Right, RowOutput::Normalized, None),
        (
            json!({"truncate": null, "truncation_direction": null, "normalize": null, "dimensions": null,
                   "prompt_name": null, "unheard_of": 1}),
            true,
            TruncationSide::Right,
            RowOutput::Normalized,
            None,
        ),
        (
            json!({"truncate": false, "truncation_direction": "right", "normalize": true}),
            false,
            TruncationSide::Right,
            RowOutput::Normalized,
            None,
        ),
        (
            json!({"truncate": true, "truncation_direction": "left", "normalize": false, "dimensions": 2}),
            true,
            TruncationSide::Left,
            RowOutput::Raw,
            Some(2),
        ),
        (json!({"truncation_direction": "Left"}), true, TruncationSide::Left, RowOutput::Normalized, None),
    ] {
        let server = Server::new();
        let mut body = options.clone();
        body["inputs"] = json!("a");
        let reply = server.post_to("/embed", body.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let request = &server.computed()[0];
        let found = (request.truncate, request.truncation_side, request.output, request.dimensions);
        assert_eq!(found, (truncate, side, output, dimensions), "{options}");
        assert_eq!(reply.json()[0].as_array().map(Vec::len), Some(dimensions.unwrap_or(WIDTH)));
    }
    let settings = Settings { auto_truncate: false, ..Settings::default() };
    let server = Server::with(FakeEngine::default(), settings);
    server.post_to("/embed", json!({"inputs": "a"}).to_string()).await;
    assert!(!server.computed()[0].truncate);
}

#[tokio::test]
async fn embeddings_that_are_not_normalised_are_the_engines_raw_ones() {
    let reply = Server::new().post_to("/embed", json!({"inputs": "a", "normalize": false}).to_string()).await;
    insta::assert_snapshot!(reply.text, @"[[1.0,0.0,-5.0,1e-19]]");
}

#[tokio::test]
async fn a_prompt_goes_in_front_of_token_ids_as_text() {
    let server = Server::new();
    let body = json!({"inputs": [[101, 7, 8, 102], [9]], "prompt_name": "query"});
    assert_eq!(server.post_to("/embed", body.to_string()).await.status, 200);
    let request = &server.computed()[0];
    assert_eq!(request.inputs, [EmbedInput::Text("7 8".into()), EmbedInput::Text("9".into())]);
    assert_eq!(request.prompt_name.as_deref(), Some("query"));
}

#[tokio::test]
async fn embed_all_answers_with_a_vector_for_each_token() {
    let server = Server::new();
    let body = json!({"inputs": ["a", "b"], "truncation_direction": "left"});
    let reply = server.post_to("/embed_all", body.to_string()).await;
    insta::assert_snapshot!(reply.text, @"[[[0.1,0.0,-0.5,1e-20]],[[1.1,0.0,-0.5,1e-20],[1.1,0.0,-0.5,1e-20]]]");
    let request = &server.computed()[0];
    assert_eq!((request.output, request.truncation_side), (RowOutput::Tokens, TruncationSide::Left));
}

#[tokio::test]
async fn similarity_is_the_cosine_with_the_source_sentence() {
    let server = Server::new();
    let body = json!({
        "inputs": {"source_sentence": "a", "sentences": ["b", "c"]},
        "parameters": {"truncate": false, "truncation_direction": "left", "prompt_name": "query"},
        "adapter_id": "law",
    });
    let reply = server.post_to("/similarity", body.to_string()).await;
    let found: Vec<f32> = serde_json::from_value(reply.json()).expect("numbers");
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let vectors: Vec<_> = (0..3).map(|index| expected(index, Some("law"))).collect();
    // The fake's vectors are longer than 1, which a cosine cannot be.
    assert_eq!(found, [1, 2].map(|other| dot(&vectors[0], &vectors[other]).min(1.0)));
    let request = &server.computed()[0];
    assert_eq!(request.inputs.len(), 3);
    assert_eq!((request.truncate, request.truncation_side), (false, TruncationSide::Left));
    assert_eq!((request.output, request.prompt_name.as_deref()), (RowOutput::Normalized, Some("query")));
    assert_eq!(request.adapter.as_deref(), Some("law"));
}

#[tokio::test]
async fn tokenize_tells_of_every_token() {
    let server = Server::new();
    let reply = server.post_to("/tokenize", json!({"inputs": "deep learning"}).to_string()).await;
    insta::assert_snapshot!(reply.text, @r#"[[{"id":101,"text":"[CLS]","special":true,"start":null,"stop":null},{"id":4,"text":"deep","special":false,"start":0,"stop":4},{"id":8,"text":"learning","special":false,"start":5,"stop":13},{"id":102,"text":"[SEP]","special":true,"start":null,"stop":null}]]"#);
    let body = json!({"inputs": ["a", "b c"], "add_special_tokens": false, "prompt_name": "query"});
    let reply = server.post_to("/tokenize", body.to_string()).await;
    let texts: Vec<Vec<String>> = reply
        .json()
        .as_array()
        .expect("lists")
        .iter()
        .map(|list| {
            let tokens = list.as_array().expect("tokens").iter();
            tokens.map(|token| token["text"].as_str().expect("a text").to_owned()).collect()
        })
        .collect();
    assert_eq!(texts, [vec!["query:", "a"], vec!["query:", "b", "c"]]);
}

#[tokio::test]
async fn decode_tells_the_texts_of_ids() {
    let server = Server::new();
    for (body, texts) in [
        (json!({"ids": [101, 7, 102]}), json!(["7"])),
        (json!({"ids": [[101, 7, 102], [8]], "skip_special_tokens": false}), json!(["101 7 102", "8"])),
    ] {
        let reply = server.post_to("/decode", body.to_string()).await;
        assert_eq!((reply.status.as_u16(), reply.json()), (200, texts));
    }
}

#[tokio::test]
async fn info_tells_of_model_and_bounds() {
    let reply = Server::new().get("/info").await;
    let mut info = reply.json();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    info["version"] = Value::Null;
    insta::assert_snapshot!(info, @r#"{"auto_truncate":true,"docker_label":null,"max_batch_requests":null,"max_batch_tokens":1024,"max_client_batch_size":4,"max_concurrent_requests":512,"max_input_length":8,"model_dtype":"float32","model_id":"all-MiniLM-L6-v2","model_sha":"0000000000000000000000000000000000000000000000000000000000000000","model_type":{"embedding":{"pooling":"mean"}},"served_model_name":"all-MiniLM-L6-v2","sha":null,"tokenization_workers":2,"version":null}"#);
}

#[tokio::test]
async fn path_and_fields_name_the_adapter() {
    let alias = CATALOGUE_ALIAS.replace('/', "%2F");
    for (path, fields, adapter) in [
        ("", json!({}), None),
        ("", json!({"model": BASE}), None),
        ("", json!({"model": "law"}), Some("law")),
        ("", json!({"adapter_id": "law"}), Some("law")),
        ("", json!({"lora_name": "law"}), Some("law")),
        ("", json!({"model": BASE, "adapter_id": "law", "lora_name": "law"}), Some("law")),
        ("/law", json!({}), Some("law")),
        ("/law", json!({"model": BASE}), Some("law")),
        ("/law", json!({"model": "law", "adapter_id": "law"}), Some("law")),
        ("/team%2Fmedical", json!({}), Some("team/medical")),
        (&format!("/{BASE}"), json!({}), None),
        (&format!("/{alias}"), json!({}), None),
        (&format!("/{BASE}"), json!({"adapter_id": "law"}), Some("law")),
    ] {
        for (endpoint, inputs) in [
            ("embed", json!("a")),
            ("embed_all", json!("a")),
            ("similarity", json!({"source_sentence": "a", "sentences": ["b"]})),
        ] {
            let server = Server::new();
            let mut body = fields.clone();
            body["inputs"] = inputs;
            let reply = server.post_to(&format!("{path}/{endpoint}"), body.to_string()).await;
            assert_eq!(reply.status, 200, "{path}/{endpoint} {fields}: {}", reply.text);
            assert_eq!(server.computed()[0].adapter.as_deref(), adapter, "{path}/{endpoint} {fields}");
        }
    }
    let server = Server::new();
    assert_eq!(server.get("/law/info").await.json()["served_model_name"], "law");
    assert_eq!(server.post_to("/law/tokenize", json!({"inputs": "a"}).to_string()).await.status, 200);
    assert_eq!(server.post_to("/law/decode", json!({"ids": [7]}).to_string()).await.json(), json!(["7"]));
}

#[tokio::test]
async fn timing_headers_are_whole_numbers_on_every_way_to_embed() {
    let server = Server::new();
    for (path, body) in [
        ("/embed", json!({"inputs": ["é b", "c"]})),
        ("/embed_all", json!({"inputs": "a"})),
        ("/similarity", json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}})),
        ("/v1/embeddings", json!({"input": "a"})),
        ("/embeddings", json!({"input": "a"})),
    ] {
        let reply = server.post_to(path, body.to_string()).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
        assert_eq!(reply.header("x-compute-type"), Some("cpu+optimized"));
        for name in [
            "x-compute-time",
            "x-compute-characters",
            "x-compute-tokens",
            "x-total-time",
            "x-tokenization-time",
            "x-queue-time",
            "x-inference-time",
        ] {
            let value = reply.header(name).unwrap_or_else(|| panic!("{path} has no {name}"));
            assert!(value.parse::<u64>().is_ok(), "{name}: {value}");
        }
    }
    let reply = server.post_to("/embed", json!({"inputs": ["é b", "c"]}).to_string()).await;
    assert_eq!(reply.header("x-compute-characters"), Some("4"));
    assert_eq!(reply.header("x-compute-tokens"), Some("7"));
}

#[tokio::test]
async fn the_unversioned_path_answers_as_openais() {
    let (server, body) = (Server::new(), json!({"input": "a", "model": "law"}).to_string());
    let versioned = server.post_to("/v1/embeddings", body.clone()).await;
    assert_eq!(server.post_to("/embeddings", body).await.text, versioned.text);
}
