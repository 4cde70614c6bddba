//! text-embeddings-inference's dialect through the real binary, against what sentence-transformers and PEFT computed.

use std::process::Command;

use polylora_tests::{
    Golden, Reply, Server, Shared, fixtures, golden_rows, largest_difference, minilm_dir, run_needed,
};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

const TOLERANCE: f32 = 2e-4;
/// States are larger than what is normalised.
const STATE_TOLERANCE: f32 = 1e-3;
/// Sentences whose token states are golden.
const WITH_STATES: [usize; 3] = [0, 7, 58];

static SERVER: Shared<Server> = Shared::new(start);

fn start() -> Server {
    let adapters = fixtures("minilm/adapters");
    Server::start(&["--adapters-dir", adapters.to_str().expect("Unicode")])
}

fn ask(server: &Server, path: &str, body: Value) -> Reply {
    let reply = server.post(path, &body);
    assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    reply
}

fn vectors(value: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).expect("lists of numbers")
}

fn embed(server: &Server, path: &str, body: Value) -> Vec<Vec<f32>> {
    vectors(&ask(server, path, body).body)
}

fn mean(states: &[Vec<f32>]) -> Vec<f32> {
    let sum = |column: usize| states.iter().map(|state| state[column]).sum::<f32>();
    (0..states[0].len()).map(|column| sum(column) / states.len() as f32).collect()
}

fn normalised(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter().map(|v| v / norm).collect()
}

fn golden_states(adapter: Option<&str>, sentence: usize) -> Vec<Vec<f32>> {
    let name = format!("{}.{sentence}", adapter.unwrap_or("base"));
    golden_rows(&fixtures("minilm").join("token_states.safetensors"), &name)
}

#[test]
fn embed_gives_the_golden_embeddings_of_base_and_each_adapter_however_it_is_named() {
    let (golden, server) = (Golden::read(), SERVER.get());
    let base = embed(&server, "/embed", json!({ "inputs": golden.sentences }));
    assert!(largest_difference(&base, &golden.embeddings(None)) <= TOLERANCE);
    assert_eq!(embed(&server, "/embed", json!({ "inputs": golden.ids })), base);
    for adapter in &golden.adapters {
        let expected = golden.embeddings(Some(adapter));
        let inputs = &golden.sentences;
        let by_path = embed(&server, &format!("/{adapter}/embed"), json!({ "inputs": inputs }));
        let error = largest_difference(&by_path, &expected);
        assert!(error <= TOLERANCE, "{adapter}: {error}");
        for field in ["model", "adapter_id", "lora_name"] {
            let by_field = embed(&server, "/embed", json!({ "inputs": inputs, field: adapter }));
            assert_eq!(by_field, by_path, "{adapter} by {field}");
        }
    }
}

#[test]
fn embed_all_gives_the_golden_state_of_each_token() {
    let (golden, server) = (Golden::read(), SERVER.get());
    for adapter in [None, Some("qv_r8")] {
        let inputs: Vec<_> = WITH_STATES.iter().map(|&i| &golden.sentences[i]).collect();
        let reply = ask(&server, "/embed_all", json!({ "inputs": inputs, "adapter_id": adapter }));
        let texts = reply.body.as_array().expect("a list a text");
        for (found, sentence) in texts.iter().zip(WITH_STATES) {
            let error = largest_difference(&vectors(found), &golden_states(adapter, sentence));
            assert!(error <= STATE_TOLERANCE, "{adapter:?}, {sentence}: {error}");
        }
    }
}

#[test]
fn embed_all_averaged_and_normalised_by_hand_is_embed_and_averaged_alone_is_embed_without_normalisation() {
    let (golden, server) = (Golden::read(), SERVER.get());
    for adapter in [None, Some("dora_r8"), Some("all_linear_r4_rslora")] {
        let body = |normalize: Option<bool>| json!({ "inputs": golden.sentences, "model": adapter, "normalize": normalize });
        let states = ask(&server, "/embed_all", body(None)).body;
        let means: Vec<_> = states.as_array().expect("lists").iter().map(|s| mean(&vectors(s))).collect();
        let raw = embed(&server, "/embed", body(Some(false)));
        assert!(largest_difference(&means, &raw) <= 1e-4);
        let by_hand: Vec<_> = means.iter().map(|mean| normalised(mean)).collect();
        assert!(largest_difference(&by_hand, &embed(&server, "/embed", body(None))) <= 1e-5);
        assert!(largest_difference(&by_hand, &golden.embeddings(adapter)) <= TOLERANCE);
        // Raw embeddings are not what is normalised.
        assert!(largest_difference(&raw, &by_hand) > 0.01);
    }
}

