//! A request's way from prompt to stream: it is let in, read, given its adapter, and handed to the owner thread.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use polylora_adapters::{BaseModel, Digest, DigestBuilder, LoadedAdapter};
use polylora_generation::{Domain, NewSequence, PrefixRoot, SequenceId, SpecialTokens};
use polylora_models::LanguageModel;
use tokio::sync::{mpsc, oneshot};

use super::generation_engine::GenerationConfigs;
use super::generation_metrics::GenerationMetrics;
use super::generation_worker::adapter_key;
use super::live_request::{GenerationJob, Started, most_events};
use super::outcome_report::OutcomeReport;
use super::presence::Presence;
use super::prompt_reader::{ModelText, PromptReader, templates_of};
use super::prompt_scores::PromptScores;
use super::reading_room::ReadingRoom;
use super::sampling_rules::{SequenceBounds, sampling_params};
use super::speech::ReadPrompt;
use super::told_token::WITH_SPECIAL;
use crate::adapter_loads::AdapterLoads;
use crate::adapter_source::{AdapterQuery, AdapterSource, FoundAdapter, ServedAdapter};
use crate::admission::{Admission, Permits};
use crate::status::Status;
use crate::{
    EmbedError, GenerateError, GenerateRequest, GeneratedToken, GenerationStream, OnAdapterError, Prompt,
    SamplingRequest,
};

/// All that a request passes.
pub(super) struct GenerationPath {
    pub(super) model: Arc<LanguageModel>,
    /// Tokens that a text may have: what the model was made for, or the less that it is served with.
    pub(super) context: usize,
    pub(super) adapters: Arc<dyn AdapterSource>,
    pub(super) loads: AdapterLoads,
    pub(super) admission: Admission,
    pub(super) reading: ReadingRoom,
    pub(super) jobs: Mutex<Option<mpsc::Sender<GenerationJob>>>,
    pub(super) status: Arc<Status>,
    pub(super) metrics: Arc<GenerationMetrics>,
    pub(super) configs: GenerationConfigs,
    /// The seed of the next request that brings none; counts up from a random number.
    pub(super) seeds: AtomicU64,
}

/// What a request is computed with.
#[derive(Default)]
pub(super) struct Chosen {
    adapter: Option<ServedAdapter>,
    fallback_reason: Option<String>,
}

impl Chosen {
    /// Its adapter.
    pub(super) fn loaded(&self) -> Option<LoadedAdapter> {
        self.adapter.as_ref().map(|served| served.adapter.clone())
    }
}

/// What is read before a text can begin.
struct Unread {
    prompt: Prompt,
    add_special_tokens: bool,
    copies: NonZeroUsize,
    sampling: SamplingRequest,
}

impl GenerationPath {
    /// Lets a client's request for so many prompts in: as a whole or not at all.
    ///
    /// # Errors
    /// When as many are in flight as may be, or the engine stops.
    pub(super) fn admit(&self, prompts: usize) -> Result<Arc<Permits>, GenerateError> {
        if self.status.is_stopping() {
            return Err(GenerateError::ShuttingDown);
        }
        Ok(Arc::new(self.admission.admit(prompts)?))
    }

