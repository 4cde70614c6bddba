//! The real binary as operators and clients meet it: settings, stopping, hostile requests, the `embed` command.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use polylora_tests::{
    Golden, Server, Shared, at_once, fixtures, largest_difference, minilm_dir, polylora, run,
};
use serde_json::{Value, json};

const BASE: &str = "all-MiniLM-L6-v2";
/// A word of a user's text that may be in no log.
const MARKER: &str = "xylophonequagmire";
const TOLERANCE: f32 = 2e-4;

static SERVER: Shared<Server> = Shared::new(start);

fn start() -> Server {
    Server::start(&["--adapters-dir", &adapters_dir()])
}

fn adapters_dir() -> String {
    fixtures("minilm/adapters").to_str().expect("Unicode").to_owned()
}

fn address(server: &Server) -> &str {
    server.url.strip_prefix("http://").expect("an address")
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(address(server)).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a limit");
    stream
}

/// The head of a POST to the embeddings with these many bytes of body.
fn head(length: usize) -> String {
    format!(
        "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    )
}

/// What comes back on a connection, to its end.
fn answer(mut stream: TcpStream) -> String {
    let mut bytes = vec![];
    // A reset after the reply does not undo it.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn assert_serving_rightly(server: &Server) {
    let golden = Golden::read();
    let error = largest_difference(
        &server.embed("qv_r8", json!(golden.sentences)),
        &golden.embeddings(Some("qv_r8")),
    );
    assert!(error <= TOLERANCE, "{error}");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.metric("polylora_worker_restarts_total"), 0.0);
}

#[test]
fn health_models_and_metrics_answer() {
    let server = SERVER.get();
    assert_eq!(server.get("/health").body, json!({ "status": "ok" }));
    server.embed(BASE, json!("a text"));
    for metric in ["polylora_tokens_total", "polylora_batches_total", "polylora_compute_seconds_sum"] {
        assert!(server.metric(metric) > 0.0, "{metric}");
    }
    let adapter = server.get("/v1/models/qv_r8");
    assert_eq!((adapter.status, &adapter.body["parent"]), (200, &json!(BASE)), "{}", adapter.text);
    assert!(adapter.body["root"].as_str().expect("a root").ends_with("qv_r8"));
    let alias = server.get("/v1/models/sentence-transformers/all-MiniLM-L6-v2");
    assert_eq!((alias.status, &alias.body["parent"]), (200, &Value::Null), "{}", alias.text);
    assert_eq!(server.get("/v1/models/law").status, 404);
}

#[test]
fn a_stop_signal_lets_every_request_in_flight_be_answered() {
    const REQUESTS: usize = 50;
    const MODELS: [&str; 3] = ["qv_r8", BASE, "dora_r8"];
    const DONE: &str = "polylora_requests_total{outcome=\"ok\"}";
    // The default would be short for a slow machine.
    let mut server = Server::start(&["--adapters-dir", &adapters_dir(), "--shutdown-timeout", "110"]);
    // Also the probe at the start may be counted.
    server.embed(BASE, json!("a text"));
    let before = server.metric(DONE);
    let input: Vec<String> =
        (0..2).map(|i| format!("{i} {}", "words that take their time ".repeat(50))).collect();
    let bodies: Vec<String> =
        (0..REQUESTS).map(|i| json!({ "model": MODELS[i % 3], "input": input }).to_string()).collect();
    let streams: Vec<TcpStream> = bodies
        .iter()
        .map(|body| {
            let mut stream = connect(&server);
            write!(stream, "{}{body}", head(body.len())).expect("sent");
            stream
        })
        .collect();
    // Those that are done first: one that ends meanwhile is then not counted at all, rather than twice.
    let in_flight = loop {
        let done = server.metric(DONE) - before;
        let in_flight = server.metric("polylora_requests_in_flight");
        if in_flight + done >= REQUESTS as f64 {
            break in_flight;
        }
    };
    server.terminate();
    assert!(in_flight > 0.0, "all were answered before the signal: the texts are too short");
    for reply in at_once(REQUESTS, &streams, |stream| answer(stream.try_clone().expect("a stream"))) {
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply:.300}\n{}", server.log().join("\n"));
        let body = reply.split("\r\n\r\n").nth(1).expect("a body");
        let body: Value = serde_json::from_str(body).expect("the whole body");
        assert_eq!(body["data"].as_array().map(Vec::len), Some(2));
    }
    drop(streams);
    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{:?}", server.log());
}

