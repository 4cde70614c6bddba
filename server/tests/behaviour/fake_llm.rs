//! An engine without a model that generates: it judges requests as the real one does and counts words where that has tokens.

use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use polylora_engine::{
    AdapterInfo, BoxFuture, ChatPrompt, DomainLabel, DomainSnapshot, Finish, GenerateError, GenerateRequest,
    GeneratedToken, GenerationEvent, GenerationService, GenerationStream, Health, LlmInfo, Prompt,
    SamplingRequest, ServedBy, Snapshot, StartTimings, StartingGeneration, StopMatch, TextToken, TopToken,
    VersionId,
};
use tokio::sync::mpsc;

pub const LLM: &str = "tiny-llm";
pub const LLM_ALIAS: &str = "someone/tiny-llm";
pub const CONTEXT: usize = 24;
pub const VOCABULARY: usize = 1000;
/// Tokens before the end of text.
const WORDS: [&str; 4] = ["red", "green", "blue", "grey"];
const END: u32 = 2;
const MOST_COPIES: usize = 8;

/// Where every prompt's time went.
const TIMINGS: StartTimings = StartTimings {
    tokenize: Duration::from_millis(2),
    queue: Duration::from_millis(30),
    prefill: Duration::from_millis(400),
};

/// What the fake does with a request that it finds nothing wrong with.
#[derive(Clone, Debug, Default)]
pub enum LlmMood {
    #[default]
    Answers,
    /// Before the prompt is computed.
    Fails(GenerateError),
    /// After so many events.
    FailsAfter(usize, GenerateError),
    /// After so many events nothing comes any more.
    HangsAfter(usize),
    /// After so many events it is gone.
    BreaksOffAfter(usize),
    /// The prompt is never computed.
    NeverStarts,
}

pub struct FakeLlm {
    pub mood: LlmMood,
    pub health: Health,
    pub adapters: Vec<&'static str>,
    pub served_by: Option<ServedBy>,
    pub fallback_reason: Option<String>,
    pub info: LlmInfo,
    pub asked: Mutex<Vec<GenerateRequest>>,
    /// Requests whose client went away.
    pub aborted: Arc<AtomicUsize>,
}

impl Default for FakeLlm {
    fn default() -> Self {
        Self {
            mood: LlmMood::default(),
            health: Health::Ready,
            adapters: vec!["pirate", "team/poet"],
            served_by: None,
            fallback_reason: None,
            info: LlmInfo {
                name: LLM.into(),
                root: "/models/tiny-llm".into(),
                digest: "ab".repeat(32),
                max_model_len: CONTEXT,
                vocab_size: VOCABULARY,
                dtype: "bf16".into(),
                device: "cpu".into(),
                has_chat_template: true,
            },
            asked: Mutex::default(),
            aborted: Arc::default(),
        }
    }
}

/// A conversation as the fake's template writes it.
fn render(chat: &ChatPrompt) -> Result<String, GenerateError> {
    let mut text = String::new();
    for message in &chat.messages {
        let field = |name| message.get_attr(name).expect("an object").to_string();
        if field("role") == "tool" {
            return Err(GenerateError::Template { reason: "tools do not speak".into() });
        }
        text.push_str(&format!("{}: {} ", field("role"), field("content")));
    }
    if chat.add_generation_prompt {
        text.push_str("assistant:");
    }
    Ok(text.trim_end().to_owned())
}

