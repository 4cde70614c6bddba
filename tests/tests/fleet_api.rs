//! The fleet through the real server, as its operators use it: curl's requests, vLLM's, and `polylora adapters`.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use polylora_tests::{
    Golden, RawClient, Reply, Server, copy_folder, fixtures, largest_difference, minilm_dir, polylora,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const KEY: &str = "operator";
/// Largest difference from the goldens of transformers and PEFT.
const TOLERANCE: f32 = 1e-4;

struct Place {
    adapters: TempDir,
    state: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { adapters: TempDir::new().unwrap(), state: TempDir::new().unwrap() };
        place.put("qv_r8", "law");
        place.put("attn_r16", "spare/v2.0.0");
        place
    }

    fn put(&self, fixture: &str, at: &str) {
        copy_folder(&fixtures("minilm/adapters").join(fixture), &self.adapters.path().join(at));
    }

    fn start(&self, more: &[&str]) -> Server {
        let model = minilm_dir();
        let own = [
            "--embedding-model",
            model.to_str().unwrap(),
            "--adapters-dir",
            self.adapters.path().to_str().unwrap(),
            "--state-dir",
            self.state.path().to_str().unwrap(),
        ];
        Server::launch(&[&own, more].concat(), |command| {
            command.env("POLYLORA__ADMIN_API_KEY", KEY);
        })
        .unwrap_or_else(|log| panic!("{}", log.join("\n")))
    }
}

fn call(server: &Server, method: &str, path: &str, body: Value) -> Reply {
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    let agent: ureq::Agent = config.build().into();
    let (url, bearer) = (format!("{}{path}", server.url), format!("Bearer {KEY}"));
    let response = match method {
        "DELETE" => agent.delete(&url).header("authorization", &bearer).call(),
        "GET" => agent.get(&url).header("authorization", &bearer).call(),
        _ => agent.post(&url).header("authorization", &bearer).send_json(body),
    };
    let mut response = response.expect("the server answers");
    let text = response.body_mut().read_to_string().expect("a body");
    Reply {
        status: response.status().as_u16(),
        body: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
    }
}

/// The embeddings of the golden sentences, and who gave them.
fn embed(server: &Server, golden: &Golden, model: &str) -> (Vec<Vec<f32>>, String) {
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    let agent: ureq::Agent = config.build().into();
    let body = json!({ "model": model, "input": golden.sentences });
    let mut response =
        agent.post(format!("{}/v1/embeddings", server.url)).send_json(body).expect("an answer");
    let tag = response.headers().get("x-polylora-adapter").map(|tag| tag.to_str().unwrap().to_owned());
    let text = response.body_mut().with_config().limit(64 << 20).read_to_string().expect("a body");
    assert_eq!(response.status(), 200, "{model}: {text}");
    let body = serde_json::from_str(&text).unwrap();
    (Reply { status: 200, body, text }.embeddings(), tag.unwrap_or_default())
}

fn answers_as(server: &Server, golden: &Golden, model: &str, fixture: &str, version: &str) {
    let (embeddings, tag) = embed(server, golden, model);
    let difference = largest_difference(&embeddings, &golden.embeddings(Some(fixture)));
    assert!(difference < TOLERANCE, "{model} is not {fixture}: {difference}");
    let name = model.split('@').next().unwrap();
    assert!(tag.starts_with(&format!("{name}@{version}#")), "{model} was answered by {tag}");
}

fn ok(reply: Reply) -> Value {
    assert!([200, 201].contains(&reply.status), "{} {}", reply.status, reply.text);
    reply.body
}

#[test]
fn a_version_is_registered_tried_promoted_rolled_back_and_still_there_after_a_kill() {
    let (place, golden) = (Place::new(), Golden::read());
    let server = place.start(&[]);
    answers_as(&server, &golden, "law", "qv_r8", "1.0.0");
    place.put("attn_r16", "law-next");
    let metadata = json!({
        "adapter_id": "law", "base_model_name": "all-MiniLM-L6-v2", "domain": "law", "adapter_version": "2.0.0",
        "training": { "samples": 9 }, "thresholds": { "near": 0.8 }, "custom_metadata": { "adapter_path": "law-next" },
    });
    let entry = ok(call(&server, "POST", "/api/adapters/register", json!({ "adapter_metadata": metadata })));
    assert_eq!((&entry["active"], &entry["adapter_version"]), (&json!(false), &json!("2.0.0")));
    answers_as(&server, &golden, "law", "qv_r8", "1.0.0");
    answers_as(&server, &golden, "law@2.0.0", "attn_r16", "2.0.0");
    let health = ok(call(&server, "GET", "/api/adapters/law@2.0.0/health", json!({})));
    assert_eq!(health["healthy"], json!(true), "{health}");
    assert_eq!(health["checks"].as_array().unwrap().len(), 5, "{health}");
    ok(call(&server, "POST", "/api/adapters/law/ab", json!({ "candidate": "2.0.0", "percent": 100 })));
    answers_as(&server, &golden, "law", "attn_r16", "2.0.0");
    ok(call(&server, "DELETE", "/api/adapters/law/ab", json!({})));
    let wrong = json!({ "version": "2.0.0", "expected_digest": entry["digest"] });
    assert_eq!(call(&server, "POST", "/api/adapters/law/promote", wrong).code(), "conflict");
    ok(call(&server, "POST", "/api/adapters/law/promote", json!({ "version": "2.0.0" })));
    answers_as(&server, &golden, "law", "attn_r16", "2.0.0");
    // SIGKILL.
    drop(server);
    let server = place.start(&["--warmup", "all"]);
    answers_as(&server, &golden, "law", "attn_r16", "2.0.0");
    ok(call(&server, "POST", "/api/adapters/law/rollback", json!({})));
    answers_as(&server, &golden, "law", "qv_r8", "1.0.0");
    let shown = ok(call(&server, "GET", "/api/adapters/law/metadata", json!({})));
    assert_eq!(shown["versions"][1]["thresholds"], json!({ "near": 0.8 }));
    assert_eq!(shown["versions"][1]["metrics"]["success_rate"], json!(1.0));
    let audit = fs::read_to_string(place.state.path().join("audit.jsonl")).unwrap();
    let actions: Vec<String> = audit
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| format!("{} {}", line["action"].as_str().unwrap(), line["done"]))
        .collect();
    assert_eq!(
        actions,
        ["register true", "ab true", "end_ab true", "promote false", "promote true", "rollback true"]
    );
}

