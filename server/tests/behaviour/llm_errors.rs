//! What a bad request for text gets: always an error object that names the field.

use axum::body::Body;
use axum::http::{Request, header};
use polylora_engine::GenerateError;
use polylora_server::settings::{Settings, parse_setting};
use serde_json::{Value, json};

use crate::fake_engine::{BASE, CATALOGUE_ALIAS, Server};
use crate::fake_llm::{CONTEXT, FakeLlm, LLM, LlmMood, VOCABULARY};
use crate::llm_server::LlmServer;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn with(base: Value, fields: &Value) -> Value {
    let mut body = base;
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

async fn refused(path: &str, body: &Value, (status, code, param): (u16, &str, Option<&str>)) {
    for stream in [false, true] {
        let server = LlmServer::new();
        let body = if stream { with(body.clone(), &json!({"stream": true})) } else { body.clone() };
        let reply = server.post(path, &body).await;
        assert_eq!(reply.error(), (status, code.into(), param.map(str::to_owned)), "{body}: {}", reply.text);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn each_mistake_in_common_fields_has_its_status_code_and_param() {
    let invalid = |param| (400, "invalid_value", Some(param));
    for (fields, expected) in [
        (json!({"n": 0}), invalid("n")),
        (json!({"n": -1}), invalid("n")),
        (json!({"n": "2"}), invalid("n")),
        (json!({"n": 9}), (400, "too_many_copies", Some("n"))),
        (json!({"temperature": "hot"}), invalid("temperature")),
        (json!({"temperature": -1}), invalid("temperature")),
        (json!({"temperature": 1e300}), invalid("temperature")),
        (json!({"top_p": 0}), invalid("top_p")),
        (json!({"top_k": 0.5}), invalid("top_k")),
        (json!({"presence_penalty": 3}), invalid("presence_penalty")),
        (json!({"logit_bias": {"a": 1}}), invalid("logit_bias.a")),
        (json!({"logit_bias": [1]}), invalid("logit_bias")),
        (json!({"seed": 1.5}), invalid("seed")),
        (json!({"stop": 7}), invalid("stop")),
        (json!({"stop": vec!["a"; 17]}), invalid("stop")),
        (json!({"stop": ["a", "b".repeat(1025)]}), invalid("stop[1]")),
        (json!({"stop_token_ids": vec![1; 1025]}), invalid("stop_token_ids")),
        (json!({"cache_salt": ""}), invalid("cache_salt")),
        (json!({"cache_salt": 7}), invalid("cache_salt")),
        (json!({"stop": ["a", 7]}), invalid("stop[1]")),
        (json!({"stop_token_ids": [-1]}), invalid("stop_token_ids[0]")),
        (json!({"max_tokens": -1}), invalid("max_tokens")),
        (json!({"max_tokens": 0}), invalid("max_tokens")),
        (json!({"prompt_logprobs": 21}), invalid("prompt_logprobs")),
        (json!({"stream_options": []}), invalid("stream_options")),
        (json!({"model": 7}), invalid("model")),
        (json!({"lora_request": {}}), invalid("lora_request")),
        (json!({"echo": "yes"}), invalid("echo")),
        (
            json!({"response_format": {"type": "json_object"}}),
            (400, "unsupported_value", Some("response_format")),
        ),
        (json!({"response_format": "text"}), (400, "unsupported_value", Some("response_format"))),
        (json!({"use_beam_search": true}), (400, "unsupported_parameter", Some("use_beam_search"))),
        (json!({"guided_json": {"a": 1}}), (400, "unsupported_parameter", Some("guided_json"))),
        (json!({"bad_words": ["x"]}), (400, "unsupported_parameter", Some("bad_words"))),
        (
            json!({"truncate_prompt_tokens": 3}),
            (400, "unsupported_parameter", Some("truncate_prompt_tokens")),
        ),
    ] {
        refused(COMPLETIONS, &with(json!({"prompt": "a"}), &fields), expected).await;
        let messages = json!({"messages": [{"role": "user", "content": "a"}]});
        refused(CHAT, &with(messages, &fields), expected).await;
    }
}

#[tokio::test]
async fn each_mistake_in_a_completion_has_its_status_code_and_param() {
    let long = "a ".repeat(CONTEXT);
    let many: Vec<&str> = vec!["a"; 257];
    let invalid = |param| (400, "invalid_value", Some(param));
    for (body, expected) in [
        (json!({}), (400, "missing_required_parameter", Some("prompt"))),
        (json!({"prompt": null}), (400, "missing_required_parameter", Some("prompt"))),
        (json!({"prompt": []}), invalid("prompt")),
        (json!({"prompt": many}), invalid("prompt")),
        (json!({"prompt": {"text": "a"}}), invalid("prompt")),
        (json!({"prompt": ["a", 1]}), invalid("prompt[1]")),
        (json!({"prompt": ""}), (400, "empty_prompt", Some("prompt"))),
        (json!({"prompt": ["a", ""]}), (400, "empty_prompt", Some("prompt[1]"))),
        (json!({"prompt": [[1], []]}), (400, "empty_prompt", Some("prompt[1]"))),
        (json!({"prompt": [VOCABULARY]}), (400, "token_out_of_vocabulary", Some("prompt"))),
        (json!({"prompt": long}), (400, "context_length_exceeded", Some("prompt"))),
        (json!({"prompt": "a", "max_tokens": CONTEXT}), (400, "context_length_exceeded", Some("prompt"))),
        (json!({"prompt": "a", "suffix": "b"}), (400, "unsupported_parameter", Some("suffix"))),
        (json!({"prompt": "a", "best_of": 2}), invalid("best_of")),
        (json!({"prompt": "a", "n": 2, "best_of": 1}), invalid("best_of")),
        (json!({"prompt": "a", "logprobs": -1}), invalid("logprobs")),
        (json!({"prompt": "a", "logprobs": true}), invalid("logprobs")),
        (json!({"prompt": "a", "logprobs": 21}), invalid("logprobs")),
        (json!(["a"]), (400, "invalid_json", None)),
    ] {
        if body.is_object() {
            refused(COMPLETIONS, &body, expected).await;
        } else {
            assert_eq!(LlmServer::new().post(COMPLETIONS, &body).await.error().1, expected.1);
        }
    }
}

#[tokio::test]
async fn each_mistake_in_a_conversation_has_its_status_code_and_path() {
    let invalid = |param| (400, "invalid_value", Some(param));
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let hello = || user(json!("hello"));
    let calls = |calls: Value| json!({"messages": [{"role": "assistant", "tool_calls": calls}]});
    for (body, expected) in [
        (json!({}), (400, "missing_required_parameter", Some("messages"))),
        (json!({"messages": []}), invalid("messages")),
        (json!({"messages": "hello"}), invalid("messages")),
        (json!({"messages": ["hello"]}), invalid("messages[0]")),
        (json!({"messages": [{"content": "a"}]}), invalid("messages[0].role")),
        (json!({"messages": [{"role": 7, "content": "a"}]}), invalid("messages[0].role")),
        (json!({"messages": [{"role": "user"}]}), invalid("messages[0].content")),
        (user(json!(7)), invalid("messages[0].content")),
        (user(json!([7])), invalid("messages[0].content[0]")),
        (user(json!([{"type": "text"}])), invalid("messages[0].content[0].text")),
        (
            user(json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}])),
            (400, "unsupported_value", Some("messages[0].content[1]")),
        ),
        (calls(json!("f")), invalid("messages[0].tool_calls")),
        (calls(json!([7])), invalid("messages[0].tool_calls[0]")),
        (
            calls(json!([{"function": {"arguments": "{"}}])),
            invalid("messages[0].tool_calls[0].function.arguments"),
        ),
        (json!({"messages": [{"role": "tool", "content": "a"}]}), (400, "chat_template", Some("messages"))),
        (user(json!("a ".repeat(CONTEXT))), (400, "context_length_exceeded", Some("messages"))),
        (with(hello(), &json!({"tools": {}})), invalid("tools")),
        (with(hello(), &json!({"tools": ["f"]})), invalid("tools[0]")),
        (with(hello(), &json!({"documents": "d"})), invalid("documents")),
        (with(hello(), &json!({"tool_choice": "required"})), (400, "unsupported_value", Some("tool_choice"))),
        (
            with(hello(), &json!({"tool_choice": {"type": "function", "function": {"name": "f"}}})),
            (400, "unsupported_value", Some("tool_choice")),
        ),
        (with(hello(), &json!({"functions": [{}]})), (400, "unsupported_parameter", Some("functions"))),
        (
            with(hello(), &json!({"chat_template": "x"})),
            (400, "unsupported_parameter", Some("chat_template")),
        ),
        (with(hello(), &json!({"chat_template_kwargs": []})), invalid("chat_template_kwargs")),
        (with(hello(), &json!({"continue_final_message": true})), invalid("continue_final_message")),
        (with(hello(), &json!({"top_logprobs": 2})), invalid("top_logprobs")),
        (with(hello(), &json!({"logprobs": 2})), invalid("logprobs")),
        (with(hello(), &json!({"logprobs": true, "top_logprobs": 21})), invalid("top_logprobs")),
        (with(hello(), &json!({"max_completion_tokens": 0})), invalid("max_completion_tokens")),
    ] {
        refused(CHAT, &body, expected).await;
    }
    let mut llm = FakeLlm::default();
    llm.info.has_chat_template = false;
    let reply = LlmServer::with(llm, Settings::default()).post(CHAT, &hello()).await;
    assert_eq!(reply.error(), (400, "no_chat_template".into(), Some("messages".into())));
}

