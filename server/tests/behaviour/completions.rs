//! What a good request to `/v1/completions` gets.

use polylora_engine::{Prompt, SamplingRequest};
use serde_json::{Value, json};

use crate::fake_llm::{FakeLlm, LLM, LLM_ALIAS, version};
use crate::llm_server::LlmServer;

const PATH: &str = "/v1/completions";

fn texts(reply: &Value) -> Vec<&str> {
    reply["choices"]
        .as_array()
        .expect("choices")
        .iter()
        .filter_map(|choice| choice["text"].as_str())
        .collect()
}

#[tokio::test]
async fn a_reply_has_openais_form() {
    let server = LlmServer::new();
    let reply = server.reply(PATH, &json!({"model": LLM, "prompt": "a b c d", "max_tokens": 2})).await;
    insta::assert_snapshot!(reply, @r#"{"choices":[{"finish_reason":"length","index":0,"logprobs":null,"stop_reason":null,"text":" red0 green0"}],"model":"tiny-llm","object":"text_completion","system_fingerprint":"fp_abababababab","usage":{"completion_tokens":2,"prompt_tokens":4,"prompt_tokens_details":{"cached_tokens":2},"total_tokens":6}}"#);
    let reply = server.reply(PATH, &json!({"model": "pirate", "prompt": "a b", "stop": "blue"})).await;
    insta::assert_snapshot!(reply, @r#"{"choices":[{"finish_reason":"stop","index":0,"logprobs":null,"stop_reason":"blue","text":" red0pirate green0pirate "}],"model":"pirate","object":"text_completion","system_fingerprint":"fp_abababababab","usage":{"completion_tokens":3,"prompt_tokens":2,"prompt_tokens_details":{"cached_tokens":1},"total_tokens":5}}"#);
}

#[tokio::test]
async fn a_stream_has_openais_form() {
    let body = json!({"prompt": "a b", "max_tokens": 3, "stream_options": {"include_usage": true}});
    let (events, done) = LlmServer::new().events(PATH, &body).await;
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
{"choices":[{"finish_reason":null,"index":0,"logprobs":null,"stop_reason":null,"text":""}],"model":"tiny-llm","object":"text_completion","system_fingerprint":"fp_abababababab","usage":null}
{"choices":[{"finish_reason":null,"index":0,"logprobs":null,"stop_reason":null,"text":" red0 green0"}],"model":"tiny-llm","object":"text_completion","system_fingerprint":"fp_abababababab","usage":null}
{"choices":[{"finish_reason":"length","index":0,"logprobs":null,"stop_reason":null,"text":" blue0"}],"model":"tiny-llm","object":"text_completion","system_fingerprint":"fp_abababababab","usage":null}
{"choices":[],"model":"tiny-llm","object":"text_completion","system_fingerprint":"fp_abababababab","usage":{"completion_tokens":3,"prompt_tokens":2,"prompt_tokens_details":{"cached_tokens":1},"total_tokens":5}}
"#);
    assert!(done);
}

#[tokio::test]
async fn log_probabilities_are_lists_with_offsets_in_characters() {
    let body = json!({"prompt": "é bb", "max_tokens": 2, "logprobs": 1, "echo": true});
    let reply = LlmServer::new().reply(PATH, &body).await;
    let logprobs = &reply["choices"][0]["logprobs"];
    insta::assert_snapshot!(logprobs, @r#"{"text_offset":[0,2,4,9],"token_logprobs":[null,-0.5,-0.5,-0.5],"tokens":["é","bb"," red0"," green0"],"top_logprobs":[null,{"bb":-0.5},{" red0":-0.5},{" green0":-0.5}]}"#);
    // Each offset is where the token begins in the text.
    let text: Vec<char> = reply["choices"][0]["text"].as_str().expect("a text").chars().collect();
    let offsets: Vec<usize> = serde_json::from_value(logprobs["text_offset"].clone()).expect("offsets");
    let tokens: Vec<String> = serde_json::from_value(logprobs["tokens"].clone()).expect("tokens");
    for (offset, token) in offsets.into_iter().zip(tokens) {
        let found: String = text[offset..].iter().take(token.chars().count()).collect();
        assert_eq!(found, token);
    }
}

#[tokio::test]
async fn zero_tokens_with_echo_is_the_prompt_with_its_log_probabilities() {
    let body = json!({"prompt": "a bb", "max_tokens": 0, "logprobs": 0, "echo": true});
    let server = LlmServer::new();
    let reply = server.reply(PATH, &body).await;
    assert_eq!(texts(&reply), ["a bb"]);
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!(reply["usage"]["completion_tokens"], 0);
    assert_eq!(reply["choices"][0]["logprobs"]["token_logprobs"], json!([null, -0.5]));
    assert_eq!(server.asked()[0].sampling.max_tokens, Some(1), "an engine generates at least one");
    let (events, _) = server.events(PATH, &body).await;
    assert_eq!(texts(&events[0]), ["a bb"]);
}

#[tokio::test]
async fn several_prompts_and_copies_are_numbered_prompt_by_prompt() {
    let body = json!({"prompt": ["a", "b c", "d e f"], "n": 2, "max_tokens": 1});
    let server = LlmServer::new();
    let reply = server.reply(PATH, &body).await;
    let indices: Vec<_> =
        reply["choices"].as_array().expect("choices").iter().map(|c| c["index"].clone()).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5]);
    assert_eq!(texts(&reply), [" red0", " red1", " red0", " red1", " red0", " red1"]);
    // Each prompt counts once, each copy has its tokens.
    assert_eq!(
        (&reply["usage"]["prompt_tokens"], &reply["usage"]["completion_tokens"]),
        (&json!(6), &json!(6))
    );
    assert_eq!(reply["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    let prompts: Vec<_> = server.asked().into_iter().map(|asked| (asked.prompt, asked.copies)).collect();
    assert_eq!(prompts, ["a", "b c", "d e f"].map(|text| (Prompt::Text(text.into()), 2)));
}

#[tokio::test]
async fn every_shape_of_prompts_reaches_the_engine() {
    let text = |text: &str| Prompt::Text(text.into());
    for (prompt, read) in [
        (json!("a"), vec![text("a")]),
        (json!(["a", "b"]), vec![text("a"), text("b")]),
        (json!([7, 8]), vec![Prompt::Tokens(vec![7, 8])]),
        (json!([[7], [8, 9]]), vec![Prompt::Tokens(vec![7]), Prompt::Tokens(vec![8, 9])]),
    ] {
        let server = LlmServer::new();
        server.reply(PATH, &json!({"prompt": prompt, "max_tokens": 1})).await;
        let prompts: Vec<_> = server.asked().into_iter().map(|asked| asked.prompt).collect();
        assert_eq!(prompts, read);
    }
}

/// A choice whose pieces are put together.
fn together(choice: usize, events: &[Value]) -> Value {
    let mut whole =
        json!({"text": "", "tokens": [], "ids": [], "offsets": [], "finish": null, "reason": null});
    for piece in events.iter().flat_map(|event| event["choices"].as_array().expect("choices")) {
        if piece["index"] != choice {
            continue;
        }
        assert_eq!(whole["finish"], Value::Null, "nothing after the end");
        let text = format!("{}{}", whole["text"].as_str().unwrap(), piece["text"].as_str().expect("a text"));
        whole["text"] = text.into();
        for (name, part) in [
            ("tokens", &piece["logprobs"]["tokens"]),
            ("offsets", &piece["logprobs"]["text_offset"]),
            ("ids", &piece["token_ids"]),
        ] {
            let parts = part.as_array().expect("a list").iter().cloned();
            whole[name].as_array_mut().unwrap().extend(parts);
        }
        (whole["finish"], whole["reason"]) = (piece["finish_reason"].clone(), piece["stop_reason"].clone());
    }
    whole
}

#[tokio::test]
async fn pieces_put_together_are_the_whole_reply_and_so_is_their_usage() {
    for body in [
        json!({"prompt": "a b", "n": 3}),
        json!({"prompt": ["a", "b c"], "n": 2, "echo": true}),
        json!({"prompt": "a", "stop": ["grey", "blue"]}),
        json!({"prompt": "a", "stop_token_ids": [102], "min_tokens": 1}),
        json!({"prompt": "a", "max_tokens": 7, "ignore_eos": true}),
        json!({"prompt": [[5, 6], [7]], "max_tokens": 0, "echo": true}),
    ] {
        let mut asked = body.clone();
        asked["logprobs"] = json!(2);
        asked["return_token_ids"] = json!(true);
        let server = LlmServer::new();
        let whole = server.reply(PATH, &asked).await;
        asked["stream_options"] = json!({"include_usage": true, "continuous_usage_stats": true});
        let (events, done) = server.events(PATH, &asked).await;
        assert!(done);
        let (last, pieces) = events.split_last().expect("events");
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]), "{body}");
        for choice in whole["choices"].as_array().expect("choices") {
            let found = together(choice["index"].as_u64().expect("an index") as usize, pieces);
            let expected = json!({
                "text": choice["text"], "tokens": choice["logprobs"]["tokens"],
                "offsets": choice["logprobs"]["text_offset"], "ids": choice["token_ids"],
                "finish": choice["finish_reason"], "reason": choice["stop_reason"],
            });
            assert_eq!(found, expected, "{body}");
        }
        // What is told on the way never shrinks and never exceeds the end.
        for piece in pieces {
            let told = piece["usage"]["completion_tokens"].as_u64().expect("a number");
            assert!(told <= last["usage"]["completion_tokens"].as_u64().expect("a number"));
        }
    }
}

