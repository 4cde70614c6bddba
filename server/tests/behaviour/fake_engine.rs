//! An engine without a model: it judges requests as the real one does and answers with numbers made from the input.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use polylora_engine::{
    AdapterInfo, BoxFuture, DecodeRequest, EmbedError, EmbedInput, EmbedReply, EmbedRequest,
    EmbeddingService, Health, Limits, ModelInfo, RowOutput, Snapshot, TextToken, Timings, TokenizeRequest,
};
use polylora_server::api_keys::ApiKeys;
use polylora_server::assemble::Assembly;
use polylora_server::routes::router;
use polylora_server::settings::Settings;
use polylora_server::shutdown::CutOff;
use polylora_server::state::{AppState, Gatehouse};
use serde_json::Value;
use tower::ServiceExt;

pub const BASE: &str = "all-MiniLM-L6-v2";
pub const CATALOGUE_ALIAS: &str = "sentence-transformers/all-MiniLM-L6-v2";
pub const WIDTH: usize = 4;
const VOCABULARY: usize = 30_522;

/// What the fake does with a request that it finds nothing wrong with.
#[derive(Clone, Debug, Default)]
pub enum Mood {
    #[default]
    Answers,
    Fails(EmbedError),
    Panics,
    GivesNan,
    LosesRows,
    Hangs,
    Sleeps(Duration),
}

pub struct FakeEngine {
    pub mood: Mood,
    pub health: Health,
    pub adapters: Vec<&'static str>,
    pub computed: Mutex<Vec<EmbedRequest>>,
    pub model: ModelInfo,
    pub snapshot: Snapshot,
    pub timings: Timings,
}

impl Default for FakeEngine {
    fn default() -> Self {
        Self {
            mood: Mood::default(),
            health: Health::Ready,
            timings: Timings::default(),
            adapters: vec!["law", "team/medical"],
            computed: Mutex::default(),
            model: ModelInfo {
                name: BASE.into(),
                root: "/models/minilm".into(),
                digest: "00".repeat(32),
                dimensions: WIDTH,
                max_tokens: 8,
                vocab_size: VOCABULARY,
                dtype: "f32".into(),
                device: "cpu".into(),
                prompts: vec!["query".into()],
                pooling: "mean".into(),
            },
            snapshot: Snapshot::default(),
        }
    }
}

/// The embedding of input `index`: no two inputs and no two adapters have the same.
pub fn expected(index: usize, adapter: Option<&str>) -> Vec<f32> {
    let adapter = adapter.map_or(0.0, |name| name.len() as f32);
    vec![index as f32 + 0.1, adapter, -0.5, 1.0e-20]
}

impl FakeEngine {
    fn judge(&self, request: &EmbedRequest) -> Result<EmbedReply, EmbedError> {
        if let Some(name) = &request.adapter {
            if name == "broken" {
                let reason = "adapter_config.json: r is 0, expected at least 1".into();
                return Err(EmbedError::AdapterInvalid { name: name.clone(), reason });
            }
            if !self.adapters.iter().any(|known| known == name) {
                return Err(EmbedError::UnknownAdapter { name: name.clone() });
            }
        }
        if request.inputs.is_empty() {
            return Err(EmbedError::NoInputs);
        }
        if request.inputs.len() > 4 {
            return Err(EmbedError::TooManyInputs { found: request.inputs.len(), max: 4 });
        }
        if let Some(name) = request.prompt_name.as_ref().filter(|name| *name != "query") {
            return Err(EmbedError::UnknownPrompt { name: name.clone(), known: "query".into() });
        }
        if let Some(found) = request.dimensions.filter(|found| !(1..=WIDTH).contains(found)) {
            return Err(EmbedError::DimensionsOutOfRange { found, max: WIDTH });
        }
        let mut tokens = 0;
        for (index, input) in request.inputs.iter().enumerate() {
            let count = match input {
                EmbedInput::Text(text) if text.is_empty() => return Err(EmbedError::EmptyInput { index }),
                EmbedInput::Text(text) => text.split_whitespace().count() + 2,
                EmbedInput::Tokens(ids) if ids.is_empty() => return Err(EmbedError::EmptyInput { index }),
                EmbedInput::Tokens(ids) => {
                    if let Some(&token) = ids.iter().find(|&&id| id as usize >= VOCABULARY) {
                        return Err(EmbedError::TokenOutOfVocabulary {
                            index,
                            token,
                            vocab_size: VOCABULARY,
                        });
                    }
                    ids.len()
                }
            };
            if count > self.model.max_tokens && !request.truncate {
                return Err(EmbedError::TooLong { index, tokens: count, max: self.model.max_tokens });
            }
            tokens += count.min(self.model.max_tokens);
        }
        let width = request.dimensions.unwrap_or(WIDTH);
        let embedding = |index| expected(index, request.adapter.as_deref())[..width].to_vec();
        // As many tokens as the input has an index, and one.
        let row = |index: usize| match request.output {
            RowOutput::Tokens => (0..=index).flat_map(|_| embedding(index)).collect(),
            RowOutput::Raw => embedding(index).iter().map(|value| value * 10.0).collect(),
            RowOutput::Embedding | RowOutput::Normalized => embedding(index),
        };
        let embeddings = (0..request.inputs.len()).map(row).collect();
        Ok(EmbedReply { embeddings, tokens, served_by: None, fallback_reason: None, timings: self.timings })
    }
}

