//! Text generation through the real server, against transformers and PEFT: an embedding model and a language model in one
//! process, adapters of both in one folder.

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use polylora_tests::{SMALL_BASE, Server, at_once, copy_folder, fixtures, golden_rows, wgpu_or_not_run};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The language model's name: its folder's.
const LLM: &str = "model";
/// The adapters of the fixture.
const ADAPTERS: [&str; 2] = ["all_r8_rslora", "qv_r4"];
/// Bytes for the keys and values of any test.
const ROOMY: &str = "4MiB";
/// Largest difference of a log-probability.
const TOLERANCE: f64 = 2e-3;

struct Place {
    server: Server,
    golden: Value,
    _adapters: TempDir,
}

impl Place {
    /// A server of the fixture `family` with its adapters beside the small embedding model, and `kv_bytes` for keys and values.
    fn start(family: &str, kv_bytes: &str, more: &[&str]) -> Self {
        let fixture = fixtures(&format!("llms/{family}"));
        let golden = serde_json::from_slice(&fs::read(fixture.join("golden.json")).unwrap()).unwrap();
        let adapters = TempDir::new().unwrap();
        copy_folder(&fixture.join("adapters"), adapters.path());
        let (encoder, decoder) = (fixtures("encoders/bert/model"), fixture.join("model"));
        let own = [
            "--embedding-model",
            encoder.to_str().unwrap(),
            "--served-model-name",
            SMALL_BASE,
            "--llm",
            decoder.to_str().unwrap(),
            "--adapters-dir",
            adapters.path().to_str().unwrap(),
            "--kv-cache-memory-bytes",
            kv_bytes,
            "--block-size",
            "4",
        ];
        let server = Server::start(&[&own, more].concat());
        Self { server, golden, _adapters: adapters }
    }

    fn runs(&self) -> Vec<(String, &Value)> {
        let runs = self.golden["runs"].as_object().unwrap().iter();
        runs.map(|(name, run)| (if name == "base" { LLM.to_owned() } else { name.clone() }, run)).collect()
    }

    fn prompts(&self) -> Vec<&Value> {
        self.golden["prompts"].as_array().unwrap().iter().collect()
    }

    /// The body of a greedy request for as many tokens as the golden has.
    fn body(&self, model: &str, prompt: &Value) -> Value {
        json!({
            "model": model, "prompt": prompt["text"], "temperature": 0, "max_tokens": 24, "ignore_eos": true,
            "logprobs": 1, "return_token_ids": true,
        })
    }
}

fn complete(server: &Server, body: &Value) -> Value {
    let reply = server.post("/v1/completions", body);
    assert_eq!(reply.status, 200, "{body}: {}", reply.text);
    reply.body
}

fn tokens(choice: &Value) -> Vec<u64> {
    choice["token_ids"].as_array().expect("token ids").iter().map(|id| id.as_u64().unwrap()).collect()
}

/// Every prompt through the base and every adapter, greedily: tokens, texts and log-probabilities are the golden's.
fn assert_golden(place: &Place) {
    for (model, run) in place.runs() {
        for (prompt, golden) in place.prompts().into_iter().zip(run["greedy"].as_array().unwrap()) {
            let reply = complete(&place.server, &place.body(&model, prompt));
            let choice = &reply["choices"][0];
            assert_eq!(json!(tokens(choice)), golden["tokens"], "{model} {prompt}");
            assert_eq!(choice["text"], golden["text"], "{model}");
            assert_eq!(choice["finish_reason"], "length");
            let told = choice["logprobs"]["token_logprobs"].as_array().unwrap();
            for (told, golden) in told.iter().zip(golden["logprobs"].as_array().unwrap()) {
                let difference = (told.as_f64().unwrap() - golden.as_f64().unwrap()).abs();
                assert!(difference < TOLERANCE, "{model}: {told} instead of {golden}");
            }
            let ids = prompt["input_ids"].as_array().unwrap();
            assert_eq!(reply["usage"]["prompt_tokens"], json!(ids.len()));
            assert_eq!(reply["usage"]["completion_tokens"], json!(24));
        }
    }
}

#[test]
fn greedy_texts_tokens_and_logprobs_are_those_of_transformers_and_peft() {
    for family in ["llama", "qwen3"] {
        assert_golden(&Place::start(family, ROOMY, &[]));
    }
}

#[test]
fn a_gpu_gives_the_same_texts_through_our_kernels() {
    if wgpu_or_not_run("generating text on a GPU").is_none() {
        return;
    }
    let place = Place::start("llama", ROOMY, &["--device", "wgpu", "--skip-warmup"]);
    assert_golden(&place);
    let launches =
        |kernel| place.server.metric(&format!("polylora_kernel_launches_total{{kernel=\"{kernel}\"}}"));
    for kernel in
        ["embed", "rms_norm", "gated", "store_kv", "attention_prompt", "decode_chunk", "bgmv_shrink"]
    {
        assert!(launches(kernel) > 0.0, "{kernel} was not launched");
    }
}