#[test]
fn vllms_clients_load_replace_and_unload_with_the_texts_they_know() {
    let (place, golden) = (Place::new(), Golden::read());
    let server = place.start(&[]);
    let load = |body: Value| call(&server, "POST", "/v1/load_lora_adapter", body);
    place.put("dora_r8", "tools");
    fs::create_dir(place.adapters.path().join(".hidden")).unwrap();
    place.put("attn_r16", ".hidden/next");
    let added = load(json!({ "lora_name": "sql", "lora_path": "tools" }));
    assert_eq!((added.status, added.text.as_str()), (200, "Success: LoRA adapter 'sql' added successfully."));
    answers_as(&server, &golden, "sql", "dora_r8", "1.0.0");
    let again = load(json!({ "lora_name": "sql", "lora_path": "tools" }));
    assert_eq!(again.status, 400);
    assert!(again.message().starts_with("The lora adapter 'sql' has already been loaded."), "{}", again.text);
    let path = place.adapters.path().join(".hidden/next");
    let inplace = load(json!({ "lora_name": "sql", "lora_path": path, "load_inplace": true }));
    assert_eq!(inplace.status, 200, "{}", inplace.text);
    answers_as(&server, &golden, "sql", "attn_r16", "1.0.1");
    for (body, status) in [
        (json!({ "lora_name": "x" }), 400),
        (json!({ "lora_name": "x", "lora_path": "/etc" }), 400),
        (json!({ "lora_name": "x", "lora_path": "../../etc" }), 400),
        (json!({ "lora_name": "a/b", "lora_path": "tools" }), 400),
        (json!({ "lora_name": "all-MiniLM-L6-v2", "lora_path": "tools" }), 400),
    ] {
        assert_eq!(load(body.clone()).status, status, "{body}");
    }
    let listed = server.get("/lora-adapters").body;
    assert!(listed.as_array().unwrap().iter().any(|adapter| adapter["name"] == "sql"), "{listed}");
    let unloaded = call(&server, "POST", "/v1/unload_lora_adapter", json!({ "lora_name": "sql" }));
    assert_eq!(
        (unloaded.status, unloaded.text.as_str()),
        (200, "Success: LoRA adapter 'sql' removed successfully.")
    );
    let gone = call(&server, "POST", "/v1/unload_lora_adapter", json!({ "lora_name": "sql" }));
    assert_eq!((gone.status, gone.message()), (404, "The lora adapter 'sql' cannot be found."));
    assert_eq!(server.post("/v1/embeddings", &json!({ "model": "sql", "input": "a" })).status, 404);
}

#[test]
fn a_folder_that_comes_later_is_found_by_its_name_and_a_broken_one_can_fall_back_to_the_base() {
    let (place, golden) = (Place::new(), Golden::read());
    let server = place.start(&["--on-adapter-error", "base"]);
    place.put("dora_r8", "later");
    answers_as(&server, &golden, "later", "dora_r8", "1.0.0");
    place.put("qv_r8", "broken");
    let weights = place.adapters.path().join("broken/adapter_model.safetensors");
    fs::write(&weights, &fs::read(&weights).unwrap()[..100]).unwrap();
    let reply = server.post("/v1/embeddings", &json!({ "model": "broken", "input": golden.sentences }));
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(
        reply.body["fallback_reason"].as_str().is_some_and(|reason| reason.contains("broken")),
        "no reason"
    );
    let difference = largest_difference(&reply.embeddings(), &golden.embeddings(None));
    assert!(difference < TOLERANCE, "{difference}");
    assert!(server.metric("polylora_adapter_fallbacks_total") > 0.0);
    assert_eq!(server.post("/v1/embeddings", &json!({ "model": "nobody", "input": "a" })).status, 404);
}

