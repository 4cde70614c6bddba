//! Who may come in: bounded permits, given at once or not at all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::EmbedError;

/// Bounded permits for requests and for their rows.
#[derive(Debug)]
pub(crate) struct Admission {
    requests: Arc<Semaphore>,
    rows: Arc<Semaphore>,
    max_requests: u32,
    max_rows: u32,
}

/// One request's permits; dropping them gives them back.
#[derive(Debug)]
pub(crate) struct Permits {
    _request: OwnedSemaphorePermit,
    _rows: OwnedSemaphorePermit,
}

impl Admission {
    /// Permits for so many requests and rows at once.
    pub(crate) fn new(max_requests: u32, max_rows: u32) -> Self {
        let permits = |n| Arc::new(Semaphore::new(n as usize));
        Self { requests: permits(max_requests), rows: permits(max_rows), max_requests, max_rows }
    }

    /// Lets a request of `rows` inputs in, without waiting.
    ///
    /// # Errors
    /// [`EmbedError::Overloaded`] or [`EmbedError::QueueFull`].
    pub(crate) fn admit(&self, rows: usize) -> Result<Permits, EmbedError> {
        let full = || EmbedError::QueueFull { limit: self.max_rows as usize };
        let request = Arc::clone(&self.requests)
            .try_acquire_owned()
            .map_err(|_| EmbedError::Overloaded { limit: self.max_requests as usize })?;
        let rows = u32::try_from(rows).map_err(|_| full())?;
        let rows = Arc::clone(&self.rows).try_acquire_many_owned(rows).map_err(|_| full())?;
        Ok(Permits { _request: request, _rows: rows })
    }

    /// Waits until nobody is inside, at most for `timeout`; says whether that came true. Nobody can come in meanwhile.
    pub(crate) async fn drained(&self, timeout: Duration) -> bool {
        let all = self.requests.acquire_many(self.max_requests);
        tokio::time::timeout(timeout, all).await.is_ok()
    }

    /// Requests inside.
    pub(crate) fn requests(&self) -> usize {
        self.max_requests as usize - self.requests.available_permits()
    }

    /// Rows inside.
    pub(crate) fn rows(&self) -> usize {
        self.max_rows as usize - self.rows.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_keeps_no_permit() {
        let admission = Admission::new(2, 10);
        let first = admission.admit(8).unwrap();
        assert_eq!(admission.admit(3).unwrap_err(), EmbedError::QueueFull { limit: 10 });
        assert_eq!((admission.requests(), admission.rows()), (1, 8));
        let second = admission.admit(2).unwrap();
        assert_eq!(admission.admit(0).unwrap_err(), EmbedError::Overloaded { limit: 2 });
        drop((first, second));
        assert_eq!((admission.requests(), admission.rows()), (0, 0));
    }
}
