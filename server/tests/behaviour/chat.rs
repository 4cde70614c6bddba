//! What a good request to `/v1/chat/completions` gets, and what its template sees.

use polylora_engine::{ChatPrompt, Prompt, TemplateValue};
use serde_json::{Value, json};

use crate::fake_llm::LLM;
use crate::llm_server::LlmServer;

const PATH: &str = "/v1/chat/completions";

fn hello() -> Value {
    json!([{"role": "user", "content": "hello there"}])
}

/// What the template is given.
async fn seen(body: &Value) -> ChatPrompt {
    let server = LlmServer::new();
    server.reply(PATH, body).await;
    match server.asked().remove(0).prompt {
        Prompt::Chat(chat) => chat,
        other => panic!("no conversation: {other:?}"),
    }
}

#[tokio::test]
async fn a_reply_has_openais_form() {
    let server = LlmServer::new();
    let reply = server.reply(PATH, &json!({"model": LLM, "messages": hello(), "max_tokens": 2})).await;
    insta::assert_snapshot!(reply, @r#"{"choices":[{"finish_reason":"length","index":0,"logprobs":null,"message":{"content":" red0 green0","refusal":null,"role":"assistant"},"stop_reason":null}],"model":"tiny-llm","object":"chat.completion","system_fingerprint":"fp_abababababab","usage":{"completion_tokens":2,"prompt_tokens":4,"prompt_tokens_details":{"cached_tokens":2},"total_tokens":6}}"#);
    let body = json!({"messages": hello(), "max_completion_tokens": 1, "max_tokens": 4, "logprobs": true,
                      "top_logprobs": 1, "return_token_ids": true, "prompt_logprobs": 0});
    insta::assert_snapshot!(server.reply(PATH, &body).await, @r#"{"choices":[{"finish_reason":"length","index":0,"logprobs":{"content":[{"bytes":[32,114,101,100,48],"logprob":-0.5,"token":" red0","top_logprobs":[{"bytes":[32,114,101,100,48],"logprob":-0.5,"token":" red0"}]}]},"message":{"content":" red0","refusal":null,"role":"assistant"},"stop_reason":null,"token_ids":[100]}],"model":"tiny-llm","object":"chat.completion","prompt_logprobs":[null,{"5":{"decoded_token":"hello","logprob":-0.5,"rank":1}},{"5":{"decoded_token":"there","logprob":-0.5,"rank":1}},{"10":{"decoded_token":"assistant:","logprob":-0.5,"rank":1}}],"prompt_token_ids":[5,5,5,10],"system_fingerprint":"fp_abababababab","usage":{"completion_tokens":1,"prompt_tokens":4,"prompt_tokens_details":{"cached_tokens":2},"total_tokens":5}}"#);
}

#[tokio::test]
async fn a_stream_has_openais_form() {
    let body =
        json!({"messages": hello(), "max_tokens": 2, "n": 2, "stream_options": {"include_usage": true}});
    let (events, done) = LlmServer::new().events(PATH, &body).await;
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
{"choices":[{"delta":{"content":"","role":"assistant"},"finish_reason":null,"index":0,"logprobs":null,"stop_reason":null}],"model":"tiny-llm","object":"chat.completion.chunk","system_fingerprint":"fp_abababababab","usage":null}
{"choices":[{"delta":{"content":"","role":"assistant"},"finish_reason":null,"index":1,"logprobs":null,"stop_reason":null}],"model":"tiny-llm","object":"chat.completion.chunk","system_fingerprint":"fp_abababababab","usage":null}
{"choices":[{"delta":{"content":""},"finish_reason":null,"index":0,"logprobs":null,"stop_reason":null}],"model":"tiny-llm","object":"chat.completion.chunk","system_fingerprint":"fp_abababababab","usage":null}
{"choices":[{"delta":{"content":""},"finish_reason":null,"index":1,"logprobs":null,"stop_reason":null}],"model":"tiny-llm","object":"chat.completion.chunk","system_fingerprint":"fp_abababababab","usage":null}
{"choices":[{"delta":{"content":" red0 green0"},"finish_reason":"length","index":0,"logprobs":null,"stop_reason":null}],"model":"tiny-llm","object":"chat.completion.chunk","system_fingerprint":"fp_abababababab","usage":null}
{"choices":[{"delta":{"content":" red1 green1"},"finish_reason":"length","index":1,"logprobs":null,"stop_reason":null}],"model":"tiny-llm","object":"chat.completion.chunk","system_fingerprint":"fp_abababababab","usage":null}
{"choices":[],"model":"tiny-llm","object":"chat.completion.chunk","system_fingerprint":"fp_abababababab","usage":{"completion_tokens":4,"prompt_tokens":4,"prompt_tokens_details":{"cached_tokens":2},"total_tokens":8}}
"#);
    assert!(done);
}

#[tokio::test]
async fn pieces_put_together_are_the_whole_reply_and_so_is_their_usage() {
    for fields in [
        json!({"n": 3}),
        json!({"stop": "blue"}),
        json!({"max_tokens": 2, "model": "pirate"}),
        json!({"echo": true, "add_generation_prompt": false, "continue_final_message": true}),
    ] {
        let mut body = fields.clone();
        body["messages"] = hello();
        (body["logprobs"], body["top_logprobs"]) = (json!(true), json!(2));
        body["return_token_ids"] = json!(true);
        let server = LlmServer::new();
        let whole = server.reply(PATH, &body).await;
        body["stream_options"] = json!({"include_usage": true});
        let (events, done) = server.events(PATH, &body).await;
        assert!(done);
        let (last, pieces) = events.split_last().expect("events");
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]), "{fields}");
        assert_eq!(pieces[0]["prompt_token_ids"], whole["prompt_token_ids"]);
        for choice in whole["choices"].as_array().expect("choices") {
            let own: Vec<&Value> = pieces
                .iter()
                .map(|piece| &piece["choices"][0])
                .filter(|p| p["index"] == choice["index"])
                .collect();
            let content: String = own.iter().filter_map(|piece| piece["delta"]["content"].as_str()).collect();
            assert_eq!(choice["message"]["content"], content, "{fields}");
            let all = |of: &dyn Fn(&Value) -> Value| -> Vec<Value> {
                own.iter().flat_map(|piece| of(piece).as_array().cloned().unwrap_or_default()).collect()
            };
            assert_eq!(json!(all(&|piece| piece["token_ids"].clone())), choice["token_ids"]);
            assert_eq!(
                json!(all(&|piece| piece["logprobs"]["content"].clone())),
                choice["logprobs"]["content"]
            );
            let roles: Vec<_> = own.iter().filter_map(|piece| piece["delta"].get("role")).collect();
            assert_eq!(roles, [&choice["message"]["role"]], "the first piece says who speaks, and only that");
            let finishes: Vec<_> = own.iter().map(|piece| &piece["finish_reason"]).collect();
            let (end, before) = finishes.split_last().expect("pieces");
            assert_eq!(*end, &choice["finish_reason"]);
            assert!(before.iter().all(|reason| reason.is_null()));
        }
    }
}