#[test]
fn a_virtual_adapter_is_the_weighted_sum_of_its_parts() {
    let (place, golden) = (Place::new(), Golden::read());
    let server = place.start(&[]);
    let parts = json!([{ "adapter_id": "law", "weight": 1.0 }, { "adapter_id": "spare", "weight": 0.0 }]);
    let metadata = json!({ "adapter_id": "both", "virtual_of": parts });
    let body = json!({ "adapter_metadata": metadata, "activate": "now" });
    let entry = ok(call(&server, "POST", "/api/adapters/register", body));
    assert_eq!(entry["virtual_of"].as_array().unwrap().len(), 2);
    answers_as(&server, &golden, "both", "qv_r8", "1.0.0");
    let half = json!([{ "adapter_id": "law", "weight": 0.5 }]);
    let body = json!({ "adapter_metadata": { "adapter_id": "half", "virtual_of": half }, "activate": "now" });
    ok(call(&server, "POST", "/api/adapters/register", body));
    let (base, whole) = (golden.embeddings(None), golden.embeddings(Some("qv_r8")));
    let (half, _) = embed(&server, &golden, "half");
    let (from_base, from_whole) = (largest_difference(&half, &base), largest_difference(&half, &whole));
    assert!(from_base > TOLERANCE && from_whole > TOLERANCE, "{from_base} {from_whole}");
    assert_eq!(call(&server, "DELETE", "/api/adapters/law", json!({})).code(), "part_of_virtual");
}

#[test]
fn the_command_line_does_what_the_api_does_on_a_server_and_on_its_state_afterwards() {
    let place = Place::new();
    let server = place.start(&[]);
    place.put("attn_r16", "law-next");
    let online = |arguments: &[&str]| run(&[arguments, &["--url", &server.url]].concat());
    assert!(online(&["list"]).1.contains("spare"));
    let (code, text) = online(&["register", "law", "law-next", "--version", "3.1.0", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["adapter_version"], json!("3.1.0"));
    assert_eq!(online(&["promote", "law", "3.1.0"]).0, Some(0));
    assert_eq!(online(&["verify"]).0, Some(0));
    assert_eq!(online(&["promote", "nobody", "1.0.0"]).0, Some(1));
    let state = place.state.path().to_str().unwrap().to_owned();
    let offline = |arguments: &[&str]| run(&[arguments, &["--state-dir", &state]].concat());
    assert_eq!(offline(&["list"]).0, Some(1), "a server has it open");
    assert_eq!(server.stop().code(), Some(0));
    let (code, text) = offline(&["show", "law"]);
    assert!(code == Some(0) && text.contains("3.1.0"), "{text}");
    assert_eq!(offline(&["rollback", "law"]).0, Some(0));
    assert_eq!(offline(&["delete", "spare", "--yes"]).0, Some(0));
    let server = place.start(&[]);
    let listed = ok(server.get("/api/adapters/registry"));
    let versions: Vec<_> =
        listed["adapters"].as_array().unwrap().iter().map(|entry| entry["tag"].as_str().unwrap()).collect();
    assert!(versions.iter().any(|tag| tag.starts_with("law@1.0.0#")), "{versions:?}");
    assert!(!versions.iter().any(|tag| tag.starts_with("spare@")), "{versions:?}");
}

#[test]
fn a_change_whose_client_hangs_up_is_made_and_noted_all_the_same() {
    let place = Place::new();
    let server = place.start(&[]);
    place.put("attn_r16", "law-next");
    let metadata = json!({ "adapter_id": "law", "custom_metadata": { "adapter_path": "law-next" } });
    let body = json!({ "adapter_metadata": metadata, "activate": "now" }).to_string();
    let head = format!(
        "POST /api/adapters/register HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let audit = place.state.path().join("audit.jsonl");
    let is_noted = || fs::read_to_string(&audit).unwrap().contains("\"action\":\"register\"");
    // Who is gone before his request was read has asked for nothing: each try stays a little longer.
    for stay in (0..40).map(|n| Duration::from_millis(n * n)) {
        let mut client = RawClient::new(&server.url);
        client.send(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        thread::sleep(stay);
        drop(client);
        let deadline = Instant::now() + Duration::from_secs(2);
        while !is_noted() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        let listed = ok(server.get("/api/adapters/registry")).to_string();
        if is_noted() {
            break;
        }
        assert!(!listed.contains("law@1.0.1"), "made after {stay:?}, and nobody noted it");
    }
    answers_as(&server, &Golden::read(), "law", "attn_r16", "1.0.1");
}

/// Exit code and standard output of `polylora adapters ARGUMENTS`.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = polylora();
    command.arg("adapters").args(arguments).env("POLYLORA__ADMIN_API_KEY", KEY).current_dir(Path::new("/"));
    let output = command.output().expect("the program runs");
    let text = String::from_utf8(output.stdout).unwrap();
    (
        output.status.code(),
        if text.is_empty() { String::from_utf8_lossy(&output.stderr).into_owned() } else { text },
    )
}
