//! Engines around the fakes, clients, and what a test waits for.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use polylora_engine::*;

use crate::fakes::*;

/// An engine around `control` that has not been waited for.
pub fn start_with(
    control: &Arc<Control>,
    config: EngineConfig,
    factory: RunnerFactory,
) -> Result<Arc<Engine>, StartError> {
    start_instances(control, config, vec![factory])
}

/// The same with several instances.
pub fn start_instances(
    control: &Arc<Control>,
    config: EngineConfig,
    runners: Vec<RunnerFactory>,
) -> Result<Arc<Engine>, StartError> {
    start_parts(control, config, runners, None)
}

/// An engine that is ready and takes turns with others.
pub async fn start_with_turns(config: EngineConfig, turns: DeviceTurns) -> (Arc<Engine>, Arc<Control>) {
    let control = control();
    let engine = start_parts(&control, config, vec![factory(&control)], Some(turns)).unwrap();
    engine.ready().await.unwrap();
    (engine, control)
}

fn start_parts(
    control: &Arc<Control>,
    config: EngineConfig,
    runners: Vec<RunnerFactory>,
    turns: Option<DeviceTurns>,
) -> Result<Arc<Engine>, StartError> {
    let model = ModelInfo {
        name: "fake".to_owned(),
        root: "fake".to_owned(),
        digest: String::new(),
        dimensions: WIDTH,
        max_tokens: MAX_TOKENS,
        vocab_size: 1000,
        dtype: "f32".to_owned(),
        device: "fake".to_owned(),
        prompts: vec![],
        pooling: "mean".to_owned(),
    };
    let prompts = BTreeMap::from([("query".to_owned(), "q:".to_owned())]);
    let parts = EngineParts {
        turns,
        model,
        tokenizer: Arc::new(FakeTokenizer(Arc::clone(control))),
        prompts,
        default_prompt: None,
        adapters: Arc::new(FakeAdapters(Arc::clone(control))),
        runners,
        metrics_label: "fake".to_owned(),
        head: "mean".to_owned(),
    };
    Engine::start(config, parts).map(Arc::new)
}

/// An engine that is ready. The probe was its first batch.
pub async fn start(config: EngineConfig) -> (Arc<Engine>, Arc<Control>) {
    let control = control();
    let engine = start_with(&control, config, factory(&control)).unwrap();
    engine.ready().await.unwrap();
    (engine, control)
}

/// Bounds for tests: as by default, with two tokenizer threads.
pub fn config() -> EngineConfig {
    EngineConfig { tokenize_threads: 2, ..EngineConfig::default() }
}

/// A request for rows of ids.
pub fn ids(adapter: Option<&str>, rows: &[&[u32]]) -> EmbedRequest {
    request(adapter, rows.iter().map(|row| EmbedInput::Tokens(row.to_vec())).collect())
}

/// A request for texts.
pub fn texts(adapter: Option<&str>, texts: &[&str]) -> EmbedRequest {
    request(adapter, texts.iter().map(|text| EmbedInput::Text((*text).to_owned())).collect())
}

fn request(adapter: Option<&str>, inputs: Vec<EmbedInput>) -> EmbedRequest {
    EmbedRequest { inputs, adapter: adapter.map(str::to_owned), ..EmbedRequest::default() }
}

/// A client: a request that runs on its own and goes away when aborted.
pub fn client(
    engine: &Arc<Engine>,
    request: EmbedRequest,
) -> tokio::task::JoinHandle<Result<EmbedReply, EmbedError>> {
    let engine = Arc::clone(engine);
    tokio::spawn(async move { engine.embed(request).await })
}

/// A client whose row holds the device at its gate; returns when it is there.
pub fn hold_device(
    engine: &Arc<Engine>,
    control: &Control,
) -> impl Future<Output = Result<EmbedReply, EmbedError>> + use<> {
    let held = client(engine, ids(None, &[&[GATE]]));
    tokio::task::block_in_place(|| control.device_gate.wait_for_arrival());
    async move { held.await.unwrap() }
}

/// Waits until `condition` holds; a test that never gets there fails.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..30_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never came true: {what}");
}

/// Value of a metric without labels, or with its labels in `name`; that of the model is left out.
pub fn metric(engine: &Engine, name: &str) -> f64 {
    let text = engine.render_metrics();
    value_of(&text, name).unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// The same in Prometheus' text.
pub fn value_of(text: &str, name: &str) -> Option<f64> {
    let model = "model_name=\"fake\"";
    let labelled = match name.strip_suffix('}') {
        _ if !name.starts_with("vllm:") => name.to_owned(),
        Some(labels) => format!("{labels},{model}}}"),
        None => format!("{name}{{{model}}}"),
    };
    let value = text.lines().find_map(|line| line.strip_prefix(&labelled)?.strip_prefix(' '));
    value.map(|value| value.parse().unwrap())
}