impl FakeEngine {
    /// A token a word, whose id is its length.
    fn tokens(&self, request: &TokenizeRequest) -> Result<Vec<Vec<TextToken>>, EmbedError> {
        check_count(request.texts.len())?;
        if let Some(name) = request.prompt_name.as_ref().filter(|name| *name != "query") {
            return Err(EmbedError::UnknownPrompt { name: name.clone(), known: "query".into() });
        }
        let special = |id, text: &str| TextToken { id, text: text.into(), span: None };
        let list = |(index, text): (usize, &String)| {
            if text.is_empty() {
                return Err(EmbedError::EmptyInput { index });
            }
            if text.contains("untokenisable") {
                return Err(EmbedError::Tokenize { index, reason: "no such word".into() });
            }
            let prompted = format!("{}{text}", request.prompt_name.as_ref().map_or("", |_| "query: "));
            let mut tokens = vec![];
            let mut at = 0;
            for word in prompted.split(' ') {
                let span = Some((at, at + word.len()));
                tokens.push(TextToken { id: word.len() as u32, text: word.into(), span });
                at += word.len() + 1;
            }
            if request.special_tokens {
                tokens.insert(0, special(101, "[CLS]"));
                tokens.push(special(102, "[SEP]"));
            }
            Ok(tokens)
        };
        request.texts.iter().enumerate().map(list).collect()
    }

    /// The ids, as words.
    fn texts(&self, request: &DecodeRequest) -> Result<Vec<String>, EmbedError> {
        check_count(request.ids.len())?;
        let text = |(index, ids): (usize, &Vec<u32>)| {
            if ids.is_empty() {
                return Err(EmbedError::EmptyInput { index });
            }
            if let Some(&token) = ids.iter().find(|&&id| id as usize >= VOCABULARY) {
                return Err(EmbedError::TokenOutOfVocabulary { index, token, vocab_size: VOCABULARY });
            }
            let kept = ids.iter().filter(|id| !request.skip_special_tokens || ![101, 102].contains(*id));
            Ok(kept.map(u32::to_string).collect::<Vec<_>>().join(" "))
        };
        request.ids.iter().enumerate().map(text).collect()
    }
}

fn check_count(found: usize) -> Result<(), EmbedError> {
    match found {
        0 => Err(EmbedError::NoInputs),
        5.. => Err(EmbedError::TooManyInputs { found, max: 4 }),
        _ => Ok(()),
    }
}

