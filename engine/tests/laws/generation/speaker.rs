//! Generation engines around hash devices, requests, and clients that read to the end.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use polylora_engine::*;
use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};
use polylora_models::LanguageModel;
use tokio::task::JoinHandle;

use super::hash_device::{self, Control};
use crate::fakes::FakeAdapters;

/// Gives the tokenizer and the sizes; nothing is computed with it.
static MODEL: LazyLock<Arc<LanguageModel>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llms/llama/model");
    let device = open(DeviceSpec::Cpu, DTypeSpec::F32).expect("a cpu");
    Arc::new(LanguageModel::load(&folder, &device, None).expect("a model"))
});

/// A copy as its client has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Copy {
    pub tokens: Vec<u32>,
    pub text: String,
    pub finish: Option<Finish>,
}

/// A reply as its client has it.
#[derive(Debug)]
pub struct Reply {
    pub cached_tokens: usize,
    pub prompt_logprobs: Option<Vec<GeneratedToken>>,
    pub copies: Vec<Copy>,
}

impl Reply {
    /// The tokens of the only copy.
    pub fn tokens(&self) -> &[u32] {
        assert_eq!(self.copies.len(), 1);
        &self.copies[0].tokens
    }
}

/// Roomy bounds.
pub fn configs() -> GenerationConfigs {
    GenerationConfigs {
        max_concurrent_requests: 64,
        max_input_chars: 1000,
        block_size: some(4),
        blocks: NonZeroU32::new(1000).unwrap(),
        max_batch_tokens: some(256),
        max_running: some(64),
        most_adapters: None,
        prefix_caching: true,
        on_adapter_error: OnAdapterError::Error,
        warm_up: false,
    }
}

pub fn some(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// An engine that takes turns with others, not waited for.
pub fn start_with(
    configs: GenerationConfigs,
    control: &Arc<Control>,
    turns: Option<DeviceTurns>,
) -> GenerationEngine {
    start_beside(configs, control, turns, AdapterFallbacks::default())
}

/// The same, which counts fallbacks together with another.
pub fn start_beside(
    configs: GenerationConfigs,
    control: &Arc<Control>,
    turns: Option<DeviceTurns>,
    fallbacks: AdapterFallbacks,
) -> GenerationEngine {
    let info = LlmInfo {
        name: "fake".to_owned(),
        root: "fake".to_owned(),
        digest: String::new(),
        max_model_len: MODEL.context(),
        vocab_size: MODEL.vocab_size(),
        dtype: "f32".to_owned(),
        device: "fake".to_owned(),
        has_chat_template: true,
    };
    let runner = hash_device::factory(control, configs.blocks.get() as usize, configs.block_size.get());
    let adapters = Arc::new(FakeAdapters(Arc::clone(&control.adapters)));
    let (model, metrics_label) = (Arc::clone(&MODEL), "fake".to_owned());
    let parts = GenerationParts { info, model, adapters, runner, turns, metrics_label, fallbacks };
    GenerationEngine::start(configs, parts).unwrap()
}

/// An engine that is ready.
pub async fn start(configs: GenerationConfigs) -> (Arc<GenerationEngine>, Arc<Control>) {
    let control = Arc::new(Control::default());
    let engine = start_with(configs, &control, None);
    engine.ready().await.unwrap();
    (Arc::new(engine), control)
}

/// A greedy request of one copy that no token ends. Adapter 0 is the base.
pub fn request(number: u8, prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt::Tokens(prompt.to_vec()),
        add_special_tokens: false,
        adapter: (number > 0).then(|| match number {
            hash_device::HUGE => "huge".to_owned(),
            number => format!("a{number}"),
        }),
        split_key: None,
        copies: 1,
        echo: false,
        cache_salt: None,
        sampling: SamplingRequest {
            temperature: Some(0.0),
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            skip_special_tokens: true,
            ..SamplingRequest::default()
        },
    }
}

/// Reads a stream to its end, from where it is.
pub async fn read(mut stream: GenerationStream) -> Result<Reply, GenerateError> {
    let mut copies = BTreeMap::<usize, Copy>::new();
    while let Some(event) = stream.events.recv().await {
        let GenerationEvent { index, text, tokens, finish } = event?;
        let copy = copies.entry(index).or_default();
        assert_eq!(copy.finish, None, "an event after the end of copy {index}");
        copy.text += &text;
        copy.tokens.extend(tokens.iter().map(|token| token.id));
        copy.finish = finish;
    }
    let copies: Vec<Copy> = copies.into_values().collect();
    assert!(copies.iter().all(|copy| copy.finish.is_some()), "a copy broke off: {copies:?}");
    let GenerationStream { cached_tokens, prompt_logprobs, .. } = stream;
    Ok(Reply { cached_tokens, prompt_logprobs, copies })
}

/// A request and its whole reply.
pub async fn reply(engine: &GenerationEngine, request: GenerateRequest) -> Result<Reply, GenerateError> {
    read(engine.generate(request).await?).await
}

/// A client: a request that runs on its own and goes away when aborted.
pub fn client(
    engine: &Arc<GenerationEngine>,
    request: GenerateRequest,
) -> JoinHandle<Result<Reply, GenerateError>> {
    let engine = Arc::clone(engine);
    tokio::spawn(async move { reply(&engine, request).await })
}

/// Value of a metric without labels, or with its labels in `name`, that of the model left out; 0 while it has none.
pub fn metric(engine: &GenerationEngine, name: &str) -> f64 {
    crate::harness::value_of(&engine.render_metrics(), name).unwrap_or(0.0)
}

/// Whether nobody has blocks or waits for some.
pub fn is_empty(engine: &GenerationEngine) -> bool {
    ["vllm:kv_cache_usage_perc", "vllm:num_requests_running", "vllm:num_requests_waiting"]
        .iter()
        .all(|name| metric(engine, name) == 0.0)
}