#[test]
fn an_idle_server_stops_at_once_with_success() {
    let server = start();
    // A connection that is kept open and asks nothing holds nobody up.
    let _idle = connect(&server);
    let began = Instant::now();
    assert_eq!(server.stop().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_port_in_use_is_named_before_the_model_is_loaded() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let ended = run(polylora().args(["serve", "--device", "cpu", "--port", &port]), "");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("127.0.0.1:{port}")), "{}", ended.stderr);
    assert!(ended.stderr.contains("in use") && !ended.stderr.contains("loading"), "{}", ended.stderr);
}

#[test]
fn flags_lie_over_variables_and_variables_over_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("polylora.toml");
    let text = format!(
        "served_model_name = [\"by-file\"]\nmax_client_batch_size = 2\npayload_limit = \"1MB\"\nport = 1\n\
         adapters_dir = {:?}\n",
        adapters_dir()
    );
    fs::write(&file, text).expect("written");
    let arguments = ["--config", file.to_str().expect("Unicode"), "--served-model-name", "by-flag"];
    let server = Server::launch(&arguments, |command| {
        command.env("POLYLORA__MAX_CLIENT_BATCH_SIZE", "3").env("POLYLORA__SERVED_MODEL_NAME", "by-variable");
    });
    let server = server.expect("starts");
    let ids = server.model_ids();
    assert_eq!(ids[0], "by-flag");
    assert!(ids.contains(&"qv_r8".to_owned()), "the file's folder of adapters: {ids:?}");
    for name in ["by-file", "by-variable"] {
        assert!(!ids.contains(&name.to_owned()), "{ids:?}");
    }
    assert_eq!(server.embed("by-flag", json!(["1", "2", "3"])).len(), 3);
    let four = server.post("/v1/embeddings", &json!({ "input": ["1", "2", "3", "4"] }));
    assert_eq!((four.status, four.code()), (400, "too_many_inputs"), "{}", four.text);
    let large = server.post("/v1/embeddings", &json!({ "input": "x".repeat(1_000_001) }));
    assert_eq!((large.status, large.code()), (413, "payload_too_large"), "the file's limit: {}", large.text);
}

#[test]
fn an_unknown_setting_is_refused_with_its_name_wherever_it_stands() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("polylora.toml");
    fs::write(&file, "port = 0\nprot = 1\n").expect("written");
    let by_file = run(polylora().arg("serve").arg("--config").arg(&file), "");
    let by_variable = run(polylora().arg("serve").env("POLYLORA__PROT", "1"), "");
    let by_flag = run(polylora().args(["serve", "--prot", "1"]), "");
    for (ended, words) in [
        (by_file, ["polylora.toml, line 2", "prot"]),
        (by_variable, ["POLYLORA__PROT", "prot"]),
        (by_flag, ["--prot", "--port"]),
    ] {
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(words.iter().all(|word| ended.stderr.contains(word)), "{}", ended.stderr);
        assert!(ended.stdout.is_empty());
    }
}

#[test]
fn version_names_the_version_and_the_devices() {
    let ended = run(polylora().arg("--version"), "");
    assert_eq!(ended.code, Some(0));
    assert!(ended.stdout.starts_with("polylora 0.") && ended.stdout.contains("cpu"), "{}", ended.stdout);
}

fn printed(ended: &polylora_tests::Ended) -> Vec<Vec<f32>> {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let rows = ended.stdout.lines();
    rows.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:.200}"))).collect()
}

#[test]
fn the_embed_command_prints_the_golden_embeddings() {
    let golden = Golden::read();
    let adapter = fixtures("minilm/adapters/dora_r8");
    let texts = &golden.sentences[..8];
    let base = run(polylora().args(["embed", "--device", "cpu", "--"]).args(texts), "");
    assert!(largest_difference(&printed(&base), &golden.embeddings(None)[..8]) <= TOLERANCE);
    let folder = run(polylora().args(["embed", "--adapter"]).arg(adapter).arg("--").args(texts), "");
    let expected = &golden.embeddings(Some("dora_r8"))[..8];
    assert!(largest_difference(&printed(&folder), expected) <= TOLERANCE);
    let by_name =
        ["embed", "--adapters-dir", &adapters_dir(), "--adapter", "dora_r8", "--"].map(str::to_owned);
    let named = run(polylora().args(by_name).args(texts), "");
    assert_eq!(named.stdout, folder.stdout);
}