#[tokio::test]
async fn a_message_reaches_the_template_field_by_field_in_its_order() {
    let messages =
        r#"[{"role": "user", "zeta": 1, "content": "a", "alpha": [true, null, {"b": 1, "a": 2.5}]}]"#;
    let body = format!(r#"{{"messages": {messages}, "max_tokens": 1}}"#);
    let server = LlmServer::new();
    assert_eq!(server.server.post_to(PATH, body).await.status, 200);
    let Prompt::Chat(chat) = server.asked().remove(0).prompt else { panic!("no conversation") };
    let keys: Vec<String> = chat.messages[0].try_iter().expect("keys").map(|key| key.to_string()).collect();
    assert_eq!(keys, ["role", "zeta", "content", "alpha"]);
    assert_eq!(
        serde_json::to_string(&chat.messages).expect("JSON"),
        messages.replace(", ", ",").replace(": ", ":")
    );
}

#[tokio::test]
async fn text_parts_become_one_text_and_arguments_of_calls_objects() {
    let chat = seen(&json!({"max_tokens": 1, "messages": [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "name": "n"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": [2]}"}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
            {"id": "c3", "type": "function", "function": {"name": "h", "arguments": {"x": 1}}},
        ]},
        {"role": "assistant"},
    ]}))
    .await;
    let messages = serde_json::to_value(&chat.messages).expect("JSON");
    assert_eq!(messages[0], json!({"role": "user", "content": "one\ntwo", "name": "n"}));
    let arguments = |call: usize| messages[1]["tool_calls"][call]["function"]["arguments"].clone();
    assert_eq!([0, 1, 2].map(arguments), [json!({"b": 1, "a": [2]}), json!({}), json!({"x": 1})]);
    assert_eq!(messages[1]["tool_calls"][0]["id"], "c1");
    assert_eq!(messages[2], json!({"role": "assistant"}));
}

#[tokio::test]
async fn what_templates_know_beside_messages_is_passed_on() {
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let body = json!({
        "messages": hello(), "tools": tools, "tool_choice": "auto", "documents": [{"title": "t", "text": "x"}],
        "chat_template_kwargs": {"enable_thinking": false}, "reasoning_effort": "low", "max_tokens": 1,
    });
    let chat = seen(&body).await;
    assert_eq!(serde_json::to_value(&chat.tools).expect("JSON"), tools);
    assert_eq!(serde_json::to_value(&chat.documents).expect("JSON"), json!([{"title": "t", "text": "x"}]));
    assert_eq!(chat.kwargs["enable_thinking"], TemplateValue::from(false));
    assert_eq!(chat.kwargs["reasoning_effort"], TemplateValue::from("low"));
    assert!(chat.add_generation_prompt && !chat.continue_final_message);
    let plain = seen(&json!({"messages": hello(), "tool_choice": "none", "max_tokens": 1})).await;
    assert_eq!((plain.tools, plain.documents, plain.kwargs.len()), (None, None, 0));
}

#[tokio::test]
async fn a_message_is_continued_by_its_own_speaker() {
    let server = LlmServer::new();
    let body = json!({"messages": [{"role": "user", "content": "a"}, {"role": "poet", "content": "Roses are"}],
                      "add_generation_prompt": false, "continue_final_message": true, "max_tokens": 1});
    let message = server.reply(PATH, &body).await["choices"][0]["message"].clone();
    assert_eq!(message, json!({"role": "poet", "content": " red0", "refusal": null}));
    let mut echoing = body.clone();
    echoing["echo"] = json!(true);
    let message = server.reply(PATH, &echoing).await["choices"][0]["message"].clone();
    assert_eq!(message["content"], "Roses are red0");
}

#[tokio::test]
async fn tokens_are_bounded_by_the_newer_name_and_else_by_the_context() {
    for (fields, most) in [
        (json!({}), None),
        (json!({"max_tokens": 3}), Some(3)),
        (json!({"max_completion_tokens": 2}), Some(2)),
        (json!({"max_tokens": 3, "max_completion_tokens": 2}), Some(2)),
    ] {
        let server = LlmServer::new();
        let mut body = fields.clone();
        body["messages"] = hello();
        server.reply(PATH, &body).await;
        let asked = &server.asked()[0];
        assert_eq!(asked.sampling.max_tokens, most, "{fields}");
        assert!(!asked.add_special_tokens, "the template has written them");
        assert_eq!(asked.sampling.logprobs, None);
    }
}
