//! Requests that schemathesis makes of `/openapi.json`, against the real binary: no answer is an error of the server's, and
//! each is as the document says.

use std::path::Path;
use std::process::Command;

use polylora_tests::{Server, client_python, copy_folder, fixtures, repository, run};
use serde_json::json;
use tempfile::tempdir;

/// How many requests for each operation, where not the few of every run.
const EXAMPLES_VARIABLE: &str = "POLYLORA_HTTP_FUZZ_EXAMPLES";
const FEW: &str = "15";
/// What makes every short run the same.
const SEED: &str = "1";

#[test]
fn every_answer_to_a_made_up_request_is_as_the_document_says() {
    let adapters = tempdir().expect("a folder");
    for name in ["law", "medical", "programming"] {
        copy_folder(&fixtures("encoders/bert/adapters/a1"), &adapters.path().join(name));
    }
    copy_folder(&fixtures("minilm/bad/config_zero_rank"), &adapters.path().join("refused"));
    let (model, adapters) = (fixtures("encoders/bert/model"), adapters.path().to_str().expect("Unicode"));
    let server =
        Server::start(&["--embedding-model", model.to_str().expect("Unicode"), "--adapters-dir", adapters]);
    let before = server.embed_bits("law", json!(["a text", "another"]));

    let long = std::env::var(EXAMPLES_VARIABLE).ok();
    let mut command = Command::new(client_python(Path::new(env!("CARGO_TARGET_TMPDIR"))));
    command.arg(repository().join("tests/clients/http_fuzz.py"));
    match &long {
        Some(examples) => command.arg(examples),
        None => command.args([FEW, SEED]),
    };
    command.env("POLYLORA_URL", &server.url).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    // A long run takes as long as it takes.
    let output = if long.is_some() {
        let output = command.output().expect("Python runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let ended = run(&mut command, "");
        (ended.code, ended.stdout + &ended.stderr)
    };
    eprintln!("{}", output.1);
    assert_eq!(output.0, Some(0), "schemathesis found what the document does not say");
    assert!(output.1.contains("Test cases:"), "nothing was tried");

    // Whatever was sent, the server is as it was.
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.embed_bits("law", json!(["a text", "another"])), before);
}