impl FakeLlm {
    fn tokens_of(&self, prompt: &Prompt) -> Result<(Vec<u32>, String), GenerateError> {
        let text = match prompt {
            Prompt::Tokens(ids) => {
                if let Some(&token) = ids.iter().find(|&&id| id as usize >= VOCABULARY) {
                    return Err(GenerateError::TokenOutOfVocabulary { token, vocab_size: VOCABULARY });
                }
                if ids.is_empty() {
                    return Err(GenerateError::EmptyPrompt);
                }
                return Ok((ids.clone(), ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")));
            }
            Prompt::Text(text) => text.clone(),
            Prompt::Chat(_) if !self.info.has_chat_template => return Err(GenerateError::NoChatTemplate),
            Prompt::Chat(chat) => render(chat)?,
        };
        let ids: Vec<u32> = text.split_whitespace().map(|word| word.chars().count() as u32).collect();
        if ids.is_empty() { Err(GenerateError::EmptyPrompt) } else { Ok((ids, text)) }
    }

    fn judge(&self, request: &GenerateRequest) -> Result<GenerationStream, GenerateError> {
        match request.adapter.as_deref() {
            Some("broken") => {
                let reason = "adapter_config.json: r is 0, expected at least 1".into();
                return Err(GenerateError::AdapterInvalid { name: "broken".into(), reason });
            }
            Some(name) if !self.adapters.contains(&name) => {
                return Err(GenerateError::UnknownAdapter { name: name.into() });
            }
            _ => {}
        }
        if request.copies > MOST_COPIES {
            return Err(GenerateError::TooManyCopies { found: request.copies, max: MOST_COPIES });
        }
        check(&request.sampling)?;
        let (tokens, text) = self.tokens_of(&request.prompt)?;
        let wanted =
            request.sampling.max_tokens.unwrap_or_else(|| CONTEXT.saturating_sub(tokens.len()).max(1));
        if tokens.len().saturating_add(wanted) > CONTEXT {
            return Err(GenerateError::TooLong {
                prompt: tokens.len(),
                max_tokens: wanted,
                context: CONTEXT,
            });
        }
        let prompt_logprobs = request.sampling.prompt_logprobs.map(|most| of_prompt(&tokens, &text, most));
        let (sender, events) = mpsc::channel(1);
        let pieces = (0..request.copies).map(|copy| pieces(copy, wanted, request)).collect();
        tokio::spawn(send(sender, interleaved(pieces), self.mood.clone(), Arc::clone(&self.aborted)));
        Ok(GenerationStream {
            cached_tokens: tokens.len() / 2,
            prompt_tokens: tokens.into(),
            prompt_text: request.echo.then_some(text),
            prompt_logprobs,
            timings: TIMINGS,
            started: Instant::now(),
            served_by: self.served_by.clone(),
            fallback_reason: self.fallback_reason.clone(),
            events,
        })
    }
}

fn check(sampling: &SamplingRequest) -> Result<(), GenerateError> {
    let within = |field, value: Option<f32>, least: f32, most: f32| match value {
        Some(value) if !(least..=most).contains(&value) => {
            let reason = format!("{field} is {value}, it must be from {least} to {most}");
            Err(GenerateError::Sampling { field, reason })
        }
        _ => Ok(()),
    };
    within("temperature", sampling.temperature, 0.0, 100.0)?;
    within("top_p", sampling.top_p, 0.001, 1.0)?;
    within("presence_penalty", sampling.presence_penalty, -2.0, 2.0)?;
    within("logprobs", sampling.logprobs.map(|most| most as f32), 0.0, 20.0)?;
    within("prompt_logprobs", sampling.prompt_logprobs.map(|most| most as f32), 0.0, 20.0)
}

fn token(id: u32, text: &str, logprobs: Option<usize>, text_offset: usize) -> GeneratedToken {
    let other = |rank: usize| TopToken {
        id: id + rank as u32,
        text: if rank == 0 { text.into() } else { format!(" other{rank}") },
        logprob: -0.5 - rank as f32,
    };
    GeneratedToken {
        id,
        text: text.into(),
        is_special: id == END,
        logprob: logprobs.map(|_| -0.5),
        rank: logprobs.map(|_| 1),
        top: (0..logprobs.unwrap_or(0)).map(other).collect(),
        text_offset,
    }
}

fn of_prompt(ids: &[u32], text: &str, most: usize) -> Vec<GeneratedToken> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut at = 0;
    let mut tokens = vec![];
    for (&id, word) in ids.iter().zip(words) {
        tokens.push(token(id, word, (!tokens.is_empty()).then_some(most), at));
        at += word.chars().count() + 1;
    }
    tokens
}

/// The events of a copy: the first token's text comes with the second, the third and fourth come together.
fn pieces(copy: usize, wanted: usize, request: &GenerateRequest) -> Vec<GenerationEvent> {
    let sampling = &request.sampling;
    let mut steps: Vec<GenerationEvent> = vec![];
    let mut at = 0;
    for step in 0..wanted {
        let ends = step >= WORDS.len() && !sampling.ignore_eos;
        let word = WORDS[step % WORDS.len()];
        let voice = request.adapter.as_deref().unwrap_or("");
        let (id, text) = match ends {
            true => (END, "</s>".to_owned()),
            false => (100 + 10 * copy as u32 + step as u32, format!(" {word}{copy}{voice}")),
        };
        let stopped = sampling.stop.iter().find(|stop| text.contains(*stop));
        let finish = if ends {
            Some(Finish::Stop { by: None })
        } else if let Some(stop) = stopped {
            Some(Finish::Stop { by: Some(StopMatch::Text(stop.clone())) })
        } else if sampling.stop_token_ids.contains(&id) {
            Some(Finish::Stop { by: Some(StopMatch::Token(id)) })
        } else {
            (step + 1 == wanted).then_some(Finish::Length)
        };
        let tokens = vec![token(id, &text, sampling.logprobs, at)];
        let shown = match (ends, stopped) {
            (true, _) => String::new(),
            (false, Some(stop)) if !sampling.include_stop_str_in_output => {
                text.split(stop.as_str()).next().unwrap_or_default().to_owned()
            }
            _ => text,
        };
        at += shown.chars().count();
        let is_last = finish.is_some();
        steps.push(GenerationEvent { index: copy, text: shown, tokens, finish });
        if is_last {
            break;
        }
    }
    if steps.len() > 1 {
        let held = std::mem::take(&mut steps[0].text);
        steps[1].text.insert_str(0, &held);
    }
    if steps.len() > 3 {
        let fourth = steps.remove(3);
        steps[2].text.push_str(&fourth.text);
        steps[2].tokens.extend(fourth.tokens);
        steps[2].finish = fourth.finish;
    }
    steps
}

/// One event of each copy, then the next of each.
fn interleaved(copies: Vec<Vec<GenerationEvent>>) -> Vec<GenerationEvent> {
    let most = copies.iter().map(Vec::len).max().unwrap_or(0);
    (0..most).flat_map(|step| copies.iter().filter_map(move |copy| copy.get(step).cloned())).collect()
}

async fn send(
    sender: mpsc::Sender<Result<GenerationEvent, GenerateError>>,
    events: Vec<GenerationEvent>,
    mood: LlmMood,
    aborted: Arc<AtomicUsize>,
) {
    for (sent, event) in events.into_iter().enumerate() {
        match &mood {
            LlmMood::FailsAfter(count, error) if sent == *count => {
                let _ = sender.send(Err(error.clone())).await;
                return;
            }
            LlmMood::BreaksOffAfter(count) if sent == *count => return,
            LlmMood::HangsAfter(count) if sent == *count => {
                sender.closed().await;
                aborted.fetch_add(1, Ordering::SeqCst);
                return;
            }
            _ => {}
        }
        if sender.send(Ok(event)).await.is_err() {
            aborted.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}

/// Counts a request that is dropped before its prompt has been computed.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl FakeLlm {
    fn starting(&self, request: GenerateRequest) -> StartingGeneration {
        self.asked.lock().expect("no panic while held").push(request.clone());
        match &self.mood {
            LlmMood::Fails(error) => Box::pin(ready(Err(error.clone()))),
            LlmMood::NeverStarts => {
                let waiting = Waiting(Arc::clone(&self.aborted));
                Box::pin(async move {
                    let _waiting = waiting;
                    std::future::pending().await
                })
            }
            _ => Box::pin(ready(self.judge(&request))),
        }
    }
}

impl GenerationService for FakeLlm {
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, GenerateError>> {
        self.starting(request)
    }

    fn generate_all(&self, requests: Vec<GenerateRequest>) -> Result<Vec<StartingGeneration>, GenerateError> {
        match &self.mood {
            // What is about the whole server is known before any prompt is looked at.
            LlmMood::Fails(error @ (GenerateError::Overloaded { .. } | GenerateError::ShuttingDown)) => {
                Err(error.clone())
            }
            _ => Ok(requests.into_iter().map(|request| self.starting(request)).collect()),
        }
    }

    fn tokenize(
        &self,
        prompt: Prompt,
        _adapter: Option<String>,
        add_special_tokens: bool,
    ) -> BoxFuture<'_, Result<Vec<TextToken>, GenerateError>> {
        Box::pin(async move {
            let (ids, text) = self.tokens_of(&prompt)?;
            let words = text.split_whitespace();
            let mut tokens: Vec<TextToken> = ids
                .into_iter()
                .zip(words)
                .map(|(id, word)| TextToken { id, text: word.into(), span: None })
                .collect();
            if add_special_tokens {
                tokens.insert(0, TextToken { id: 1, text: "<s>".into(), span: None });
            }
            Ok(tokens)
        })
    }

    fn detokenize(&self, ids: Vec<u32>) -> BoxFuture<'_, Result<String, GenerateError>> {
        Box::pin(async move { self.tokens_of(&Prompt::Tokens(ids)).map(|(_, text)| text) })
    }

