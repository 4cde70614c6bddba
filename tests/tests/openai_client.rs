//! openai-python from the package index, and curl, against the real binary.

use std::fs;
use std::path::Path;
use std::process::Command;

use polylora_tests::{Golden, Server, Shared, assert_held, fixtures, repository, run_needed, script_law};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

const SCRIPT: &str = "tests/clients/openai_embeddings.py";
const KEY: &str = "sk-of-the-tests";

static SERVER: Shared<Server> = Shared::new(|| start(&[]));

fn start(arguments: &[&str]) -> Server {
    let adapters = fixtures("minilm/adapters");
    Server::start(&[&["--adapters-dir", adapters.to_str().expect("Unicode")], arguments].concat())
}

/// What the script compares with.
fn golden_file() -> NamedTempFile {
    let golden = Golden::read();
    let embeddings = json!({ "base": golden.embeddings(None), "qv_r8": golden.embeddings(Some("qv_r8")) });
    let all = json!({ "sentences": golden.sentences, "ids": golden.ids, "embeddings": embeddings });
    let file = NamedTempFile::new().expect("a file");
    fs::write(file.path(), all.to_string()).expect("written");
    file
}

fn assert_law(server: &Server, law: &str) {
    let golden = golden_file();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = script_law(folder, SCRIPT, law, &server.url);
    assert_held(command.env("POLYLORA_GOLDEN", golden.path()).env("POLYLORA_KEY", KEY), law);
}

macro_rules! laws {
    ($($law:ident)*) => {$(
        #[test]
        fn $law() {
            assert_law(&SERVER.get(), stringify!($law));
        }
    )*};
}

laws! {
    a_text_is_embedded
    a_list_of_texts_is_embedded_in_order
    token_ids_are_embedded
    lists_of_token_ids_are_embedded
    numbers_can_be_asked_for
    base64_is_a_string_for_who_asks_for_it
    dimensions_cut_and_normalise
    an_adapter_is_a_model
    an_adapter_can_be_named_in_the_extra_body
    models_are_listed
    a_model_is_retrieved
    an_unknown_model_is_not_found
    an_empty_input_is_a_bad_request
    a_body_over_the_limit_is_said
    many_at_once_get_their_own
}

#[test]
fn a_key_is_needed_and_enough() {
    assert_law(&start(&["--api-key", KEY]), "a_key_is_needed_and_enough");
}

#[test]
fn every_law_of_the_script_is_tried() {
    let script = fs::read_to_string(repository().join(SCRIPT)).expect("the script");
    let own = include_str!("openai_client.rs");
    let defined = script.lines().filter_map(|line| line.strip_prefix("def ")?.strip_suffix("():"));
    let laws: Vec<&str> = defined.collect();
    assert!(laws.len() >= 16, "{laws:?}");
    for law in laws {
        assert!(own.contains(law), "{law} is not tried");
    }
}

#[test]
fn curl_gets_the_golden_embedding() {
    let (golden, server) = (Golden::read(), SERVER.get());
    let body = json!({ "model": "qv_r8", "input": golden.sentences[0] }).to_string();
    let url = format!("{}/v1/embeddings", server.url);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", &url]);
    curl.args(["-H", "Content-Type: application/json", "-d", &body]);
    let ended = run_needed(&mut curl, "install curl (Debian: apt install curl)");
    let reply: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let expected = &golden.embeddings(Some("qv_r8"))[0];
    let got = reply["data"][0]["embedding"].as_array().expect("an embedding");
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got.as_f64().expect("a number") as f32 - expected).abs() <= 2e-4);
    }
}
