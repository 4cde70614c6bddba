//! What requests to `/generate`, `/generate_stream` and `POST /` get, in text-generation-inference's words.

use polylora_engine::{GenerateError, SamplingRequest};
use serde_json::{Value, json};

use crate::fake_llm::{CONTEXT, LLM, LlmMood};
use crate::llm_server::LlmServer;

#[tokio::test]
async fn a_reply_has_tgis_form() {
    let server = LlmServer::new();
    let reply = server.reply("/generate", &json!({"inputs": "a b"})).await;
    assert_eq!(reply, json!({"generated_text": " red0 green0 blue0 grey0"}));
    let parameters = json!({"details": true, "decoder_input_details": true, "max_new_tokens": 2, "seed": 7,
                            "return_full_text": true, "top_n_tokens": 1, "return_k_alternatives": 1});
    let reply = server.reply("/generate", &json!({"inputs": "a b", "parameters": parameters})).await;
    insta::assert_snapshot!(reply, @r#"{"details":{"finish_reason":"length","generated_tokens":2,"prefill":[{"id":1,"logprob":null,"text":"a"},{"id":1,"logprob":-0.5,"text":"b"}],"prompt_tokens":2,"seed":7,"tokens":[{"alternative_tokens":[{"id":100,"logprob":-0.5,"text":" red0"}],"id":100,"logprob":-0.5,"special":false,"text":" red0"},{"alternative_tokens":[{"id":101,"logprob":-0.5,"text":" green0"}],"id":101,"logprob":-0.5,"special":false,"text":" green0"}],"top_tokens":[[{"id":100,"logprob":-0.5,"text":" red0"}],[{"id":101,"logprob":-0.5,"text":" green0"}]]},"generated_text":"a b red0 green0"}"#);
    let list = server.reply("/", &json!({"inputs": "a b"})).await;
    assert_eq!(list, json!([{"generated_text": " red0 green0 blue0 grey0"}]));
}

#[tokio::test]
async fn a_stream_has_tgis_form() {
    let body = json!({"inputs": "a b", "parameters": {"details": true, "max_new_tokens": 3}});
    let server = LlmServer::new();
    let (events, done) = server.events("/generate_stream", &body).await;
    assert!(!done, "the last token ends it");
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
{"details":null,"generated_text":null,"index":1,"token":{"id":100,"logprob":-0.5,"special":false,"text":""}}
{"details":null,"generated_text":null,"index":2,"token":{"id":101,"logprob":-0.5,"special":false,"text":" red0 green0"}}
{"details":{"finish_reason":"length","generated_tokens":3,"prompt_tokens":2,"seed":null},"generated_text":" red0 green0 blue0","index":3,"token":{"id":102,"logprob":-0.5,"special":false,"text":" blue0"}}
"#);
    assert_eq!(server.events("/", &body).await.0, events);
}

#[tokio::test]
async fn pieces_put_together_are_the_whole_text_whatever_ends_it() {
    for (parameters, finish) in [
        (json!({}), "eos_token"),
        (json!({"max_new_tokens": 2}), "length"),
        (json!({"stop": ["blue"]}), "stop_sequence"),
        (json!({"adapter_id": "pirate", "return_full_text": true}), "eos_token"),
    ] {
        let mut parameters = parameters.clone();
        parameters["details"] = json!(true);
        let body = json!({"inputs": "a b", "parameters": parameters});
        let server = LlmServer::new();
        let whole = server.reply("/generate", &body).await;
        assert_eq!(whole["details"]["finish_reason"], finish, "{body}");
        let (events, _) = server.events("/generate_stream", &body).await;
        let (last, before) = events.split_last().expect("events");
        assert!(before.iter().all(|event| event["generated_text"].is_null() && event["details"].is_null()));
        assert_eq!(last["generated_text"], whole["generated_text"]);
        assert_eq!(last["details"]["finish_reason"], finish);
        assert_eq!(last["details"]["generated_tokens"], whole["details"]["generated_tokens"]);
        let texts = events.iter().map(|event| &event["token"]).filter(|token| token["special"] == false);
        let text: String = texts.filter_map(|token| token["text"].as_str()).collect();
        assert!(whole["generated_text"].as_str().expect("a text").ends_with(&text), "{text}");
        let ids = |tokens: Vec<&Value>| tokens.iter().map(|token| token["id"].clone()).collect::<Vec<_>>();
        let streamed = ids(events.iter().map(|event| &event["token"]).collect());
        assert_eq!(streamed, ids(whole["details"]["tokens"].as_array().expect("tokens").iter().collect()));
        let indices: Vec<_> = events.iter().map(|event| event["index"].clone()).collect();
        assert_eq!(indices, (1..=events.len()).map(|index| json!(index)).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_likeliest_tokens_are_taken_unless_something_asks_to_draw() {
    let plain = SamplingRequest {
        temperature: Some(0.0),
        top_p: Some(1.0),
        top_k: Some(0),
        min_p: Some(0.0),
        repetition_penalty: Some(1.0),
        presence_penalty: Some(0.0),
        frequency_penalty: Some(0.0),
        include_stop_str_in_output: true,
        skip_special_tokens: true,
        logprobs: Some(0),
        ..SamplingRequest::default()
    };
    for (parameters, expected) in [
        (json!(null), plain.clone()),
        (json!({"do_sample": true}), SamplingRequest { temperature: Some(1.0), ..plain.clone() }),
        (json!({"seed": u64::MAX}), SamplingRequest { seed: Some(-1), ..plain.clone() }),
        (json!({"top_k": 5}), SamplingRequest { temperature: Some(1.0), top_k: Some(5), ..plain.clone() }),
        (json!({"temperature": 0.5}), SamplingRequest { temperature: Some(0.5), ..plain.clone() }),
        (
            json!({"max_new_tokens": 3, "stop": ["x"], "ignore_eos_token": true, "seed": 1, "best_of": 1,
                   "truncate": null, "watermark": false, "typical_p": 1.0, "adapter_source": "hub"}),
            SamplingRequest {
                max_tokens: Some(3),
                stop: vec!["x".into()],
                ignore_eos: true,
                seed: Some(1),
                ..plain.clone()
            },
        ),
    ] {
        let server = LlmServer::new();
        server.reply("/generate", &json!({"inputs": "a", "parameters": parameters})).await;
        assert_eq!(server.asked()[0].sampling, expected, "{parameters}");
    }
}

#[tokio::test]
async fn the_adapter_is_named_by_adapter_id() {
    for (id, adapter) in
        [(json!("pirate"), Some("pirate")), (json!(LLM), None), (json!(null), None), (json!(""), None)]
    {
        let server = LlmServer::new();
        server.reply("/generate", &json!({"inputs": "a", "parameters": {"adapter_id": id}})).await;
        assert_eq!(server.asked()[0].adapter.as_deref(), adapter);
    }
}

#[tokio::test]
async fn errors_have_tgis_form_wherever_they_are_found() {
    let long = "a ".repeat(CONTEXT + 1);
    for (body, status, said) in [
        (json!({}), 422, "`inputs`"),
        (json!({"inputs": 7}), 422, "`inputs`"),
        (json!({"inputs": ""}), 422, "empty"),
        (json!({"inputs": long}), 422, "maximum context length is 24 tokens"),
        (json!({"inputs": "a", "parameters": {"max_new_tokens": -1}}), 422, "`parameters.max_new_tokens`"),
        (json!({"inputs": "a", "parameters": {"seed": -1}}), 422, "`parameters.seed`"),
        (json!({"inputs": "a", "parameters": {"max_new_tokens": 0}}), 422, "`parameters.max_new_tokens`"),
        (json!({"inputs": "a", "parameters": {"truncate": 3}}), 422, "`parameters.truncate`"),
        (json!({"inputs": "a", "parameters": {"watermark": true}}), 422, "`parameters.watermark`"),
        (json!({"inputs": "a", "parameters": {"grammar": {"type": "json"}}}), 422, "`parameters.grammar`"),
        (json!({"inputs": "a", "parameters": {"best_of": 2}}), 422, "`parameters.best_of`"),
        (json!({"inputs": "a", "parameters": {"typical_p": 0.5}}), 422, "`parameters.typical_p`"),
        (json!({"inputs": "a", "parameters": []}), 422, "`parameters`"),
        (json!({"inputs": "a", "parameters": {"temperature": -1}}), 422, "temperature"),
        (json!({"inputs": "a", "parameters": {"adapter_id": "nobody"}}), 404, "`nobody`"),
        (json!({"inputs": "a", "parameters": {"adapter_id": "law"}}), 422, "`law` makes embeddings"),
        (json!(["a"]), 400, "a list"),
    ] {
        for path in ["/generate", "/generate_stream", "/"] {
            let reply = LlmServer::new().post(path, &body).await;
            let json = reply.json();
            assert_eq!(
                (reply.status.as_u16(), &json["error_type"]),
                (status, &json!("validation")),
                "{body}"
            );
            assert!(json["error"].as_str().is_some_and(|error| error.contains(said)), "{body}: {json}");
            assert_eq!(json.as_object().map(serde_json::Map::len), Some(2));
        }
    }
    let details = json!({"inputs": "a", "parameters": {"details": true, "decoder_input_details": true}});
    let reply = LlmServer::new().post("/generate_stream", &details).await;
    assert!(reply.status == 422 && reply.text.contains("decoder_input_details"), "{}", reply.text);
    let full = LlmServer::in_mood(LlmMood::Fails(GenerateError::Overloaded { limit: 3 }));
    let reply = full.post("/generate", &json!({"inputs": "a"})).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error_type"]), (429, &json!("overloaded")));
    assert_eq!(reply.header("retry-after"), Some("1"));
    // The page at the same path, and other paths, keep their words.
    assert_eq!(full.server.get("/").await.json()["name"], "polylora");
    let wrong = full.server.get("/generate").await;
    assert_eq!((wrong.status.as_u16(), &wrong.json()["error_type"]), (405, &json!("validation")));
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_is_its_last_event() {
    let error = GenerateError::Internal { reason: "the device is gone".into() };
    let server = LlmServer::in_mood(LlmMood::FailsAfter(1, error));
    let (events, done) = server.events("/generate_stream", &json!({"inputs": "a"})).await;
    assert_eq!((events.len(), done), (2, false));
    assert_eq!(events[1]["error_type"], "generation");
    assert!(events[1]["error"].as_str().is_some_and(|error| error.contains("the device is gone")));
}
