//! Loads adapters off the async threads, each once however many requests wait for it.
//!
//! A load has a thread to itself, so that an adapter that is slow to load delays its own requests only. There are
//! at most as many loads at once as adapters are served. A client that leaves does not stop a load: what is read
//! goes to the cache.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use polylora_adapters::Ticket;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::EmbedError;
use crate::adapter_source::{AdapterSource, ServedAdapter};

type LoadResult = Option<Result<ServedAdapter, EmbedError>>;
type Loading = Arc<Mutex<HashMap<Ticket, watch::Receiver<LoadResult>>>>;

/// The loads under way.
pub(crate) struct AdapterLoads {
    source: Arc<dyn AdapterSource>,
    runtime: Handle,
    loading: Loading,
}

impl AdapterLoads {
    /// No loads yet; they will run on blocking threads of `runtime`.
    pub(crate) fn new(source: Arc<dyn AdapterSource>, runtime: Handle) -> Self {
        Self { source, runtime, loading: Loading::default() }
    }

    /// Loads what `ticket` stands for, or waits for the load that is under way.
    pub(crate) async fn load(&self, ticket: &Ticket) -> Result<ServedAdapter, EmbedError> {
        let mut result = self.join(ticket);
        let loaded = result.wait_for(Option::is_some).await;
        loaded.ok().and_then(|loaded| loaded.clone()).unwrap_or_else(|| {
            Err(EmbedError::Internal { reason: format!("loading an adapter ({ticket:?}) was broken off") })
        })
    }

    fn join(&self, ticket: &Ticket) -> watch::Receiver<LoadResult> {
        let mut loading = self.loading.lock();
        if let Some(result) = loading.get(ticket) {
            return result.clone();
        }
        let (sender, result) = watch::channel(None);
        loading.insert(ticket.clone(), result.clone());
        // Made here, so that the entry goes even when the closure panics or never runs.
        let entry = Entry { loading: Arc::clone(&self.loading), ticket: ticket.clone() };
        let source = Arc::clone(&self.source);
        self.runtime.spawn_blocking(move || {
            let loaded = source.load(&entry.ticket);
            // The entry goes first: who comes later asks the source again, which remembers what it may.
            drop(entry);
            sender.send_replace(Some(loaded));
        });
        result
    }
}

struct Entry {
    loading: Loading,
    ticket: Ticket,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.loading.lock().remove(&self.ticket);
    }
}