    /// Generates for a prompt of a request that was let in.
    ///
    /// # Errors
    /// Whatever keeps it from being started.
    pub(super) async fn generate(
        self: Arc<Self>,
        request: GenerateRequest,
        permits: Arc<Permits>,
    ) -> Result<GenerationStream, GenerateError> {
        let arrived = Instant::now();
        let copies = NonZeroUsize::new(request.copies)
            .filter(|copies| copies.get() <= polylora_generation::MAX_N)
            .ok_or(GenerateError::TooManyCopies { found: request.copies, max: polylora_generation::MAX_N })?;
        let GenerateRequest { prompt, add_special_tokens, adapter, split_key, echo, sampling, .. } = request;
        let query = adapter.as_deref().map(|name| AdapterQuery { name, split_key });
        let asked_text = match &prompt {
            Prompt::Text(text) if echo => Some(text.clone()),
            _ => None,
        };
        // It may be the adapter's own template that makes a text of it.
        let awaits_adapter = matches!(prompt, Prompt::Chat(_)) && query.is_some();
        let unread = Unread { prompt, add_special_tokens, copies, sampling };
        let (chosen, prompt) = match awaits_adapter {
            true => {
                let chosen = self.choose(query).await?;
                let prompt = self.read(unread, chosen.loaded(), &permits).await?;
                (chosen, prompt)
            }
            false => tokio::try_join!(self.choose(query), self.read(unread, None, &permits))?,
        };
        let ReadPrompt { tokens, max_tokens, speech } = prompt;
        let Chosen { adapter: served, fallback_reason } = chosen;
        // Whoever falls back to the base is its traffic.
        let domain = adapter.filter(|_| served.is_some());
        let (adapter, served_by) = served.map(|served| (served.adapter, served.served_by)).unzip();
        let submitted = Instant::now();
        let (started, starts) = oneshot::channel();
        let (events, stream) = mpsc::channel(most_events(copies.get(), max_tokens.get()));
        let digest = adapter.as_ref().map(|adapter| adapter.digest);
        let job = GenerationJob {
            sequence: NewSequence {
                id: SequenceId(0),
                prompt: tokens.to_vec(),
                root: prefix_root(self.model.digest(), digest, request.cache_salt.as_deref()),
                domain: adapter.as_ref().map_or(Domain::Base, |a| Domain::Adapter(adapter_key(a))),
                copies,
                max_tokens,
                scores_prompt: speech.prompt_logprobs.is_some(),
            },
            adapter,
            speech,
            submitted,
            started,
            events,
            permits,
            presence: Presence::new(self.metrics.traffic.domain(domain.as_deref())),
            report: served_by
                .as_ref()
                .map(|served_by| OutcomeReport::begin(Arc::clone(&self.adapters), served_by.id)),
        };
        let jobs = self.jobs.lock().clone().ok_or(GenerateError::ShuttingDown)?;
        jobs.send(job).await.map_err(|_| self.worker_is_gone())?;
        drop(jobs);
        let outcome = starts.await.unwrap_or_else(|_| Err(self.worker_is_gone()));
        let Started { cached_tokens, prompt_scores, times, at } = outcome?;
        let prompt_logprobs = match prompt_scores {
            Some(scores) => Some(self.told(scores, Arc::clone(&tokens), asked_text.is_some()).await?),
            None => None,
        };
        let max_chars = self.configs.max_input_chars;
        let reader = PromptReader { model: &self.model, max_chars, templates: None };
        Ok(GenerationStream {
            // Repeated as it was sent: special tokens that the tokenizer added are no part of it.
            prompt_text: echo.then(|| asked_text.unwrap_or_else(|| reader.text_of(&tokens))),
            prompt_tokens: tokens,
            cached_tokens,
            prompt_logprobs,
            timings: times.until_start(submitted.saturating_duration_since(arrived)),
            started: at,
            served_by,
            fallback_reason,
            events: stream,
        })
    }