#[test]
fn texts_of_many_clients_and_adapters_at_once_are_each_what_they_are_alone() {
    // Room for a few sequences only, so that some are preempted; one step takes a part of a prompt.
    let place = Place::start("llama", "384KiB", &["--max-num-batched-tokens", "24"]);
    let (prompts, runs) = (place.prompts(), place.runs());
    let jobs: Vec<(usize, usize)> = (0..48).map(|i| (i % runs.len(), i * 5 % prompts.len())).collect();
    let replies = at_once(24, &jobs, |(run, prompt)| {
        complete(&place.server, &place.body(&runs[*run].0, prompts[*prompt]))
    });
    for (reply, (run, prompt)) in replies.iter().zip(&jobs) {
        let golden = &runs[*run].1["greedy"][*prompt];
        assert_eq!(json!(tokens(&reply["choices"][0])), golden["tokens"], "{} {prompt}", runs[*run].0);
    }
    // Embeddings are served by the same process all the while, and not by the language model's adapters.
    assert_eq!(place.server.embed(SMALL_BASE, json!("a text")).len(), 1);
    let reply = place.server.post("/v1/embeddings", &json!({ "model": ADAPTERS[0], "input": "a text" }));
    assert!(reply.status >= 400 && reply.status < 500, "{}", reply.text);
    assert!(place.server.metric("vllm:prefix_cache_hits_total") > 0.0, "nothing was shared");
    let metrics = place.server.get("/metrics").text;
    for model in [SMALL_BASE, LLM] {
        let idle = format!("vllm:num_requests_running{{model_name=\"{model}\"}} 0\n");
        assert!(metrics.contains(&idle), "{model}: {metrics}");
    }
    assert_eq!(place.server.metric("vllm:kv_cache_usage_perc"), 0.0, "all blocks came back");
}

/// Log-probabilities of a prompt's tokens after the first, from the golden logits before each.
fn golden_prompt_logprobs(family: &str, run: &str, ids: &[u64]) -> Vec<f64> {
    let file = fixtures(&format!("llms/{family}/golden.safetensors"));
    let name = if run == LLM { "base" } else { run };
    let logits = golden_rows(&file, &format!("{name}.all_logits"));
    let logprob = |(logits, id): (&Vec<f32>, &u64)| {
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        f64::from(logits[*id as usize]) - total.ln()
    };
    logits.iter().zip(&ids[1..]).map(logprob).collect()
}

fn assert_close(told: &[f64], golden: &[f64], what: &str) {
    assert_eq!(told.len(), golden.len(), "{what}");
    let largest = told.iter().zip(golden).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest < TOLERANCE, "{what}: {largest}");
}

