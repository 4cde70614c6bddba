//! The real binary over HTTP against what sentence-transformers and PEFT computed.

use polylora_tests::{Golden, Reply, Server, Shared, at_once, fixtures, largest_difference};
use serde_json::{Value, json};

const BASE: &str = "all-MiniLM-L6-v2";
const TOLERANCE: f32 = 2e-4;
/// Clients of the burst.
const CLIENTS: usize = 100;

static SERVER: Shared<Server> = Shared::new(start);

fn start() -> Server {
    start_with(&[])
}

fn start_with(more: &[&str]) -> Server {
    let adapters = fixtures("minilm/adapters");
    Server::start(&[&["--adapters-dir", adapters.to_str().expect("Unicode")], more].concat())
}

/// The base and every adapter: what clients call it, and whose golden data it has.
fn models(golden: &Golden) -> Vec<(&str, Option<&str>)> {
    let adapters = golden.adapters.iter().map(|name| (name.as_str(), Some(name.as_str())));
    std::iter::once((BASE, None)).chain(adapters).collect()
}

fn ask(server: &Server, body: Value) -> Reply {
    let reply = server.post("/v1/embeddings", &body);
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply
}

#[test]
fn base_and_each_adapter_give_the_golden_embeddings() {
    let (golden, server) = (Golden::read(), SERVER.get());
    assert_eq!(golden.sentences.len(), 64);
    for (model, adapter) in models(&golden) {
        let got = server.embed(model, json!(golden.sentences));
        let error = largest_difference(&got, &golden.embeddings(adapter));
        assert!(error <= TOLERANCE, "{model}: {error}");
    }
}

#[test]
fn a_burst_over_all_models_gives_every_client_its_own_golden_embedding() {
    let (golden, server) = (Golden::read(), start());
    let expected: Vec<_> = models(&golden).into_iter().map(|(m, a)| (m, golden.embeddings(a))).collect();
    let sentences = golden.sentences.len();
    // Neighbours in the list ask for different models.
    let jobs: Vec<(usize, usize)> =
        (0..sentences * expected.len()).map(|i| (i / expected.len(), i % expected.len())).collect();
    let errors = at_once(CLIENTS, &jobs, |&(sentence, model)| {
        let (name, golden_rows) = &expected[model];
        let got = server.embed(name, json!(golden.sentences[sentence]));
        largest_difference(&got, &golden_rows[sentence..=sentence])
    });
    for (error, (sentence, model)) in errors.iter().zip(&jobs) {
        assert!(*error <= TOLERANCE, "sentence {sentence} through {}: {error}", expected[*model].0);
    }
    // The probe at the start is a row and a batch, too.
    let (rows, batches) = (server.metric("polylora_rows_total"), server.metric("polylora_batches_total"));
    assert_eq!(rows, 1.0 + jobs.len() as f64);
    assert!(batches < rows / 2.0, "{rows} rows went in {batches} batches");
    assert!(server.metric("polylora_lora_launches_total") > 0.0);
}

#[test]
fn rows_of_different_models_share_a_batch() {
    // The long texts are one batch.
    let (golden, server) = (Golden::read(), start_with(&["--max-batch-tokens", "16384"]));
    let models = models(&golden);
    for (model, _) in &models {
        server.embed(model, json!("adapters are read before the count begins"));
    }
    let long = vec!["a long text of many words ".repeat(60); 48];
    let before = server.metric("polylora_batches_total");
    std::thread::scope(|scope| {
        scope.spawn(|| server.embed(BASE, json!(long)));
        // While the device is at the long texts, one short text for each model waits.
        while server.metric("polylora_batches_total") == before
            && server.metric("polylora_requests_in_flight") == 0.0
        {}
        at_once(models.len(), &models, |(model, _)| server.embed(model, json!(golden.sentences[0])));
    });
    let batches = server.metric("polylora_batches_total") - before;
    // Were every batch of one model only, these would be one for each model beside the long one.
    assert!(batches < 1.0 + models.len() as f64, "{batches} batches");
}

#[test]
fn token_ids_give_the_same_as_their_text_to_the_bit() {
    let (golden, server) = (Golden::read(), SERVER.get());
    for model in [BASE, "dora_r8"] {
        let by_text = server.embed_bits(model, json!(golden.sentences));
        assert_eq!(server.embed_bits(model, json!(golden.ids)), by_text, "{model}: lists of ids");
        let one = server.embed_bits(model, json!(golden.ids[3]));
        assert_eq!(one[..], by_text[3..=3], "{model}: one list of ids");
    }
}