    /// A prompt, read where it disturbs nobody, with all that its copies begin with.
    async fn read(
        &self,
        unread: Unread,
        adapter: Option<LoadedAdapter>,
        permits: &Arc<Permits>,
    ) -> Result<ReadPrompt, GenerateError> {
        let Unread { prompt, add_special_tokens, copies, sampling } = unread;
        let (door, context) = (ModelText(Arc::clone(&self.model)), self.context);
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        let work = move |reader: PromptReader<'_>| {
            let (model, tokens) = (reader.model, reader.ids(prompt, add_special_tokens)?);
            let (vocab_size, eos) = (model.vocab_size(), model.end_token_ids());
            let bounds = SequenceBounds { prompt: tokens.len(), context, vocab_size, eos };
            let params = sampling_params(&sampling, copies.get(), model.generation(), bounds)?;
            Ok(ReadPrompt::new(tokens.into(), &params, seed, eos, &door))
        };
        // Who hangs up is let out when the reading is over.
        self.with_reader(adapter, Arc::clone(permits), work).await
    }

    /// The scored tokens of a prompt, where making their texts disturbs nobody.
    async fn told(
        &self,
        scores: PromptScores,
        prompt: Arc<[u32]>,
        is_as_sent: bool,
    ) -> Result<Vec<GeneratedToken>, GenerateError> {
        let door = ModelText(Arc::clone(&self.model));
        // In a text that is repeated as it was sent, the tokenizer's own tokens take no place.
        let special = if is_as_sent { SpecialTokens::Skip } else { WITH_SPECIAL };
        self.with_reader(None, (), move |_| Ok(scores.told(&prompt, special, &door))).await
    }

    /// Conversations go through `adapter`; what is `held` is let go when the work is over.
    ///
    /// # Errors
    /// Those of `work`, and when it panics.
    pub(super) async fn with_reader<T: Send + 'static>(
        &self,
        adapter: Option<LoadedAdapter>,
        held: impl Send + 'static,
        work: impl FnOnce(PromptReader<'_>) -> Result<T, GenerateError> + Send + 'static,
    ) -> Result<T, GenerateError> {
        let (model, max_chars) = (Arc::clone(&self.model), self.configs.max_input_chars);
        let read = move || {
            let templates = templates_of(&model, adapter.as_ref());
            work(PromptReader { model: &model, max_chars, templates })
        };
        self.reading.read(held, read).await?
    }

    /// What answers a request for an adapter.
    ///
    /// # Errors
    /// The adapter's.
    pub(super) async fn choose(&self, query: Option<AdapterQuery<'_>>) -> Result<Chosen, GenerateError> {
        let Some(query) = query else { return Ok(Chosen::default()) };
        let found = match self.adapters.find(&query) {
            Ok(FoundAdapter::Loaded(adapter)) => Ok(adapter),
            Ok(FoundAdapter::NotLoaded(ticket)) => self.loads.load(&ticket).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(adapter) => Ok(Chosen { adapter: Some(adapter), fallback_reason: None }),
            Err(error @ EmbedError::AdapterInvalid { .. })
                if self.configs.on_adapter_error == OnAdapterError::Base =>
            {
                self.metrics.adapter_fallbacks.count();
                Ok(Chosen { adapter: None, fallback_reason: Some(error.to_string()) })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn worker_is_gone(&self) -> GenerateError {
        match self.status.is_stopping() {
            true => GenerateError::ShuttingDown,
            false => GenerateError::Unavailable { reason: "its worker is gone".to_owned() },
        }
    }
}

/// What keys and values depend on besides the tokens, the base model and the adapter; and the client's salt, so that who does
/// not know it learns nothing of what others asked from how fast he is answered.
fn prefix_root(base: Digest, adapter: Option<Digest>, salt: Option<&str>) -> PrefixRoot {
    let root = DigestBuilder::new("polylora prefix root, layout 2").field(&base.0);
    let root = root.field(adapter.as_ref().map_or(&[][..], |adapter| &adapter.0[..]));
    let root = match salt {
        None => root,
        Some(salt) => root.field(salt.as_bytes()),
    };
    PrefixRoot(root.finish().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_of_base_adapter_and_salt_have_one_root() {
        let (base, adapter) = (Digest([1; 32]), Digest([b'a'; 32]));
        let like_an_adapter = "a".repeat(32);
        let mut roots: Vec<_> = [None, Some(adapter)]
            .into_iter()
            .flat_map(|adapter| {
                let salts = [None, Some(""), Some("salt"), Some(like_an_adapter.as_str())];
                salts.map(|salt| prefix_root(base, adapter, salt))
            })
            .collect();
        assert_eq!(roots[2], prefix_root(base, None, Some("salt")));
        roots.sort_unstable();
        roots.dedup();
        assert_eq!(roots.len(), 8);
    }
}