impl EmbeddingService for FakeEngine {
    fn embed(&self, request: EmbedRequest) -> BoxFuture<'_, Result<EmbedReply, EmbedError>> {
        Box::pin(async move {
            let mut reply = self.judge(&request)?;
            self.computed.lock().expect("no panic while held").push(request);
            match &self.mood {
                Mood::Answers => {}
                Mood::Fails(error) => return Err(error.clone()),
                Mood::Panics => panic!("the fake engine panics"),
                Mood::GivesNan => reply.embeddings[0][1] = f32::NAN,
                Mood::LosesRows => reply.embeddings.clear(),
                Mood::Sleeps(time) => tokio::time::sleep(*time).await,
                Mood::Hangs => std::future::pending().await,
            }
            Ok(reply)
        })
    }

    fn tokenize(&self, request: TokenizeRequest) -> BoxFuture<'_, Result<Vec<Vec<TextToken>>, EmbedError>> {
        Box::pin(async move { self.tokens(&request) })
    }

    fn decode(&self, request: DecodeRequest) -> BoxFuture<'_, Result<Vec<String>, EmbedError>> {
        Box::pin(async move { self.texts(&request) })
    }

    fn limits(&self) -> Limits {
        Limits {
            concurrent_requests: 512,
            client_batch_size: 4,
            input_chars: 1000,
            batch_tokens: 1024,
            tokenize_threads: 2,
        }
    }

    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        let info = |name: &&str| AdapterInfo {
            name: (*name).into(),
            root: format!("/adapters/{name}"),
            max_rank: 8,
            digest: None,
            is_loaded: false,
            created: 1_700_000_000,
        };
        self.adapters.iter().map(info).collect()
    }

    fn health(&self) -> Health {
        self.health
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    fn render_metrics(&self) -> String {
        "# TYPE polylora_fake gauge\npolylora_fake 1".into()
    }
}

/// A server over a fake engine.
pub struct Server {
    pub engine: Arc<FakeEngine>,
    pub router: Router,
    pub cut_off: CutOff,
}

/// The engine with the catalogue's alias and these refused adapters.
pub fn assembly(service: Arc<FakeEngine>, refused: &[&str]) -> Assembly {
    let refused_adapters = refused.iter().map(|&name| name.into()).collect();
    Assembly {
        embedding: Some(service),
        embedding_aliases: vec![CATALOGUE_ALIAS.into()],
        refused_adapters,
        fleet: None,
        generation: None,
        generation_aliases: vec![],
    }
}

/// The server of a state over `engine`.
pub fn serving(engine: Arc<FakeEngine>, state: Arc<AppState>, settings: &Settings) -> Server {
    let cut_off = CutOff::default();
    let router = router(state, cut_off.clone(), &settings.allowed_origins);
    Server { engine, router, cut_off }
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Status, code and param of an error object, which must have all its four fields.
    pub fn error(&self) -> (u16, String, Option<String>) {
        let json = self.json();
        let error = json["error"].as_object().unwrap_or_else(|| panic!("no error object: {}", self.text));
        let mut keys: Vec<_> = error.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["code", "message", "param", "type"]);
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(!error["message"].as_str().expect("a message").is_empty());
        let code = error["code"].as_str().expect("a code").to_owned();
        (self.status.as_u16(), code, error["param"].as_str().map(str::to_owned))
    }

    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().expect("a message").to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Server {
    pub fn new() -> Self {
        Self::with(FakeEngine::default(), Settings::default())
    }

    pub fn with(engine: FakeEngine, settings: Settings) -> Self {
        let api_keys = Arc::new(ApiKeys::given(&settings.api_key));
        Self::behind(Gatehouse { api_keys, ..Gatehouse::default() }, engine, settings)
    }

    pub fn behind(gatehouse: Gatehouse, engine: FakeEngine, settings: Settings) -> Self {
        let engine = Arc::new(engine);
        let state = AppState::behind(gatehouse, assembly(engine.clone(), &[]), &settings);
        serving(engine, state.expect("no clash of names"), &settings)
    }

    pub fn in_mood(mood: Mood) -> Self {
        Self::with(FakeEngine { mood, ..FakeEngine::default() }, Settings::default())
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.expect("the router answers");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 24).await.expect("a whole body");
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Reply { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).expect("a request")).await
    }

    /// Posts to `/v1/embeddings`.
    pub async fn post(&self, body: impl Into<Body>) -> Reply {
        self.post_to("/v1/embeddings", body).await
    }

    pub async fn post_to(&self, path: &str, body: impl Into<Body>) -> Reply {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(body.into()).expect("a request")).await
    }

    pub fn computed(&self) -> Vec<EmbedRequest> {
        self.engine.computed.lock().expect("no panic while held").clone()
    }
}