#[test]
fn raw_embeddings_are_the_mean_of_the_golden_states_also_when_cut() {
    let (golden, server) = (Golden::read(), SERVER.get());
    let inputs: Vec<_> = WITH_STATES.iter().map(|&i| &golden.sentences[i]).collect();
    for adapter in [None, Some("qv_r8")] {
        let expected: Vec<_> = WITH_STATES.iter().map(|&i| mean(&golden_states(adapter, i))).collect();
        for dimensions in [384, 100] {
            let body = json!({
                "inputs": inputs, "normalize": false, "dimensions": dimensions, "lora_name": adapter,
            });
            let cut: Vec<_> = expected.iter().map(|row| row[..dimensions].to_vec()).collect();
            let error = largest_difference(&embed(&server, "/embed", body), &cut);
            assert!(error <= STATE_TOLERANCE, "{adapter:?}, {dimensions}: {error}");
        }
    }
}

#[test]
fn a_text_that_is_cut_on_the_left_is_embedded_as_its_end() {
    let server = SERVER.get();
    let words = |range: std::ops::Range<usize>| range.map(|i| format!("word {i} ")).collect::<String>();
    let long = words(0..400);
    let tokenizer = Tokenizer::from_file(minilm_dir().join("tokenizer.json")).expect("a tokenizer");
    let whole = {
        let mut whole = tokenizer;
        whole.with_padding(None);
        whole.with_truncation(None).expect("no limit");
        whole.encode_fast(long.as_str(), true).expect("ids").get_ids().to_vec()
    };
    let last = whole.len() - 1;
    let right: Vec<u32> = [&whole[..255], &whole[last..]].concat();
    let left: Vec<u32> = [&whole[..1], &whole[last - 254..]].concat();
    for (direction, ids) in [("right", right), ("left", left)] {
        let body = json!({ "inputs": long, "truncate": true, "truncation_direction": direction });
        let by_ids = embed(&server, "/embed", json!({ "inputs": ids }));
        assert_eq!(embed(&server, "/embed", body), by_ids, "{direction}");
    }
    let refused = server.post("/embed", &json!({ "inputs": long, "truncate": false }));
    assert_eq!(
        (refused.status, &refused.body["error_type"]),
        (422, &json!("Validation")),
        "{}",
        refused.text
    );
}

#[test]
fn similarities_are_the_products_of_the_golden_embeddings() {
    let (golden, server) = (Golden::read(), SERVER.get());
    for adapter in [None, Some("patterns")] {
        let rows = golden.embeddings(adapter);
        let dot = |other: &Vec<f32>| rows[0].iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
        let expected: Vec<f32> = rows[1..9].iter().map(dot).collect();
        let sentences = &golden.sentences[1..9];
        let inputs = json!({ "source_sentence": golden.sentences[0], "sentences": sentences });
        let reply = ask(&server, "/similarity", json!({ "inputs": inputs, "model": adapter }));
        let found: Vec<f32> = serde_json::from_value(reply.body).expect("numbers");
        assert!(largest_difference(&[found], &[expected]) <= 5.0 * TOLERANCE);
    }
}

#[test]
fn tokens_are_the_golden_ids_and_decode_back_to_texts_that_tokenise_to_them() {
    let (golden, server) = (Golden::read(), SERVER.get());
    // The last sentence is longer than the model takes: its ids are cut, its tokens are not.
    let count = golden.sentences.len() - 1;
    let body = json!({ "inputs": golden.sentences[..count] });
    let lists = ask(&server, "/tokenize", body).body;
    for ((list, ids), text) in lists.as_array().expect("lists").iter().zip(&golden.ids).zip(&golden.sentences)
    {
        let tokens = list.as_array().expect("tokens");
        let found: Vec<u64> = tokens.iter().map(|token| token["id"].as_u64().expect("an id")).collect();
        assert_eq!(json!(found), json!(ids), "{text}");
        for (index, token) in tokens.iter().enumerate() {
            let special = index == 0 || index + 1 == tokens.len();
            assert_eq!(token["special"], special, "{text}: {token}");
            match (token["start"].as_u64(), token["stop"].as_u64()) {
                (Some(start), Some(stop)) => {
                    assert_eq!(token["text"], text[start as usize..stop as usize], "{text}");
                }
                _ => assert!(special && token["start"].is_null() && token["stop"].is_null(), "{token}"),
            }
        }
    }
    let texts = ask(&server, "/decode", json!({ "ids": golden.ids[..count] })).body;
    let again = ask(&server, "/tokenize", json!({ "inputs": texts })).body;
    let ids = |lists: &Value| -> Vec<Vec<u64>> {
        let list = |list: &Value| {
            let tokens = list.as_array().expect("tokens").iter();
            tokens.map(|token| token["id"].as_u64().expect("an id")).collect()
        };
        lists.as_array().expect("lists").iter().map(list).collect()
    };
    let same = ids(&again).iter().zip(ids(&lists)).filter(|(a, b)| *a == b).count();
    // Blanks around marks are the tokenizer's to choose, so a few texts come back as other tokens.
    assert!(same * 10 >= count * 8, "{same} of {count} texts come back");
}