#[test]
fn the_embed_command_takes_a_line_of_standard_input_for_a_text() {
    let golden = Golden::read();
    let lines: Vec<usize> = (0..64).filter(|&i| !golden.sentences[i].contains(['\n', '\r'])).collect();
    assert!(lines.len() > 32);
    let input: String = lines.iter().map(|&i| format!("{}\n", golden.sentences[i])).collect();
    let ended = run(polylora().arg("embed"), &input);
    let all = golden.embeddings(None);
    let expected: Vec<_> = lines.iter().map(|&i| all[i].clone()).collect();
    assert!(largest_difference(&printed(&ended), &expected) <= TOLERANCE);
}

#[test]
fn the_embed_command_says_what_it_cannot_do() {
    let model = minilm_dir();
    let unknown = run(polylora().args(["embed", "--adapter", "law", "a text"]), "");
    assert_eq!(unknown.code, Some(1), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("law"), "{}", unknown.stderr);
    let bad = run(
        polylora().args(["embed", "--adapter"]).arg(fixtures("minilm/bad/rank_mismatch")).arg("a text"),
        "",
    );
    assert_eq!(bad.code, Some(1), "{}", bad.stderr);
    assert!(bad.stderr.contains("adapter_model.safetensors"), "{}", bad.stderr);
    let empty = run(polylora().args(["embed", "--embedding-model"]).arg(model).args(["one", ""]), "");
    assert_eq!(empty.code, Some(1), "{}", empty.stderr);
    assert!(empty.stderr.contains("text 2 is empty"), "{}", empty.stderr);
    let missing = run(polylora().args(["embed", "--embedding-model", "/nowhere/at/all", "a text"]), "");
    assert_eq!(missing.code, Some(1), "{}", missing.stderr);
    assert!(missing.stderr.contains("/nowhere/at/all"), "{}", missing.stderr);
}

