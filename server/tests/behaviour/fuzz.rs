//! Bodies that nobody wrote on purpose.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::fake_engine::{BASE, Server};

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
    fn a_good_body_with_one_damaged_byte_is_the_clients_fault(at in 0_usize..60, byte in any::<u8>()) {
        let mut body = json!({"input": ["a", "b"], "model": BASE, "dimensions": 2}).to_string().into_bytes();
        let at = at % body.len();
        body[at] = byte;
        let status = status_of(body);
        prop_assert!([200, 400, 404].contains(&status), "{status}");
    }
}