#[test]
fn base64_is_the_same_as_numbers_to_the_bit() {
    let (golden, server) = (Golden::read(), SERVER.get());
    let numbers = server.embed("patterns", json!(golden.sentences));
    let bits: Vec<Vec<u32>> = numbers.iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect();
    assert_eq!(server.embed_bits("patterns", json!(golden.sentences)), bits);
}

#[test]
fn fewer_dimensions_are_the_golden_ones_cut_and_normalised_again() {
    let (golden, server) = (Golden::read(), SERVER.get());
    for (model, adapter) in [(BASE, None), ("attn_r16", Some("attn_r16"))] {
        for dimensions in [1, 128, 384] {
            let body = json!({ "model": model, "input": golden.sentences, "dimensions": dimensions });
            let got = ask(&server, body).embeddings();
            let cut = |row: &Vec<f32>| {
                let row = &row[..dimensions];
                let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                row.iter().map(|v| v / norm).collect::<Vec<f32>>()
            };
            let expected: Vec<_> = golden.embeddings(adapter).iter().map(cut).collect();
            // What is small before it is normalised again is less exact after it.
            let tolerance = if dimensions == 384 { TOLERANCE } else { 5.0 * TOLERANCE };
            let error = largest_difference(&got, &expected);
            assert!(error <= tolerance, "{model}, {dimensions}: {error}");
        }
    }
}

#[test]
fn replies_keep_the_order_of_the_inputs() {
    let (golden, server) = (Golden::read(), SERVER.get());
    let forwards = golden.embeddings(Some("qv_r8"));
    let backwards: Vec<_> = golden.sentences.iter().rev().collect();
    let reply = ask(&server, json!({ "model": "qv_r8", "input": backwards }));
    let expected: Vec<_> = forwards.iter().rev().cloned().collect();
    assert!(largest_difference(&reply.embeddings(), &expected) <= TOLERANCE);
    let indices: Vec<_> = reply.body["data"].as_array().expect("data").iter().map(|d| &d["index"]).collect();
    assert_eq!(json!(indices), json!((0..64).collect::<Vec<_>>()));
    assert_eq!(reply.body["object"], "list");
    assert_eq!(reply.body["data"][0]["object"], "embedding");
    assert_eq!(reply.body["model"], "qv_r8");
}

#[test]
fn usage_is_the_number_of_tokens_computed() {
    let (golden, server) = (Golden::read(), SERVER.get());
    let tokens: usize = golden.ids.iter().map(Vec::len).sum();
    for input in [json!(golden.sentences), json!(golden.ids)] {
        let usage = ask(&server, json!({ "model": BASE, "input": input })).body["usage"].clone();
        assert_eq!(usage, json!({ "prompt_tokens": tokens, "total_tokens": tokens }));
    }
    let one = ask(&server, json!({ "model": "dora_r8", "input": golden.sentences[5] }));
    assert_eq!(one.body["usage"]["prompt_tokens"], golden.ids[5].len());
}

#[test]
fn every_way_to_name_an_adapter_names_it() {
    let (golden, server) = (Golden::read(), SERVER.get());
    let expected = server.embed_bits("qv_r8", json!(golden.sentences[0]));
    let base = server.embed_bits(BASE, json!(golden.sentences[0]));
    assert_ne!(expected, base);
    let bits = |mut body: Value| {
        body["input"] = json!(golden.sentences[0]);
        let rows = ask(&server, body).embeddings();
        rows.iter().map(|row| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert_eq!(bits(json!({ "model": "qv_r8" })), expected);
    assert_eq!(bits(json!({ "lora_name": "qv_r8" })), expected);
    assert_eq!(bits(json!({ "model": BASE, "lora_name": "qv_r8" })), expected);
    assert_eq!(bits(json!({ "model": "qv_r8", "lora_name": "qv_r8" })), expected);
    assert_eq!(bits(json!({ "model": BASE, "lora_request": { "lora_name": "qv_r8" } })), expected);
    // The base's own names and aliases are the base.
    for name in [BASE, "sentence-transformers/all-MiniLM-L6-v2", "minilm"] {
        assert_eq!(bits(json!({ "model": name })), base, "{name}");
    }
    assert_eq!(bits(json!({})), base);
}
