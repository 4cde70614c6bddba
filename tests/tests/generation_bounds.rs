//! What generation promises beside its texts, through the real server: a context that the cache can hold, adapters that come along
//! with a request, prompts that are repeated as they were sent.

use std::fs;

use polylora_tests::{Reply, Server, copy_folder, fixtures};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The language model's name: its folder's.
const LLM: &str = "model";

fn fixture() -> std::path::PathBuf {
    fixtures("llms/llama")
}

fn golden() -> Value {
    serde_json::from_slice(&fs::read(fixture().join("golden.json")).unwrap()).unwrap()
}

fn launch(more: &[&str]) -> Result<Server, Vec<String>> {
    let model = fixture().join("model");
    let own = ["--embedding-model", "none", "--llm", model.to_str().unwrap(), "--block-size", "4"];
    Server::launch(&[&own, more].concat(), |_| {})
}

fn served(server: &Server) -> u64 {
    let models = server.get("/v1/models").body;
    models["data"][0]["max_model_len"].as_u64().unwrap_or_else(|| panic!("{models}"))
}

#[test]
fn the_context_that_is_told_is_one_that_the_cache_can_hold() {
    let whole = served(&launch(&["--kv-cache-memory-bytes", "64MiB"]).unwrap());
    let server = launch(&["--kv-cache-memory-bytes", "32KiB"]).unwrap();
    let held = served(&server);
    assert!(held < whole, "{held} of {whole}");
    assert!(server.log().iter().any(|line| line.contains("holds less than the model's context")));
    assert_eq!(server.get("/info").body["max_total_tokens"], json!(held));
    let ask = |max_tokens: u64| {
        let body = json!({ "prompt": [5, 6, 7, 8], "max_tokens": max_tokens, "ignore_eos": true });
        server.post("/v1/completions", &body)
    };
    let refused = ask(held - 3);
    assert_eq!((refused.status, refused.code()), (400, "context_length_exceeded"), "{}", refused.text);
    // What is taken is generated to its end.
    assert_eq!(ask(held - 4).body["usage"]["completion_tokens"], json!(held - 4));

    let (asked, least) = (held.to_string(), (held + 1).to_string());
    let fits = launch(&["--kv-cache-memory-bytes", "32KiB", "--max-model-len", &asked]).unwrap();
    assert_eq!(served(&fits), held);
    let log = launch(&["--kv-cache-memory-bytes", "32KiB", "--max-model-len", &least]);
    let log = log.err().expect("refused");
    let said = log.iter().find(|line| line.contains("--max-model-len"));
    assert!(said.is_some_and(|line| line.contains("--kv-cache-memory-bytes")), "{log:?}");
}

#[test]
fn an_adapter_comes_along_with_the_request_that_asks_for_it() {
    let adapters = TempDir::new().unwrap();
    copy_folder(&fixture().join("adapters/qv_r4"), &adapters.path().join(".spare/qv"));
    let dir = adapters.path().to_str().unwrap();
    let golden = golden();
    let body = |path: &str| {
        json!({
            "prompt": golden["prompts"][0]["text"], "temperature": 0, "max_tokens": 8, "ignore_eos": true,
            "return_token_ids": true, "lora_request": { "lora_name": "guest", "lora_path": path },
        })
    };
    let closed = launch(&["--adapters-dir", dir]).unwrap();
    assert_eq!(closed.post("/v1/completions", &body(".spare/qv")).status, 403);
    drop(closed);
    let server = launch(&["--adapters-dir", dir, "--allow-runtime-lora-updating"]).unwrap();
    assert_eq!(server.post("/v1/completions", &body("/etc")).status, 400);
    let expected = &golden["runs"]["qv_r4"]["greedy"][0]["tokens"].as_array().unwrap()[..8];
    let told = |reply: &Reply| {
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.body["choices"][0]["token_ids"].as_array().cloned().unwrap_or_default()
    };
    assert_eq!(told(&server.post("/v1/completions", &body(".spare/qv"))), expected);
    // It stays, and conversations take the same way.
    let chat = json!({
        "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 2,
        "lora_request": { "lora_name": "second", "lora_path": ".spare/qv" },
    });
    let reply = server.post("/v1/chat/completions", &chat);
    assert_eq!(reply.status, 200, "{}", reply.text);
    for name in ["guest", "second"] {
        assert_eq!(server.get(&format!("/v1/models/{name}")).body["parent"], json!(LLM));
    }
}

#[test]
fn a_prompt_is_repeated_as_it_was_sent() {
    let server = launch(&[]).unwrap();
    let text = "  The Sea,\tand more ";
    let body = json!({ "prompt": text, "echo": true, "max_tokens": 3, "temperature": 0 });
    let said = server.post("/v1/completions", &body).body["choices"][0]["text"].clone();
    let rest = said.as_str().and_then(|said| said.strip_prefix(text)).unwrap_or_else(|| panic!("{said}"));
    let alone = server.post("/v1/completions", &json!({ "prompt": text, "max_tokens": 3, "temperature": 0 }));
    assert_eq!(alone.body["choices"][0]["text"], json!(rest));
    let parameters = json!({ "return_full_text": true, "max_new_tokens": 3 });
    let whole = server.post("/generate", &json!({ "inputs": text, "parameters": parameters })).body;
    let whole = whole["generated_text"].as_str().unwrap_or_else(|| panic!("{whole}"));
    assert!(whole.starts_with(text), "{whole}");
}