#[test]
fn clients_that_cut_the_connection_disturb_nobody() {
    let server = start();
    let body =
        json!({ "model": "qv_r8", "input": vec!["a text that nobody waits for ".repeat(20); 8] }).to_string();
    let cuts: Vec<usize> = (0..60).collect();
    at_once(20, &cuts, |i| {
        let mut stream = connect(&server);
        let whole = format!("{}{body}", head(body.len()));
        // Within the head, within the body, right after the request.
        let sent = [10, whole.len() - body.len() / 2, whole.len()][i % 3];
        stream.write_all(&whole.as_bytes()[..sent]).expect("sent");
        if i % 2 == 0 {
            stream.shutdown(Shutdown::Both).expect("shut");
        }
        drop(stream);
        server.embed(BASE, json!("a text that somebody waits for"));
    });
    assert_serving_rightly(&server);
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.metric("polylora_requests_in_flight") > 0.0 || server.metric("polylora_queue_rows") > 0.0 {
        assert!(Instant::now() < deadline, "rows of clients that went away stay");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn hostile_requests_get_a_clear_refusal_and_the_server_stays_right() {
    let server = SERVER.get();
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let bodies: Vec<(String, u16, &str)> = vec![
        (String::new(), 400, "invalid_json"),
        ("{".into(), 400, "invalid_json"),
        ("null".into(), 400, "invalid_value"),
        ("[]".into(), 400, "invalid_json"),
        ("{}".into(), 400, "missing_required_parameter"),
        (r#"{"input": null}"#.into(), 400, "missing_required_parameter"),
        (r#"{"input": ""}"#.into(), 400, "empty_input"),
        (r#"{"input": []}"#.into(), 400, "no_inputs"),
        (r#"{"input": ["a", ""]}"#.into(), 400, "empty_input"),
        (r#"{"input": [[]]}"#.into(), 400, "empty_input"),
        (r#"{"input": [1, "a"]}"#.into(), 400, "invalid_value"),
        (r#"{"input": ["a", 1]}"#.into(), 400, "invalid_value"),
        (r#"{"input": [[1], "a"]}"#.into(), 400, "invalid_value"),
        (r#"{"input": {"a": 1}}"#.into(), 400, "invalid_value"),
        (r#"{"input": true}"#.into(), 400, "invalid_value"),
        (r#"{"input": [-1]}"#.into(), 400, "invalid_value"),
        (r#"{"input": [1.5]}"#.into(), 400, "invalid_value"),
        (r#"{"input": [1e999]}"#.into(), 400, "invalid_json"),
        (r#"{"input": [99999999999]}"#.into(), 400, "invalid_value"),
        (r#"{"input": [4294967295]}"#.into(), 400, "token_out_of_vocabulary"),
        (r#"{"input": [30522]}"#.into(), 400, "token_out_of_vocabulary"),
        (r#"{"input": "a", "input": "b"}"#.into(), 400, "invalid_value"),
        (r#"{"input": "\ud800"}"#.into(), 400, "invalid_json"),
        (r#"{"input": "a", "dimensions": 0}"#.into(), 400, "dimensions_out_of_range"),
        (r#"{"input": "a", "dimensions": 385}"#.into(), 400, "dimensions_out_of_range"),
        (r#"{"input": "a", "dimensions": -1}"#.into(), 400, "invalid_value"),
        (r#"{"input": "a", "dimensions": 99999999999999999999}"#.into(), 400, "invalid_value"),
        (r#"{"input": "a", "encoding_format": "int8"}"#.into(), 400, "invalid_value"),
        (r#"{"input": "a", "prompt_name": "query"}"#.into(), 400, "unknown_prompt"),
        (r#"{"input": "a", "model": 7}"#.into(), 400, "invalid_value"),
        (r#"{"input": "a", "model": "qv_r8", "lora_name": "dora_r8"}"#.into(), 400, "conflicting_adapters"),
        (r#"{"input": "a"} trailing"#.into(), 400, "invalid_json"),
        (json!({ "input": vec!["a"; 2049] }).to_string(), 400, "too_many_inputs"),
        (deep("[", "]"), 400, "invalid_json"),
        (format!("{{\"input\": {}}}", deep("[", "]")), 400, "invalid_value"),
        (deep("{\"a\":", "}"), 400, "invalid_json"),
    ];
    for (body, status, code) in bodies {
        let reply = server.post_text("/v1/embeddings", &body);
        assert_eq!((reply.status, reply.code()), (status, code), "{body:.100}: {}", reply.text);
        assert!(!reply.message().is_empty() && reply.text.len() < 2000, "{body:.100}: {}", reply.text);
    }
    // A field that is ignored may hold what it likes: it is skipped without a stack.
    let ignored = format!("{{\"input\": \"a\", \"other\": {}}}", deep("[", "]"));
    assert_eq!(server.post_text("/v1/embeddings", &ignored).status, 200);
    assert_eq!(server.get("/v1/embeddings").status, 405);
    assert_eq!(server.get("/v2/embeddings").code(), "unknown_url");
    assert_serving_rightly(&server);
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let server = SERVER.get();
    let mut body = br#"{"input": "MARK"}"#.to_vec();
    let at = body.windows(4).position(|w| w == b"MARK").expect("the mark");
    body[at..at + 4].copy_from_slice(&[0xff, 0xfe, 0x80, 0xc0]);
    let mut stream = connect(&server);
    stream.write_all(&[head(body.len()).as_bytes(), &body].concat()).expect("sent");
    let reply = answer(stream);
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("invalid_json"), "{reply}");
    for garbage in [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET\r\n\r\n", &[0; 4096], &[b'a'; 100_000]] {
        let mut stream = connect(&server);
        // The server may hang up before all is sent.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(Shutdown::Write);
        let reply = answer(stream);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{reply}");
    }
    assert_serving_rightly(&server);
}

#[test]
fn a_body_over_the_limit_is_refused_with_the_limit() {
    let server = SERVER.get();
    // Said before the body is read: a client that waits for `100 Continue` sends none of it.
    let mut announced = connect(&server);
    announced
        .write_all(head(10_000_000).replace("Host", "Expect: 100-continue\r\nHost").as_bytes())
        .expect("sent");
    let reply = answer(announced);
    assert!(reply.starts_with("HTTP/1.1 413") && reply.contains("2000000 bytes"), "{reply}");
    // A client that sends 10 MB at once can read the refusal.
    let text = server.post("/v1/embeddings", &json!({ "input": "word ".repeat(2_000_000) }));
    assert_eq!((text.status, text.code()), (413, "payload_too_large"), "{}", text.text);
    // Without a length the body is counted as it comes; this one never ends.
    let mut chunked = connect(&server);
    let head = head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    chunked.write_all(head.as_bytes()).expect("sent");
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..64 {
        if chunked.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    let reply = answer(chunked);
    assert!(reply.starts_with("HTTP/1.1 413"), "{reply}");
    assert_serving_rightly(&server);
}

#[test]
fn ten_megabytes_of_text_are_cut_or_refused_and_hold_nobody_up() {
    let server =
        Server::start(&["--payload-limit", "32MB", "--max-input-chars", "20000000", "--no-auto-truncate"]);
    let words = "word ".repeat(2_000_000);
    let refused = server.post("/v1/embeddings", &json!({ "input": words }));
    assert_eq!((refused.status, refused.code()), (400, "context_length_exceeded"), "{}", refused.text);
    let cut = |input: &str| {
        let body = json!({ "input": input, "truncate_prompt_tokens": -1 });
        let reply = server.post("/v1/embeddings", &body);
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.embeddings()
    };
    assert_eq!(cut(&words), cut(&words[..5 * 300]));
    // One word of ten megabytes, and a text of nothing but accents.
    assert_eq!(cut(&"x".repeat(10_000_000))[0].len(), 384);
    assert_eq!(cut(&"e\u{301}".repeat(3_000_000))[0].len(), 384);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn odd_texts_have_finite_embeddings() {
    let server = SERVER.get();
    let texts = [
        " ",
        "\n\t\r",
        "\0",
        "\u{feff}",
        "\u{200d}",
        "🤷🏽‍♀️🏴󠁧󠁢󠁳󠁣󠁴󠁿",
        "[MASK] [PAD] [SEP]",
        "漢字仮名交じり文",
        "ـﷺﷻ",
        "\u{10ffff}",
    ];
    let rows = server.embed("dora_r8", json!(texts));
    for (row, text) in rows.iter().zip(texts) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-3, "{text:?}: norm {norm}");
    }
}

#[test]
fn no_log_line_has_a_users_text() {
    let server =
        Server::start(&["--log-level", "trace", "--adapters-dir", &adapters_dir(), "--no-auto-truncate"]);
    let bodies = [
        json!({ "input": MARKER }).to_string(),
        json!({ "input": [MARKER, "other"], "model": "qv_r8" }).to_string(),
        json!({ "input": [1, MARKER] }).to_string(),
        json!({ "input": { "text": MARKER } }).to_string(),
        json!({ "input": MARKER.repeat(1000) }).to_string(),
        json!({ "input": MARKER.repeat(100_000) }).to_string(),
        json!({ "input": MARKER, "model": "law" }).to_string(),
        json!({ "input": MARKER, "dimensions": 0 }).to_string(),
        json!({ "input": "a", "encoding_format": MARKER }).to_string(),
        json!({ "input": vec![MARKER; 2049] }).to_string(),
        format!("{{\"input\": \"{MARKER}"),
        MARKER.to_owned(),
    ];
    for body in &bodies {
        server.post_text("/v1/embeddings", body);
        let mut stream = connect(&server);
        let _ = write!(stream, "{}{body}", head(body.len()));
        drop(stream);
    }
    server.get(&format!("/v1/models?{MARKER}"));
    assert_eq!(server.get("/health").status, 200);
    let log = server.log();
    assert!(log.iter().filter(|line| line.contains("/v1/embeddings")).count() >= bodies.len(), "{log:?}");
    for line in log {
        assert!(!line.contains(MARKER), "{line}");
    }
}

#[test]
fn a_key_is_asked_for_and_never_shown() {
    let key = "sk-a-key-of-the-tests";
    let server = Server::launch(&[], |command| {
        command.env("POLYLORA__API_KEY", key);
    });
    let server = server.expect("starts");
    for path in ["/v1/models", "/metrics", "/"] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.code()), (401, "invalid_api_key"), "{path}: {}", reply.text);
    }
    assert_eq!(server.get("/health").status, 200);
    let refused = server.post("/v1/embeddings", &json!({ "input": "a" }));
    assert_eq!(refused.status, 401);
    let ask = |key: &str| {
        let body = r#"{"input": "a"}"#;
        let head = head(body.len()).replace("Host", &format!("Authorization: Bearer {key}\r\nHost"));
        let mut stream = connect(&server);
        write!(stream, "{head}{body}").expect("sent");
        answer(stream)
    };
    assert!(ask(key).starts_with("HTTP/1.1 200"));
    for wrong in ["sk-a-key-of-the-test", "sk-a-key-of-the-tests2", "", "SK-A-KEY-OF-THE-TESTS"] {
        assert!(ask(wrong).starts_with("HTTP/1.1 401"), "{wrong}");
    }
    assert!(server.log().iter().all(|line| !line.contains(key)));
}
