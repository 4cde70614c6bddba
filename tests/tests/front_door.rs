//! The real binary's way in: TLS, keys of a file, times, traces, and what is told of a wrong setting.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use polylora_tests::{Ended, Server, polylora, run, run_needed};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;

/// A word of a user's text that may be in no log and in no trace.
const MARKER: &str = "xylophonequagmire";
const LIMIT: Duration = Duration::from_secs(30);

fn text(path: &Path) -> &str {
    path.to_str().expect("Unicode")
}

fn certificate(folder: &Path) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
            .expect("a certificate");
    std::fs::write(folder.join("cert.pem"), cert.pem()).expect("written");
    std::fs::write(folder.join("key.pem"), signing_key.serialize_pem()).expect("written");
}

fn curl(arguments: &[&str]) -> Ended {
    run_needed(Command::new("curl").args(["--silent", "--show-error"]).args(arguments), "install curl")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn curl_is_served_over_tls_and_refused_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path());
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let server = Server::start(&["--ssl-certfile", text(&cert), "--tls-key", text(&key)]);
    let https = server.url.replace("http://", "https://");
    let reply = curl(&[
        "--cacert",
        text(&cert),
        "-H",
        "content-type: application/json",
        "-d",
        r#"{"input": "a text", "encoding_format": "base64"}"#,
        &format!("{https}/v1/embeddings"),
    ]);
    assert!(reply.stdout.contains("\"embedding\":"), "{}", reply.stdout);
    let plain = run(Command::new("curl").args(["--silent", &format!("{}/health", server.url)]), "");
    assert_ne!(plain.code, Some(0), "{}", plain.stdout);
    let untrusted = run(Command::new("curl").args(["--silent", &format!("{https}/health")]), "");
    assert_ne!(untrusted.code, Some(0), "{}", untrusted.stdout);
    assert!(server.stop().success());
}