#[test]
fn log_probabilities_of_prompts_are_those_of_transformers_and_peft_in_every_dialect() {
    // In whole and in parts: one step takes 8 tokens of a prompt at most.
    for (family, more) in [("qwen3", &[][..]), ("llama", &["--max-num-batched-tokens", "8"][..])] {
        let place = Place::start(family, ROOMY, more);
        for (model, run) in place.runs() {
            let prompt = place.prompts()[run["full_prompt_index"].as_u64().unwrap() as usize];
            let ids: Vec<u64> =
                prompt["input_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
            let golden = golden_prompt_logprobs(family, &model, &ids);
            // What others left in the prefix cache is not taken.
            complete(&place.server, &place.body(&model, prompt));

            let mut body = place.body(&model, prompt);
            body["prompt_logprobs"] = json!(2);
            let reply = complete(&place.server, &body);
            let told = reply["choices"][0]["prompt_logprobs"].as_array().unwrap();
            assert!(told[0].is_null());
            let own = |(told, id): (&Value, &u64)| {
                let entry = &told[id.to_string()];
                assert!(entry["rank"].as_u64().unwrap() >= 1 && told.as_object().unwrap().len() >= 2);
                entry["logprob"].as_f64().unwrap()
            };
            let own: Vec<f64> = told[1..].iter().zip(&ids[1..]).map(own).collect();
            assert_close(&own, &golden, &model);
            assert_eq!(reply["usage"]["prompt_tokens_details"]["cached_tokens"], json!(0));

            let mut body = place.body(&model, prompt);
            body["echo"] = json!(true);
            body["max_tokens"] = json!(0);
            let echoed = &complete(&place.server, &body)["choices"][0];
            let told = echoed["logprobs"]["token_logprobs"].as_array().unwrap();
            assert!(told[0].is_null());
            let told: Vec<f64> = told[1..].iter().map(|value| value.as_f64().unwrap()).collect();
            assert_close(&told, &golden, &model);
            assert!(echoed["text"].as_str().unwrap().contains(prompt["text"].as_str().unwrap()));
            let offsets = echoed["logprobs"]["text_offset"].as_array().unwrap();
            assert!(offsets.is_sorted_by_key(|offset| offset.as_u64().unwrap()));

            let parameters = json!({ "details": true, "decoder_input_details": true, "max_new_tokens": 1,
                "adapter_id": if model == LLM { Value::Null } else { json!(model) } });
            let reply = place
                .server
                .post("/generate", &json!({ "inputs": prompt["text"], "parameters": parameters }));
            assert_eq!(reply.status, 200, "{}", reply.text);
            let prefill = reply.body["details"]["prefill"].as_array().unwrap();
            assert_eq!(prefill.iter().map(|token| token["id"].as_u64().unwrap()).collect::<Vec<_>>(), ids);
            assert!(prefill[0]["logprob"].is_null());
            let told: Vec<f64> =
                prefill[1..].iter().map(|token| token["logprob"].as_f64().unwrap()).collect();
            assert_close(&told, &golden, &model);
        }
        let mut streamed = place.body(LLM, place.prompts()[0]);
        streamed["stream"] = json!(true);
        streamed["prompt_logprobs"] = json!(1);
        assert_eq!(place.server.post("/v1/completions", &streamed).status, 400);
    }
}

#[test]
fn a_stream_brings_the_same_text_piece_by_piece() {
    let place = Place::start("llama", ROOMY, &[]);
    for (model, run) in place.runs() {
        let mut body = place.body(&model, place.prompts()[0]);
        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
        let reply = place.server.post("/v1/completions", &body);
        let lines: Vec<&str> = reply.text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(lines.last(), Some(&"[DONE]"), "{}", reply.text);
        let chunks: Vec<Value> =
            lines[..lines.len() - 1].iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
        assert_eq!(json!(text), run["greedy"][0]["text"], "{model}");
        assert!(chunks.len() > 4, "it came in {} pieces", chunks.len());
        assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], json!(24));
    }
}

#[test]
fn a_conversation_goes_through_the_models_own_template() {
    let place = Place::start("qwen3", ROOMY, &[]);
    let mut rendered = 0;
    for chat in place.golden["chat"].as_array().unwrap() {
        // What is read here into maps has lost the order of keys, which a template shows where it writes tools.
        let has_tools = chat["kwargs"].get("tools").is_some() || chat.get("tools").is_some();
        if has_tools || chat.get("error").is_some() || chat["kwargs"]["add_generation_prompt"] != json!(true)
        {
            continue;
        }
        let mut body = json!({
            "model": LLM, "messages": chat["messages"], "temperature": 0, "max_tokens": 4, "return_token_ids": true,
        });
        let mut kwargs = chat["kwargs"].as_object().unwrap().clone();
        kwargs.remove("add_generation_prompt");
        body["chat_template_kwargs"] = Value::Object(kwargs);
        let reply = place.server.post("/v1/chat/completions", &body);
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.body["prompt_token_ids"], chat["input_ids"], "{body}");
        assert!(reply.body["choices"][0]["message"]["content"].is_string(), "{}", reply.text);
        rendered += 1;
    }
    assert!(rendered > 0, "no golden conversation was rendered");
}

#[test]
fn who_hangs_up_gives_his_blocks_back_and_who_asks_for_too_much_is_told_the_numbers() {
    let place = Place::start("llama", ROOMY, &[]);
    let body = json!({
        "model": LLM, "prompt": "The central bank raised", "max_tokens": 100, "ignore_eos": true, "stream": true,
    });
    let body = body.to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut client = TcpStream::connect(place.server.url.trim_start_matches("http://")).unwrap();
    std::io::Write::write_all(&mut client, &[head.as_bytes(), body.as_bytes()].concat()).unwrap();
    let mut first = [0; 16];
    client.read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"));
    drop(client);
    let deadline = Instant::now() + Duration::from_secs(30);
    // A request, so that the figures are new.
    while place.server.metric("vllm:kv_cache_usage_perc") > 0.0 {
        complete(&place.server, &json!({ "model": LLM, "prompt": "a", "max_tokens": 1 }));
        assert!(Instant::now() < deadline, "its blocks are still taken");
        thread::sleep(Duration::from_millis(20));
    }
    let long = json!({ "model": LLM, "prompt": "a", "max_tokens": 1_000_000 });
    let reply = place.server.post("/v1/completions", &long);
    assert_eq!(reply.status, 400, "{}", reply.text);
    assert!(reply.message().contains("1000000"), "{}", reply.message());
    let unknown = place.server.post("/v1/completions", &json!({ "model": "nobody", "prompt": "a" }));
    assert_eq!(unknown.status, 404, "{}", unknown.text);
}