/// Asks with curl, as the documentation has it; the reply's head and body.
fn curl(arguments: &[&str]) -> (String, String) {
    let mut command = Command::new("curl");
    command.args(["-s", "--noproxy", "*", "-D", "-"]).args(arguments);
    let out = run_needed(&mut command, "curl is needed: apt-get install curl").stdout;
    let (head, body) = out.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {out}"));
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn curl_gets_headers_of_time_info_and_errors_in_teis_words() {
    let (golden, server) = (Golden::read(), SERVER.get());
    let url = |path: &str| format!("{}{path}", server.url);
    let json_type = ["-H", "content-type: application/json", "-d"];
    let body = json!({ "inputs": golden.sentences[..2] }).to_string();
    let (head, reply) = curl(&[&[url("/qv_r8/embed").as_str()][..], &json_type, &[&body]].concat());
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let tokens = golden.ids[0].len() + golden.ids[1].len();
    for line in ["x-compute-type: cpu+optimized".to_owned(), format!("x-compute-tokens: {tokens}")] {
        assert!(head.lines().any(|found| found == line), "{line} is not in {head}");
    }
    let found: Vec<Vec<f32>> = serde_json::from_str(&reply).expect("embeddings");
    assert!(largest_difference(&found, &golden.embeddings(Some("qv_r8"))[..2]) <= TOLERANCE);

    let (_, info) = curl(&[&url("/info")]);
    let info: Value = serde_json::from_str(&info).expect("an object");
    assert_eq!(
        (&info["max_input_length"], &info["model_type"]["embedding"]["pooling"]),
        (&json!(256), &json!("mean"))
    );
    assert_eq!(info["model_dtype"], "float32");

    for (path, body, status, kind) in [
        ("/embed", r#"{"inputs": []}"#, 400, "Empty"),
        ("/embed", r#"{"inputs": 7}"#, 422, "Validation"),
        ("/nobody/embed", r#"{"inputs": "a"}"#, 404, "Validation"),
        ("/embed", r#"{"inputs": "a", "adapter_id": "qv_r8", "lora_name": "dora_r8"}"#, 422, "Validation"),
        ("/decode", r#"{"ids": [999999]}"#, 422, "Validation"),
    ] {
        let (head, reply) = curl(&[&[url(path).as_str()][..], &json_type, &[body]].concat());
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{path} {body}: {head}");
        let error: Value = serde_json::from_str(&reply).expect("an error object");
        assert_eq!(error["error_type"], kind, "{path} {body}: {reply}");
    }
    let (head, _) = curl(&[&url("/ready")]);
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[test]
fn rows_of_both_dialects_and_all_outputs_share_the_server_and_keep_their_golden_data() {
    let (golden, server) = (Golden::read(), SERVER.get());
    let expected = [None, Some("qv_r8")].map(|adapter| golden.embeddings(adapter));
    let jobs: Vec<usize> = (0..240).collect();
    let errors = polylora_tests::at_once(40, &jobs, |&job| {
        let (which, sentence) = (job % 2, WITH_STATES[job / 2 % 3]);
        let adapter = [None, Some("qv_r8")][which];
        let (text, row) = (&golden.sentences[sentence], &expected[which][sentence..=sentence]);
        let body = json!({ "inputs": text, "adapter_id": adapter, "normalize": job / 6 % 4 != 1 });
        match job / 6 % 4 {
            0 => largest_difference(&embed(&server, "/embed", body), row),
            1 => {
                let raw = embed(&server, "/embed", body);
                largest_difference(&[normalised(&raw[0])], row)
            }
            2 => {
                let states = vectors(&ask(&server, "/embed_all", body).body[0]);
                largest_difference(&states, &golden_states(adapter, sentence)) / 5.0
            }
            _ => {
                let model = adapter.unwrap_or("all-MiniLM-L6-v2");
                largest_difference(&server.embed(model, json!(text)), row)
            }
        }
    });
    for (job, error) in errors.iter().enumerate() {
        assert!(*error <= TOLERANCE, "job {job}: {error}");
    }
}

#[test]
fn the_document_of_the_real_server_has_its_real_bounds() {
    let server = SERVER.get();
    let document = server.get("/openapi.json");
    assert_eq!(document.status, 200);
    let schemas = &document.body["components"]["schemas"];
    assert_eq!(
        (&schemas["Dimensions"]["maximum"], &schemas["TokenId"]["maximum"]),
        (&json!(384), &json!(30_521))
    );
    assert_eq!(server.get("/docs/").status, 200);
}
