//! What has to be done for the fleet again and again while the server runs.

use std::sync::Arc;
use std::time::Duration;

use polylora_adapters::{Fleet, RollbackRule, WatchError, Watcher};
use polylora_engine::{EmbedInput, EmbedRequest, EmbeddingService};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::settings::Settings;

/// How often the figures of versions are written.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// How often A/B tests are judged.
const JUDGE_EVERY: Duration = Duration::from_secs(5);
/// What is embedded to load an adapter.
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
pub async fn warm_up(service: &dyn EmbeddingService, fleet: &Fleet, settings: &Settings) {
    let names = fleet.most_used(settings.warmup.most());
    let mut loaded = 0;
    for name in &names {
        let request = EmbedRequest {
            inputs: vec![EmbedInput::Text(WARM_UP_TEXT.to_owned())],
            adapter: Some(name.to_string()),
            truncate: true,
            ..EmbedRequest::default()
        };
        match service.embed(request).await {
            Ok(_) => loaded += 1,
            Err(error) => tracing::warn!(adapter = ?name, %error, "an adapter could not be loaded ahead"),
        }
    }
    if !names.is_empty() {
        tracing::info!(loaded, of = names.len(), "adapters were loaded ahead (--warmup)");
    }
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