#[test]
fn a_process_without_an_embedding_model_only_generates() {
    let fixture = fixtures("llms/qwen3");
    let (model, adapters) = (fixture.join("model"), fixture.join("adapters"));
    let server = Server::start(&[
        "--embedding-model",
        "none",
        "--llm",
        model.to_str().unwrap(),
        "--adapters-dir",
        adapters.to_str().unwrap(),
        "--served-model-name",
        "mine",
        "--gpu-memory-utilization",
        "0.001",
        "--warmup",
        "all",
    ]);
    let golden: Value = serde_json::from_slice(&fs::read(fixture.join("golden.json")).unwrap()).unwrap();
    for (model, run) in [("mine", "base"), (LLM, "base"), ("qv_r4", "qv_r4")] {
        let body = json!({
            "model": model, "prompt": golden["prompts"][0]["text"], "temperature": 0, "max_tokens": 8, "ignore_eos": true,
            "return_token_ids": true,
        });
        let told = tokens(&complete(&server, &body)["choices"][0]);
        let expected: Vec<u64> =
            serde_json::from_value(golden["runs"][run]["greedy"][0]["tokens"].clone()).unwrap();
        assert_eq!(told, expected[..8], "{model}");
    }
    let reply = server.post("/v1/embeddings", &json!({ "model": LLM, "input": "a text" }));
    assert_eq!((reply.status, &reply.body["error"]["code"]), (400, &json!("model_not_supported")));
    assert_eq!(server.post("/embed", &json!({ "inputs": "a text" })).status, 400);
    let fleet = server.get("/api/adapters/registry");
    assert_eq!(fleet.body["adapters"].as_array().map(Vec::len), Some(2), "{}", fleet.text);
    assert_eq!(
        (server.get("/ready").status, server.get("/info").body["max_total_tokens"].is_number()),
        (200, true)
    );
    assert_eq!(server.get("/api/status").body["model"], Value::Null);
    assert!(server.get("/metrics").text.contains("vllm:num_requests_running{model_name=\"mine\"} 0\n"));
    assert!(server.log().iter().any(|line| line.contains("share of what is free")), "{:?}", server.log());
    assert!(server.log().iter().any(|line| line.contains("loaded ahead") && line.contains("loaded=2")));

    let ended = polylora_tests::run(
        polylora_tests::polylora().args(["--embedding-model", "none", "--port", "0"]),
        "",
    );
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("leaves nothing to serve") && ended.stderr.contains("--llm"),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_adapters_own_chat_template_is_used_for_conversations_through_it() {
    let fixture = fixtures("llms/qwen3");
    let adapters = TempDir::new().unwrap();
    for name in ["plain", "own", "older", "broken"] {
        copy_folder(&fixture.join("adapters/qv_r4"), &adapters.path().join(name));
    }
    let write = |file: &str, text: &str| fs::write(adapters.path().join(file), text).unwrap();
    write("own/chat_template.jinja", "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}");
    write("older/tokenizer_config.json", r#"{"chat_template": "{{ messages[-1].content }}"}"#);
    write("broken/chat_template.jinja", "{% for %}");
    let (encoder, decoder) = (fixtures("encoders/bert/model"), fixture.join("model"));
    let server = Server::start(&[
        "--embedding-model",
        encoder.to_str().unwrap(),
        "--llm",
        decoder.to_str().unwrap(),
        "--served-model-name",
        SMALL_BASE,
        "--adapters-dir",
        adapters.path().to_str().unwrap(),
    ]);
    let messages = json!([{ "role": "user", "content": "The central bank raised" }]);
    let asked = |model: &str| {
        let body = json!({ "model": model, "messages": messages, "max_tokens": 1, "return_token_ids": true });
        let reply = server.post("/v1/chat/completions", &body);
        assert_eq!(reply.status, 200, "{model}: {}", reply.text);
        let told = server.post("/tokenize", &json!({ "model": model, "messages": messages }));
        assert_eq!(told.body["tokens"], reply.body["prompt_token_ids"], "{model}");
        reply.body["prompt_token_ids"].clone()
    };
    let tokens_of = |text: &str| {
        let body = json!({ "model": LLM, "prompt": text, "add_special_tokens": false });
        server.post("/tokenize", &body).body["tokens"].clone()
    };
    assert_eq!(asked("plain"), asked(LLM));
    assert_eq!(asked("own"), tokens_of("<user>The central bank raised"));
    assert_eq!(asked("older"), tokens_of("The central bank raised"));
    let refused = server.post("/v1/chat/completions", &json!({ "model": "broken", "messages": messages }));
    assert_eq!((refused.status, &refused.body["error"]["code"]), (400, &json!("adapter_invalid")));
    assert!(refused.message().contains("chat_template.jinja"), "{}", refused.text);
}
