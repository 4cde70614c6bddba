//! Adapters that cannot be used, in the folder of a real server: each is refused by name, the others are served.

use std::fs;

use polylora_tests::{Golden, Server, Shared, copy_folder, fixtures, largest_difference};
use serde_json::{Value, json};
use tempfile::TempDir;

const BASE: &str = "all-MiniLM-L6-v2";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Refused at the start, each with words that its reason must have: file, tensor or field, found, expected.
const BY_HEADERS: [(&str, &[&str]); 22] = [
    ("config_absurd_rank", &[CONFIG, "`r`", "1099511627776"]),
    ("config_negative_rank", &[CONFIG, "`r`", "-2"]),
    ("config_not_json", &[CONFIG, "not a JSON object"]),
    ("config_rank_is_string", &[CONFIG, "`r`"]),
    ("config_zero_rank", &[CONFIG, "`r`", "found rank 0"]),
    ("empty_file", &[WEIGHTS, "found 0 bytes", "at least 8"]),
    ("header_longer_than_file", &[WEIGHTS, "header length", "cut short or damaged"]),
    ("huge_header", &[WEIGHTS, "header length", "1152921504606846976"]),
    ("integer_weights", &[WEIGHTS, "tensor", "I32", "expected F32, F16 or BF16"]),
    ("layer_out_of_range", &[WEIGHTS, "encoder.layer.17"]),
    ("missing_tensor", &[WEIGHTS, "encoder.layer.0.attention.self.query.lora_B.weight", "missing"]),
    ("offsets_outside_file", &[WEIGHTS, "tensor", "data_offsets"]),
    ("overlapping_offsets", &[WEIGHTS, "tensor", "overlaps"]),
    ("peft_type_unsupported", &[CONFIG, "`peft_type`", "PREFIX_TUNING", "LORA"]),
    ("pickle_only", &["adapter_model.bin", "safetensors"]),
    ("rank_mismatch", &[WEIGHTS, "tensor", "found rank 2", "expected rank 8"]),
    ("rank_mismatch_a_b", &[WEIGHTS, "tensor", "found rank 3", "expected rank 2"]),
    ("shape_overflow", &[WEIGHTS, "tensor", "shape", "overflows"]),
    ("truncated", &[WEIGHTS, "cut short or damaged"]),
    ("truncated_header", &[WEIGHTS, "header", "cut short or damaged"]),
    ("unknown_target_module", &["module"]),
    ("wrong_hidden_size", &[WEIGHTS, "tensor", "width 256", "expected 384"]),
];
/// Refused when their tensors are read for the first time.
const BY_TENSORS: [(&str, &[&str]); 2] = [
    ("inf_weights", &[WEIGHTS, "encoder.layer.0.attention.self.query.lora_A.weight", "inf", "finite"]),
    ("nan_weights", &[WEIGHTS, "encoder.layer.0.attention.self.query.lora_B.weight", "NaN", "finite"]),
];
const GOOD: [&str; 2] = ["_good_control", "qv_r8"];
/// More than this no refusal may cost.
const MEMORY_LIMIT: usize = 64 << 20;

/// A server over a folder with every bad adapter and the good ones.
struct Served {
    server: Server,
    _folder: TempDir,
}

static SERVED: Shared<Served> = Shared::new(start);

fn folder_of_all() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    copy_folder(&fixtures("minilm/bad"), folder.path());
    copy_folder(&fixtures("minilm/adapters/qv_r8"), &folder.path().join("qv_r8"));
    folder
}

fn start() -> Served {
    let folder = folder_of_all();
    let server = Server::start(&["--adapters-dir", folder.path().to_str().expect("Unicode")]);
    Served { server, _folder: folder }
}

fn ask(server: &Server, model: &str) -> polylora_tests::Reply {
    server.post("/v1/embeddings", &json!({ "model": model, "input": "a text" }))
}

fn assert_refused(server: &Server, name: &str, words: &[&str]) {
    let reply = ask(server, name);
    assert_eq!((reply.status, reply.code()), (400, "adapter_invalid"), "{name}: {}", reply.text);
    assert_eq!(reply.body["error"]["type"], "invalid_request_error");
    assert_eq!(reply.body["error"]["param"], "model");
    for word in words.iter().chain([&name]) {
        assert!(reply.message().contains(word), "{name}: no `{word}` in: {}", reply.message());
    }
}

#[test]
fn the_list_of_bad_adapters_is_complete() {
    let folders = fs::read_dir(fixtures("minilm/bad")).expect("fixtures").map(|f| f.expect("an entry"));
    let mut found: Vec<_> = folders
        .filter(|f| f.path().is_dir())
        .map(|f| f.file_name().into_string().expect("Unicode"))
        .collect();
    found.sort();
    let named = BY_HEADERS.iter().chain(&BY_TENSORS).map(|(name, _)| *name);
    let mut known: Vec<_> = named.chain(["_good_control", "config_missing"]).collect();
    known.sort();
    assert_eq!(found, known);
}

