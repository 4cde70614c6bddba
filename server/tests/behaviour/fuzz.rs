//! Bodies that nobody wrote on purpose.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::fake_engine::{BASE, Server};
use crate::llm_server::LlmServer;

const FIELDS: [&str; 10] = [
    "input",
    "model",
    "lora_name",
    "lora_request",
    "encoding_format",
    "dimensions",
    "prompt_name",
    "truncate_prompt_tokens",
    "user",
    "anything",
];

/// Fields of the routes that generate, and of those about their tokens.
const GENERATION_FIELDS: [&str; 36] = [
    "prompt",
    "messages",
    "inputs",
    "parameters",
    "model",
    "lora_name",
    "lora_request",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "logit_bias",
    "seed",
    "stop",
    "stop_token_ids",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "echo",
    "stream",
    "stream_options",
    "return_token_ids",
    "response_format",
    "tools",
    "tool_choice",
    "documents",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "suffix",
    "user",
    "tokens",
    "anything",
];

/// The routes that generate, and what they need.
const GENERATION_ROUTES: [(&str, &str); 6] = [
    ("/v1/completions", "prompt"),
    ("/v1/chat/completions", "messages"),
    ("/generate", "inputs"),
    ("/generate_stream", "inputs"),
    ("/tokenize", "prompt"),
    ("/detokenize", "tokens"),
];

fn any_message() -> impl Strategy<Value = Value> {
    let parts = prop_oneof![
        Just(json!("a")),
        Just(json!([{"type": "text", "text": "a"}])),
        any_json(),
        any_json().prop_map(|text| json!([{"type": "text", "text": text}])),
    ];
    let calls = prop_oneof![
        2 => Just(Value::Null),
        1 => any_json(),
        1 => any_json().prop_map(|arguments| json!([{"function": {"arguments": arguments}}])),
    ];
    (prop_oneof![Just(json!("user")), Just(json!("assistant")), any_json()], parts, calls).prop_map(
        |(role, content, tool_calls)| json!({"role": role, "content": content, "tool_calls": tool_calls}),
    )
}

fn any_generation_body() -> impl Strategy<Value = (&'static str, String)> {
    let field = (prop::sample::select(&GENERATION_FIELDS[..]), any_json())
        .prop_map(|(name, value)| (name.to_owned(), value));
    let likely = prop_oneof![
        Just(json!("a")),
        Just(json!([1, 2])),
        prop::collection::vec(any_message(), 0..3).prop_map(Value::from),
        any_json(),
    ];
    let route = prop::sample::select(&GENERATION_ROUTES[..]);
    (route, prop::collection::vec(field, 0..5), likely).prop_map(|((path, needed), fields, value)| {
        let mut map = Map::from_iter(fields);
        map.entry(needed).or_insert(value);
        (path, Value::Object(map).to_string())
    })
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..40_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec![BASE, "law", "broken", "float", "base64", "query", "a text"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((".{0,6}", inner.clone()), 0..4)
                .prop_map(|pairs| Value::Object(Map::from_iter(pairs))),
            inner.prop_map(|name| json!({"lora_name": name})),
        ]
    })
}

fn any_body() -> impl Strategy<Value = String> {
    let field =
        (prop::sample::select(&FIELDS[..]), any_json()).prop_map(|(name, value)| (name.to_owned(), value));
    let likely = prop_oneof![Just(json!("a")), Just(json!(["a", "b"])), Just(json!([[1, 2]])), any_json()];
    let object = (prop::collection::vec(field, 0..5), likely).prop_map(|(fields, input)| {
        let mut map = Map::from_iter(fields);
        map.entry("input").or_insert(input);
        Value::Object(map).to_string()
    });
    prop_oneof![4 => object, 1 => any_json().prop_map(|value| value.to_string()), 1 => ".{0,60}"]
}

fn status_of(body: Vec<u8>) -> u16 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let reply = runtime.block_on(Server::new().post(body));
    if reply.status != 200 {
        // Every refusal is an error object with its four fields.
        return reply.error().0;
    }
    assert!(reply.json()["data"].is_array());
    200
}

proptest! {
    #[test]
    fn no_body_of_json_is_the_servers_fault(body in any_body()) {
        let status = status_of(body.clone().into_bytes());
        prop_assert!([200, 400, 404].contains(&status), "{status}: {body}");
    }

    #[test]
    fn no_body_asks_for_text_in_a_way_that_is_the_servers_fault((path, body) in any_generation_body()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let reply = runtime.block_on(LlmServer::new().server.post_to(path, body.clone()));
        let status = reply.status.as_u16();
        match path {
            "/generate" | "/generate_stream" => {
                prop_assert!([200, 400, 404, 422].contains(&status), "{path} {status}: {body}")
            }
            // With neither `prompt` nor `messages` it is the other dialect's.
            "/tokenize" => prop_assert!([200, 400, 404, 409, 413, 422].contains(&status), "{path} {status}: {body}"),
            _ => {
                prop_assert!([200, 400, 404].contains(&status), "{path} {status}: {body}");
                if status != 200 {
                    reply.error();
                }
            }
        }
    }

    #[test]
    fn a_good_body_with_one_damaged_byte_is_the_clients_fault(at in 0_usize..60, byte in any::<u8>()) {
        let mut body = json!({"input": ["a", "b"], "model": BASE, "dimensions": 2}).to_string().into_bytes();
        let at = at % body.len();
        body[at] = byte;
        let status = status_of(body);
        prop_assert!([200, 400, 404].contains(&status), "{status}");
    }
}