    fn model(&self) -> &LlmInfo {
        &self.info
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        let info = |name: &&str| AdapterInfo {
            name: (*name).into(),
            root: format!("/llm-adapters/{name}"),
            max_rank: 16,
            digest: None,
            is_loaded: true,
            created: 1_700_000_001,
        };
        self.adapters.iter().map(info).collect()
    }

    fn health(&self) -> Health {
        self.health
    }

    fn snapshot(&self) -> Snapshot {
        let domain = |domain, running_requests, waiting_rows| DomainSnapshot {
            domain,
            requests: 4,
            waiting_rows,
            running_requests,
        };
        Snapshot {
            device: self.info.device.clone(),
            mode: "continuous batching".to_owned(),
            instances: 1,
            domains: vec![
                domain(DomainLabel::Base, 2, 0),
                domain(DomainLabel::Adapter("pirate".to_owned()), 1, 3),
            ],
            running_requests: 3,
            waiting_requests: 3,
            rows_per_second: 0.5,
            tokens_per_second: 64.0,
            latency: None,
        }
    }

    fn render_metrics(&self) -> String {
        "# TYPE polylora_fake_llm gauge\npolylora_fake_llm 1".into()
    }

    fn shutdown(&self, _timeout: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// A version, as an adapter's answers name it.
pub fn version(tag: &str) -> ServedBy {
    ServedBy { id: VersionId(1), tag: tag.into() }
}