#[tokio::test]
async fn what_is_too_long_is_told_with_the_numbers() {
    let body = json!({"prompt": "a b c", "max_tokens": 30});
    let message = LlmServer::new().post(COMPLETIONS, &body).await.message();
    insta::assert_snapshot!(message, @r#"this model's maximum context length is 24 tokens, the request needs 33: 3 in the prompt and 30 to generate; shorten the prompt or ask for fewer tokens (max_tokens)"#);
}

#[tokio::test]
async fn options_of_a_stream_need_a_stream() {
    let server = LlmServer::new();
    for (fields, param) in [
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"stream": true, "prompt_logprobs": 1}), "prompt_logprobs"),
    ] {
        let reply = server.post(COMPLETIONS, &with(json!({"prompt": "a"}), &fields)).await;
        assert_eq!(reply.error(), (400, "invalid_value".into(), Some(param.into())));
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn an_unknown_name_generates_nothing_and_the_embedding_models_names_say_what_can() {
    for (fields, status, code, param) in [
        (json!({"model": "nobody"}), 404, "model_not_found", "model"),
        (json!({"model": "broken"}), 400, "adapter_invalid", "model"),
        (json!({"model": LLM, "lora_name": "nobody"}), 404, "model_not_found", "lora_name"),
        (json!({"lora_request": {"lora_name": "nobody"}}), 404, "model_not_found", "lora_request.lora_name"),
        (json!({"model": BASE}), 400, "model_not_supported", "model"),
        (json!({"model": CATALOGUE_ALIAS}), 400, "model_not_supported", "model"),
        (json!({"model": "law"}), 400, "model_not_supported", "model"),
        (json!({"lora_name": "law"}), 400, "model_not_supported", "lora_name"),
        (json!({"model": "pirate", "lora_name": "team/poet"}), 400, "conflicting_adapters", "lora_name"),
        (json!({"model": "x".repeat(10_000)}), 404, "model_not_found", "model"),
    ] {
        let server = LlmServer::new();
        let reply = server.post(COMPLETIONS, &with(json!({"prompt": "a"}), &fields)).await;
        assert_eq!(reply.error(), (status, code.into(), Some(param.into())), "{:.200}", reply.text);
        assert!(reply.text.len() < 600, "{}", reply.text);
        if code == "model_not_supported" {
            assert!(reply.message().contains(LLM), "{}", reply.text);
        }
    }
    // The other way round.
    for (path, body) in [("/v1/embeddings", json!({"input": "a"})), ("/embed", json!({"inputs": "a"}))] {
        for name in [LLM, "pirate"] {
            let reply = LlmServer::new().post(path, &with(body.clone(), &json!({"model": name}))).await;
            assert!(reply.status.is_client_error() && reply.status != 404, "{path} {name}: {}", reply.text);
            assert!(reply.text.contains("generates text and makes no embeddings"), "{}", reply.text);
        }
    }
}

#[tokio::test]
async fn a_server_without_a_model_that_generates_says_so() {
    let server = Server::new();
    for (path, body) in [
        (COMPLETIONS, json!({"prompt": "a"})),
        (CHAT, json!({"messages": [{"role": "user", "content": "a"}]})),
        ("/detokenize", json!({"tokens": [1]})),
        ("/tokenize", json!({"prompt": "a"})),
    ] {
        let reply = server.post_to(path, body.to_string()).await;
        assert_eq!(reply.error(), (400, "model_not_supported".into(), Some("model".into())), "{path}");
        assert!(reply.message().contains("--llm"));
    }
    let reply = server.post_to("/generate", json!({"inputs": "a"}).to_string()).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error_type"]), (422, &json!("validation")));
}

#[tokio::test]
async fn only_what_failed_here_is_a_server_error() {
    for (error, status, code) in [
        (GenerateError::Overloaded { limit: 3 }, 429, "rate_limit_exceeded"),
        (GenerateError::ShuttingDown, 503, "shutting_down"),
        (GenerateError::Unavailable { reason: "x".into() }, 503, "unavailable"),
        (GenerateError::Internal { reason: "x".into() }, 500, "internal_error"),
        (GenerateError::Tokenize { reason: "x".into() }, 400, "tokenization_failed"),
        (GenerateError::TooManyCharacters { found: 2, max: 1 }, 400, "text_too_long"),
        (GenerateError::AdapterTooLarge { bytes: 2, pool_bytes: 1 }, 400, "adapter_too_large"),
    ] {
        for stream in [false, true] {
            let server = LlmServer::in_mood(LlmMood::Fails(error.clone()));
            let reply = server.post(COMPLETIONS, &json!({"prompt": "a", "stream": stream})).await;
            assert_eq!((reply.error().0, reply.error().1.as_str()), (status, code), "a status, not a stream");
            assert_eq!(reply.header("retry-after").is_some(), [429, 503].contains(&status));
        }
    }
}

#[tokio::test]
async fn text_needs_a_key_where_one_is_needed_also_at_the_path_of_the_page() {
    let api_key = vec![parse_setting("s3cret").expect("a key")];
    let settings = Settings { api_key, ..Settings::default() };
    let server = LlmServer::with(FakeLlm::default(), settings);
    for path in ["/", "/generate", "/generate_stream", COMPLETIONS, CHAT, "/detokenize", "/tokenize"] {
        for accept in ["*/*", "text/html"] {
            let request = Request::post(path)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, accept)
                .body(Body::from(r#"{"inputs": "a", "prompt": "a"}"#));
            let reply = server.server.send(request.expect("a request")).await;
            assert_eq!(reply.status, 401, "{path} {accept}");
        }
    }
    assert!(server.asked().is_empty());
}