#[tokio::test]
async fn token_ids_come_once_for_the_prompt_and_with_each_piece() {
    let body = json!({"prompt": "a bb", "return_token_ids": true, "max_tokens": 3});
    let server = LlmServer::new();
    let choice = server.reply(PATH, &body).await["choices"][0].clone();
    assert_eq!(choice["prompt_token_ids"], json!([1, 2]));
    assert_eq!(choice["token_ids"], json!([100, 101, 102]));
    let (events, _) = server.events(PATH, &body).await;
    let prompts: Vec<bool> =
        events.iter().map(|event| event["choices"][0].get("prompt_token_ids").is_some()).collect();
    assert_eq!(prompts, [true, false, false]);
    let reply = server.reply(PATH, &json!({"prompt": "a"})).await;
    assert_eq!(reply["choices"][0].get("token_ids"), None, "not where nobody asked");
    let body =
        json!({"prompt": "a bb", "prompt_logprobs": 1, "logprobs": 0, "return_tokens_as_token_ids": true});
    let choice = server.reply(PATH, &body).await["choices"][0].clone();
    insta::assert_snapshot!(choice["prompt_logprobs"], @r#"[null,{"2":{"decoded_token":"bb","logprob":-0.5,"rank":1}}]"#);
    assert_eq!(choice["logprobs"]["tokens"][0], "token_id:100");
}

#[tokio::test]
async fn options_reach_the_engine_and_have_their_defaults() {
    let server = LlmServer::new();
    server.reply(PATH, &json!({"prompt": "a"})).await;
    let body = json!({
        "prompt": "a", "max_tokens": 5, "n": 2, "best_of": 2, "temperature": 0.5, "top_p": 0.25, "top_k": -1, "min_p": 0.125,
        "repetition_penalty": 1.5, "presence_penalty": 1, "frequency_penalty": -1, "logit_bias": {"7": -100},
        "seed": -3, "min_tokens": 2, "stop": ["x", "y"], "stop_token_ids": [9], "ignore_eos": true,
        "include_stop_str_in_output": true, "skip_special_tokens": false, "logprobs": 4, "prompt_logprobs": 3,
        "add_special_tokens": false, "echo": true, "user": "u", "cache_salt": "tenant", "suffix": null, "best_of_ranks": 7, "priority": 3,
        "response_format": {"type": "text"}, "use_beam_search": false, "bad_words": [],
    });
    server.reply(PATH, &body).await;
    let asked = server.asked();
    let default =
        SamplingRequest { max_tokens: Some(16), skip_special_tokens: true, ..SamplingRequest::default() };
    assert_eq!(asked[0].sampling, default);
    assert_eq!((asked[0].copies, asked[0].echo, asked[0].add_special_tokens), (1, false, true));
    let given = SamplingRequest {
        temperature: Some(0.5),
        top_p: Some(0.25),
        top_k: Some(-1),
        min_p: Some(0.125),
        repetition_penalty: Some(1.5),
        presence_penalty: Some(1.0),
        frequency_penalty: Some(-1.0),
        logit_bias: vec![(7, -100.0)],
        seed: Some(-3),
        max_tokens: Some(5),
        min_tokens: 2,
        stop: vec!["x".into(), "y".into()],
        stop_token_ids: vec![9],
        ignore_eos: true,
        include_stop_str_in_output: true,
        skip_special_tokens: false,
        logprobs: Some(4),
        prompt_logprobs: Some(3),
    };
    assert_eq!(asked[1].sampling, given);
    assert_eq!((asked[1].copies, asked[1].echo, asked[1].add_special_tokens), (2, true, false));
    let salts = asked.iter().map(|asked| asked.cache_salt.as_deref()).collect::<Vec<_>>();
    assert_eq!(salts, [None, Some("tenant")]);
}

#[tokio::test]
async fn the_base_answers_to_all_its_names_and_adapters_to_theirs() {
    for (fields, adapter, echoed) in [
        (json!({}), None, LLM),
        (json!({"model": LLM}), None, LLM),
        (json!({"model": LLM_ALIAS}), None, LLM_ALIAS),
        (json!({"model": "pirate"}), Some("pirate"), "pirate"),
        (json!({"model": LLM, "lora_name": "team/poet"}), Some("team/poet"), LLM),
        (json!({"lora_request": {"lora_name": "pirate"}}), Some("pirate"), "pirate"),
        (json!({"model": format!("{LLM}:pirate")}), Some("pirate"), "tiny-llm:pirate"),
    ] {
        let server = LlmServer::new();
        let mut body = fields.clone();
        body["prompt"] = json!("a");
        let reply = server.reply(PATH, &body).await;
        assert_eq!(reply["model"], echoed, "{fields}");
        let asked = &server.asked()[0];
        assert_eq!(asked.adapter.as_deref(), adapter, "{fields}");
        assert_eq!(asked.split_key.is_some(), adapter.is_some(), "only an adapter's traffic is split");
    }
}

#[tokio::test]
async fn a_header_names_the_adapter_that_answers_and_a_field_why_none_did() {
    let llm = FakeLlm { served_by: Some(version("pirate@3#0a1b2c3d")), ..FakeLlm::default() };
    let server = LlmServer::with(llm, Default::default());
    for stream in [false, true] {
        let body = json!({"model": "pirate", "prompt": "a", "stream": stream});
        let reply = server.post(PATH, &body).await;
        assert_eq!(reply.header("x-polylora-adapter"), Some("pirate@3#0a1b2c3d"));
    }
    let llm = FakeLlm { fallback_reason: Some("the adapter is broken".into()), ..FakeLlm::default() };
    let reply = LlmServer::with(llm, Default::default()).post(PATH, &json!({"prompt": "a"})).await;
    assert_eq!(reply.header("x-polylora-fallback-reason"), Some("the adapter is broken"));
    assert_eq!(reply.json()["fallback_reason"], "the adapter is broken");
}
