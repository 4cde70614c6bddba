//! What has to be done for the fleet again and again while the server runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use polylora_adapters::{Fleet, RollbackRule, WatchError, Watcher};
use polylora_engine::{
    EmbedInput, EmbedRequest, EmbeddingService, GenerateRequest, GenerationService, Prompt, SamplingRequest,
};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::settings::Settings;

/// How often the figures of versions are written.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// How often A/B tests are judged.
const JUDGE_EVERY: Duration = Duration::from_secs(5);
/// What is sent through an adapter to load it.
const WARM_UP_TEXT: &str = "warm up";

/// The duties; dropped, they end.
pub struct FleetDuty {
    fleet: Arc<Fleet>,
    tasks: Vec<JoinHandle<()>>,
    _watcher: Option<Watcher>,
}

impl FleetDuty {
    /// Starts what the settings ask for. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the adapters directory cannot be watched.
    pub fn start(fleet: Arc<Fleet>, settings: &Settings) -> Result<Self, WatchError> {
        let watcher = settings.watch.then(|| Watcher::start(Arc::clone(&fleet))).transpose()?;
        let mut tasks = vec![every(FLUSH_EVERY, &fleet, flush)];
        if settings.adapter_check_interval > 0 {
            tasks.push(every(Duration::from_secs(settings.adapter_check_interval), &fleet, |fleet| {
                for (version, why) in fleet.unservable() {
                    tracing::error!(
                        adapter = version.tag(),
                        why,
                        "an adapter that is in service could not answer"
                    );
                }
            }));
        }
        if let Some(factor) = settings.auto_rollback_factor {
            fleet.remember_requests();
            let rule = RollbackRule { factor: factor.0, window: settings.auto_rollback_window.0 };
            tasks.push(every(JUDGE_EVERY, &fleet, move |fleet| {
                if let Err(error) = fleet.judge_trials(rule) {
                    tracing::error!(%error, "an A/B test could not be ended");
                }
            }));
        }
        Ok(Self { fleet, tasks, _watcher: watcher })
    }
}

impl Drop for FleetDuty {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        flush(&self.fleet);
    }
}

/// Sends a text through each adapter that is to be there when the first request comes.
pub async fn warm_up(
    embedding: Option<&dyn EmbeddingService>,
    generation: Option<&dyn GenerationService>,
    fleet: &Fleet,
    settings: &Settings,
) {
    let adapters = generation.map(GenerationService::adapters).unwrap_or_default();
    let speaking: BTreeSet<String> = adapters.into_iter().map(|adapter| adapter.name).collect();
    let names = fleet.most_used(settings.warmup.most());
    let mut loaded = 0;
    for name in &names {
        let outcome = match (embedding, generation) {
            (_, Some(service)) if speaking.contains(name.as_str()) => speak(service, name.to_string()).await,
            (Some(service), _) => embed(service, name.to_string()).await,
            (None, _) => continue,
        };
        match outcome {
            Ok(()) => loaded += 1,
            Err(error) => tracing::warn!(adapter = ?name, error, "an adapter could not be loaded ahead"),
        }
    }
    if !names.is_empty() {
        tracing::info!(loaded, of = names.len(), "adapters were loaded ahead (--warmup)");
    }
}

async fn embed(service: &dyn EmbeddingService, adapter: String) -> Result<(), String> {
    let request = EmbedRequest {
        inputs: vec![EmbedInput::Text(WARM_UP_TEXT.to_owned())],
        adapter: Some(adapter),
        truncate: true,
        ..EmbedRequest::default()
    };
    service.embed(request).await.map(drop).map_err(|error| error.to_string())
}

async fn speak(service: &dyn GenerationService, adapter: String) -> Result<(), String> {
    let request = GenerateRequest {
        prompt: Prompt::Text(WARM_UP_TEXT.to_owned()),
        add_special_tokens: true,
        adapter: Some(adapter),
        split_key: None,
        copies: 1,
        echo: false,
        sampling: SamplingRequest { max_tokens: Some(1), ..SamplingRequest::default() },
        cache_salt: None,
    };
    service.generate(request).await.map(drop).map_err(|error| error.to_string())
}

fn flush(fleet: &Fleet) {
    if let Err(error) = fleet.flush_usage() {
        tracing::warn!(%error, "the adapters' figures could not be written");
    }
}

/// Does `work`, which may block, again and again.
fn every(
    pause: Duration,
    fleet: &Arc<Fleet>,
    work: impl Fn(&Fleet) + Send + Sync + 'static,
) -> JoinHandle<()> {
    let (fleet, work) = (Arc::clone(fleet), Arc::new(work));
    tokio::spawn(async move {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once; there is nothing to do yet.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let (fleet, work) = (Arc::clone(&fleet), Arc::clone(&work));
            // A panic has been printed; the duty goes on.
            let _ = tokio::task::spawn_blocking(move || work(&fleet)).await;
        }
    })
}
