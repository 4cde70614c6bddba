//! How a version of an adapter fared with a request, told to where the adapter came from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use polylora_adapters::VersionId;

use crate::adapter_source::AdapterSource;
use crate::{Blame, GenerateError};

/// Tells the source once how its version answered: at the request's end, since any token may still fail, with the time that
/// the first token took. What the client or the load is to blame for is nothing to it; who leaves a text half way had an
/// answer.
pub(crate) struct OutcomeReport {
    adapters: Arc<dyn AdapterSource>,
    id: VersionId,
    began: Instant,
    /// Until the first token.
    took: Option<Duration>,
}

impl OutcomeReport {
    /// Of a request that begins now.
    pub(crate) fn begin(adapters: Arc<dyn AdapterSource>, id: VersionId) -> Self {
        Self { adapters, id, began: Instant::now(), took: None }
    }

    /// The first token was drawn.
    pub(crate) fn started(&mut self) {
        self.took = Some(self.began.elapsed());
    }

    /// The request ends with an error.
    pub(crate) fn failed(mut self, error: &GenerateError) {
        let took = self.took.take().unwrap_or_else(|| self.began.elapsed());
        if error.blame() == Blame::Server {
            self.adapters.answered(self.id, false, took);
        }
    }
}

impl Drop for OutcomeReport {
    fn drop(&mut self) {
        if let Some(took) = self.took.take() {
            self.adapters.answered(self.id, true, took);
        }
    }
}
