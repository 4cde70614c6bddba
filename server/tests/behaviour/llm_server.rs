//! The fake server with both models, and what its streams are read with.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use polylora_engine::GenerateRequest;
use polylora_server::api_keys::ApiKeys;
use polylora_server::assemble::Assembly;
use polylora_server::settings::Settings;
use polylora_server::state::{AppState, Gatehouse};
use serde_json::Value;

use crate::fake_engine::{FakeEngine, Reply, Server, assembly, serving};
use crate::fake_llm::{FakeLlm, LLM_ALIAS, LlmMood};

/// A server with both models.
pub struct LlmServer {
    pub server: Server,
    pub llm: Arc<FakeLlm>,
}

impl LlmServer {
    pub fn new() -> Self {
        Self::with(FakeLlm::default(), Settings::default())
    }

    pub fn in_mood(mood: LlmMood) -> Self {
        Self::with(FakeLlm { mood, ..FakeLlm::default() }, Settings::default())
    }

    pub fn with(llm: FakeLlm, settings: Settings) -> Self {
        Self::of(llm, settings, |_| {})
    }

    /// A server that only generates text.
    pub fn alone(settings: Settings) -> Self {
        Self::of(FakeLlm::default(), settings, |assembly| {
            assembly.embedding = None;
            assembly.embedding_aliases.clear();
        })
    }

    fn of(llm: FakeLlm, settings: Settings, change: impl FnOnce(&mut Assembly)) -> Self {
        let (engine, llm) = (Arc::new(FakeEngine::default()), Arc::new(llm));
        let mut assembly = assembly(engine.clone(), &[]);
        change(&mut assembly);
        assembly.generation = Some(llm.clone());
        assembly.generation_aliases = vec![LLM_ALIAS.into()];
        let api_keys = Arc::new(ApiKeys::given(&settings.api_key));
        let gatehouse = Gatehouse { api_keys, ..Gatehouse::default() };
        let state = AppState::behind(gatehouse, assembly, &settings).expect("no clash of names");
        Self { server: serving(engine, state, &settings), llm }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.server.post_to(path, body.to_string()).await
    }

    /// What a good request is answered with, without what no two replies have in common.
    pub async fn reply(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text);
        timeless(reply.json())
    }

    /// The events of a streamed reply, and whether it ends as it should.
    pub async fn events(&self, path: &str, body: &Value) -> (Vec<Value>, bool) {
        let mut body = body.clone();
        body["stream"] = true.into();
        let reply = self.post(path, &body).await;
        assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text);
        assert_eq!(reply.header("content-type"), Some("text/event-stream"));
        assert_eq!(reply.header("cache-control"), Some("no-cache"));
        events_in(&reply.text)
    }

    pub fn asked(&self) -> Vec<GenerateRequest> {
        self.llm.asked.lock().expect("no panic while held").clone()
    }

    pub fn aborted(&self) -> usize {
        self.llm.aborted.load(Ordering::SeqCst)
    }
}

/// The objects of events, and whether `[DONE]` ends them.
pub fn events_in(text: &str) -> (Vec<Value>, bool) {
    let mut events = vec![];
    let mut done = false;
    for event in text.split_terminator("\n\n") {
        assert!(!done, "something after the end: {text}");
        let Some(data) = event.strip_prefix("data: ") else {
            assert!(event.starts_with(": "), "no event and no comment: {event}");
            continue;
        };
        assert!(!data.contains('\n'), "{data}");
        match data {
            "[DONE]" => done = true,
            json => events.push(timeless(serde_json::from_str(json).expect(json))),
        }
    }
    (events, done)
}

/// Without id and time, which are checked.
fn timeless(mut json: Value) -> Value {
    if let Some(object) = json.as_object_mut().filter(|object| object.contains_key("object")) {
        let id = object.remove("id").expect("an id");
        assert!(id.as_str().is_some_and(|id| id.starts_with("cmpl-") || id.starts_with("chatcmpl-")), "{id}");
        let created = object.remove("created").expect("a time");
        assert!(created.as_u64().is_some_and(|created| created > 1_600_000_000), "{created}");
    }
    json
}