#[test]
fn settings_that_cannot_be_used_are_told_before_anything_is_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path());
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "# nobody yet\n").expect("written");
    let (cert, missing) = (folder.path().join("cert.pem"), folder.path().join("missing"));
    for (arguments, said) in [
        (vec!["--tls-cert", text(&cert)], "--tls-key is not"),
        (vec!["--tls-cert", text(&cert), "--tls-key", text(&cert)], "has no private key in PEM form"),
        (vec!["--tls-cert", text(&missing), "--tls-key", text(&cert)], "cannot be read (--tls-cert)"),
        (vec!["--api-key-file", text(&empty)], "has no key"),
        (vec!["--api-key-file", text(&missing)], "cannot be read (--api-key-file)"),
        (vec!["--idle-timeout", "0"], "expected a number of seconds from 0.001"),
        (vec!["--allowed-origins", "https://a.example/"], "without a path"),
        (vec!["--otlp-traces-endpoint", "grpc://localhost:4317"], "gRPC is not spoken"),
    ] {
        let ended = run(polylora().args(["serve", "--port", "0"]).args(&arguments), "");
        assert!(ended.code.is_some_and(|code| code != 0), "{arguments:?}");
        assert!(ended.stderr.contains(said), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn keys_of_a_file_are_read_again_on_sighup() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    std::fs::write(&file, "# one\nkey-of-anna\n").expect("written");
    let server = Server::start(&["--api-key-file", text(&file), "--api-key", "key-1", "key-2"]);
    let status = |key: &str| {
        let reply = curl(&[
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            &format!("Authorization: Bearer {key}"),
            &format!("{}/v1/models", server.url),
        ]);
        reply.stdout
    };
    let statuses = |keys: [&str; 4]| keys.map(&status);
    let keys = ["key-of-anna", "key-of-bert", "key-1", "key-2"];
    assert_eq!(statuses(keys), ["200", "401", "200", "200"]);
    let hang_up = || {
        let kill = Command::new("kill").args(["-HUP", &server.pid().to_string()]).status();
        assert!(kill.expect("kill runs").success());
    };
    std::fs::write(&file, "key-of-bert\n").expect("written");
    hang_up();
    until("the file is read again", || status("key-of-bert") == "200");
    assert_eq!(statuses(keys), ["401", "200", "200", "200"]);
    std::fs::remove_file(&file).expect("removed");
    hang_up();
    until("the log tells of it", || server.log().iter().any(|line| line.contains("the old keys hold")));
    assert_eq!(statuses(keys), ["401", "200", "200", "200"]);
    assert!(server.log().iter().all(|line| !line.contains("key-of")));
}

#[test]
fn times_and_lengths_hold_through_flags() {
    let server = Server::start(&[
        "--header-read-timeout",
        "0.5",
        "--body-read-timeout",
        "0.5",
        "--idle-timeout",
        "0.5",
        "--max-input-chars",
        "100",
    ]);
    let address = server.url.strip_prefix("http://").expect("an address");
    let to_end = |sent: &str| {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.write_all(sent.as_bytes()).expect("sent");
        let mut reply = vec![];
        stream.read_to_end(&mut reply).expect("the server closes in good order");
        String::from_utf8_lossy(&reply).into_owned()
    };
    assert_eq!(to_end("GET /health HTTP/1.1\r\nx-slow: "), "");
    assert!(to_end("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 200"));
    let head = "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n";
    assert!(to_end(head).starts_with("HTTP/1.1 408"));
    for (kind, least) in [("header", 1.0), ("body", 1.0), ("idle", 1.0)] {
        assert!(
            server.metric(&format!("polylora_http_timeouts_total{{kind=\"{kind}\"}}")) >= least,
            "{kind}"
        );
    }
    let long = server.post("/v1/embeddings", &json!({ "input": ["short", "é".repeat(101)] }));
    assert_eq!((long.status, long.code()), (400, "text_too_long"), "{}", long.text);
    assert!(long.message().contains("input 1 has 101 characters, at most 100"), "{}", long.text);
    let fits = server.post("/v1/embeddings", &json!({ "input": "é".repeat(100) }));
    assert_eq!(fits.status, 200, "{}", fits.text);
}

/// A collector that keeps all that it is sent, and its address.
fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
    let keeping = Arc::clone(&kept);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
            let mut bytes = vec![];
            // What follows the last byte is silence.
            let _ = stream.read_to_end(&mut bytes);
            keeping.lock().expect("not poisoned").extend(bytes);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    (format!("http://{address}"), kept)
}

#[test]
fn traces_reach_a_collector_with_stages_and_without_texts_at_any_log_level() {
    let (address, kept) = collector();
    let server = Server::start(&["--otlp-traces-endpoint", &address, "--log-level", "trace"]);
    let reply = server.post("/v1/embeddings", &json!({ "input": [MARKER, "another"] }));
    assert_eq!(reply.status, 200, "{}", reply.text);
    server.post_text("/v1/embeddings", &format!("{{\"input\": {{\"{MARKER}\": 1}}}}"));
    for line in server.log() {
        assert!(!line.contains(MARKER), "{line}");
    }
    assert!(server.stop().success());
    let kept = kept.lock().expect("not poisoned");
    let has = |word: &str| kept.windows(word.len()).any(|window| window == word.as_bytes());
    for word in ["polylora", "POST /v1/embeddings", "read_body", "tokenize", "queue", "compute", "request_id"]
    {
        assert!(has(word), "no {word} in {} bytes", kept.len());
    }
    assert!(!has(MARKER));
}

#[test]
fn a_collector_that_is_not_there_costs_one_warning_and_no_request() {
    let server = Server::start(&["--otlp-traces-endpoint", "http://127.0.0.1:9"]);
    for _ in 0..3 {
        assert_eq!(server.post("/v1/embeddings", &json!({ "input": "a" })).status, 200);
    }
    let warnings = || server.log().iter().filter(|line| line.contains("takes no spans")).count();
    until("the warning", || warnings() == 1);
    assert_eq!(server.post("/v1/embeddings", &json!({ "input": "a" })).status, 200);
    assert_eq!(warnings(), 1);
}