#[test]
fn each_refused_adapter_answers_with_its_reason_and_the_good_ones_stay_right() {
    let served = start();
    let (server, golden) = (&served.server, Golden::read());
    let mut listed: Vec<String> =
        server.model_ids().into_iter().filter(|id| !id.contains("MiniLM")).collect();
    listed.retain(|id| id != "minilm");
    // Tensors are read at the start, so what only they tell is known, too.
    assert_eq!(listed, ["_good_control", "qv_r8"]);
    let right = |what: &str| {
        for (model, adapter) in [(BASE, None), ("qv_r8", Some("qv_r8"))] {
            let error = largest_difference(
                &server.embed(model, json!(golden.sentences)),
                &golden.embeddings(adapter),
            );
            assert!(error <= 2e-4, "{what}: {model}: {error}");
        }
        assert_eq!(ask(server, "_good_control").status, 200, "{what}");
    };
    right("at first");
    let before = server.resident_bytes().expect("Linux tells");
    for _ in 0..3 {
        for (name, words) in BY_HEADERS.iter().chain(&BY_TENSORS) {
            assert_refused(server, name, words);
        }
    }
    let grown = server.resident_bytes().expect("Linux tells").saturating_sub(before);
    assert!(grown < MEMORY_LIMIT, "refusing took {grown} bytes");
    right("afterwards");
    assert_eq!(server.get("/health").status, 200);
    let listed = server.model_ids();
    assert!(GOOD.iter().all(|name| listed.iter().any(|id| id == name)), "{listed:?}");
    for (name, _) in BY_HEADERS.iter().chain(&BY_TENSORS) {
        assert!(!listed.iter().any(|id| id == name), "{name} is listed");
        assert_eq!(server.get(&format!("/v1/models/{name}")).status, 404, "{name}");
    }
    assert_eq!(server.metric("polylora_worker_restarts_total"), 0.0);
}

#[test]
fn the_log_names_each_refused_adapter_with_its_reason() {
    let served = SERVED.get();
    let log = served.server.log();
    for (name, words) in BY_HEADERS {
        let said = |line: &&String| line.contains(name) && words.iter().all(|word| line.contains(word));
        assert!(log.iter().any(|line| said(&line)), "{name} is not in the log:\n{}", log.join("\n"));
    }
}

#[test]
fn strict_adapters_refuses_to_start_and_names_each() {
    let folder = folder_of_all();
    let path = folder.path().to_str().expect("Unicode");
    let log = match Server::try_start(&["--strict-adapters", "--adapters-dir", path]) {
        Ok(_) => panic!("the server started"),
        Err(log) => log.join("\n"),
    };
    let told = log.lines().skip_while(|line| !line.starts_with("error: ")).collect::<Vec<_>>().join("\n");
    for (name, _) in BY_HEADERS.iter().chain(&BY_TENSORS) {
        assert!(told.contains(name), "{name} is not in the error:\n{log}");
    }
    assert!(!told.contains("_good_control"), "{log}");
    assert!(told.contains("24 adapters are refused"), "{log}");
}

#[test]
fn strict_adapters_starts_where_all_are_good() {
    let adapters = fixtures("minilm/adapters");
    let server = Server::start(&["--strict-adapters", "--adapters-dir", adapters.to_str().expect("Unicode")]);
    assert!(server.model_ids().len() >= 8);
}

#[test]
fn an_unknown_name_is_not_found_and_never_the_base() {
    let served = SERVED.get();
    let path = fixtures("minilm/adapters/qv_r8");
    let path = path.to_str().expect("Unicode");
    let names =
        ["law", "config_missing", "", " ", ".", "..", "../qv_r8", "qv_r8/../qv_r8", "qv_r8/", "QV_R8", path];
    let long = "x".repeat(100_000);
    for name in names.into_iter().chain(["manifest.json", "qv_r8\0", &long]) {
        let ways: [Value; 3] = [
            json!({ "model": name, "input": "a text" }),
            json!({ "model": BASE, "lora_name": name, "input": "a text" }),
            json!({ "lora_request": { "lora_name": name }, "input": "a text" }),
        ];
        for body in ways {
            let reply = served.server.post("/v1/embeddings", &body);
            assert_eq!((reply.status, reply.code()), (404, "model_not_found"), "{name:.50?}: {}", reply.text);
            assert!(reply.text.len() < 1000);
        }
    }
}

#[test]
fn an_adapter_that_is_mended_is_served_without_a_restart() {
    let served = start();
    let folder = served._folder.path();
    assert_refused(&served.server, "nan_weights", &["NaN"]);
    assert_refused(&served.server, "rank_mismatch", &["rank"]);
    for name in ["nan_weights", "rank_mismatch"] {
        fs::rename(folder.join(name), folder.join(format!(".{name}"))).expect("moved away");
        copy_folder(&fixtures("minilm/adapters/qv_r8"), &folder.join(name));
    }
    let expected = served.server.embed_bits("qv_r8", json!("a text"));
    for name in ["nan_weights", "rank_mismatch"] {
        let mut tries = 0;
        while ask(&served.server, name).status != 200 {
            tries += 1;
            assert!(tries < 300, "{name} stays refused");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert_eq!(served.server.embed_bits(name, json!("a text")), expected);
    }
}
