//! Who asks for what now: requests and waiting rows of the base and of each adapter, for a bounded number of adapters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::snapshot::{DomainLabel, DomainSnapshot};

/// Adapters that are told apart; later ones are counted together.
pub(crate) const MAX_ADAPTERS_TOLD_APART: usize = 64;
/// The traffic of all domains.
#[derive(Debug)]
pub(crate) struct Traffic {
    base: Arc<DomainTraffic>,
    other: Arc<DomainTraffic>,
    adapters: Mutex<BTreeMap<String, Arc<DomainTraffic>>>,
    all: Arc<Load>,
}

/// Requests on their way through a device.
#[derive(Debug, Default)]
struct Load {
    submitted: AtomicI64,
    running: AtomicI64,
}

/// The traffic of one domain, or of those that are not told apart.
#[derive(Debug)]
pub(crate) struct DomainTraffic {
    requests: AtomicU64,
    waiting: AtomicI64,
    running: AtomicI64,
    all: Arc<Load>,
}

impl Traffic {
    /// None so far.
    pub(crate) fn new() -> Self {
        let all = Arc::new(Load::default());
        let domain = || Arc::new(DomainTraffic::new(&all));
        Self { base: domain(), other: domain(), adapters: Mutex::default(), all }
    }

    /// Where requests for `adapter`, which must be one that is served, are counted; `None` is the base.
    pub(crate) fn domain(&self, adapter: Option<&str>) -> Arc<DomainTraffic> {
        let Some(name) = adapter else { return Arc::clone(&self.base) };
        let mut adapters = self.adapters.lock();
        if let Some(known) = adapters.get(name) {
            return Arc::clone(known);
        }
        if adapters.len() >= MAX_ADAPTERS_TOLD_APART {
            return Arc::clone(&self.other);
        }
        let domain = Arc::new(DomainTraffic::new(&self.all));
        adapters.insert(name.to_owned(), Arc::clone(&domain));
        domain
    }

    /// Where requests are counted whose adapter may not exist.
    pub(crate) fn others(&self) -> Arc<DomainTraffic> {
        Arc::clone(&self.other)
    }

    /// Every domain's figures: the base, adapters by name, the others when there are any.
    pub(crate) fn figures(&self) -> Vec<DomainSnapshot> {
        let mut figures = vec![self.base.figures(DomainLabel::Base)];
        let adapters = self.adapters.lock();
        figures
            .extend(adapters.iter().map(|(name, domain)| domain.figures(DomainLabel::Adapter(name.clone()))));
        figures.extend(Some(self.other.figures(DomainLabel::Others)).filter(|others| others.requests > 0));
        figures
    }

    /// Requests of which a row is being computed or was.
    pub(crate) fn running(&self) -> usize {
        count(&self.all.running)
    }

    /// Requests at a device of which no row has been computed yet.
    pub(crate) fn waiting(&self) -> usize {
        count(&self.all.submitted).saturating_sub(self.running())
    }
}

impl DomainTraffic {
    fn new(all: &Arc<Load>) -> Self {
        let (waiting, running) = (AtomicI64::new(0), AtomicI64::new(0));
        Self { requests: AtomicU64::new(0), waiting, running, all: Arc::clone(all) }
    }

    /// Counts a request that was let in.
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Rows wait for the device from now on.
    pub(crate) fn rows_wait(&self, rows: usize) {
        self.waiting.fetch_add(signed(rows), Ordering::Relaxed);
    }

    /// A request is at the device until the guard goes.
    pub(crate) fn request_is_submitted(&self) -> SubmittedRequest {
        self.all.submitted.fetch_add(1, Ordering::Relaxed);
        SubmittedRequest(Arc::clone(&self.all))
    }

    /// A request is being computed until the guard goes.
    pub(crate) fn request_runs(self: &Arc<Self>) -> RunningRequest {
        self.all.running.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        RunningRequest(Arc::clone(self))
    }

    fn figures(&self, domain: DomainLabel) -> DomainSnapshot {
        let requests = self.requests.load(Ordering::Relaxed);
        let (waiting_rows, running_requests) = (count(&self.waiting), count(&self.running));
        DomainSnapshot { domain, requests, waiting_rows, running_requests }
    }
}

/// A request at the device.
#[derive(Debug)]
pub(crate) struct SubmittedRequest(Arc<Load>);

impl Drop for SubmittedRequest {
    fn drop(&mut self) {
        self.0.submitted.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is being computed.
#[derive(Debug)]
pub(crate) struct RunningRequest(Arc<DomainTraffic>);

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.all.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Rows that wait; dropping it takes them out of the count.
#[derive(Debug)]
pub(crate) struct WaitingRows {
    traffic: Arc<DomainTraffic>,
    rows: usize,
}

impl WaitingRows {
    /// For rows that [`DomainTraffic::rows_wait`] counts, before or after.
    pub(crate) fn counted(traffic: &Arc<DomainTraffic>, rows: usize) -> Self {
        Self { traffic: Arc::clone(traffic), rows }
    }

    /// Where they are counted.
    pub(crate) fn traffic(&self) -> &Arc<DomainTraffic> {
        &self.traffic
    }

    /// The same rows, one by one.
    pub(crate) fn split(mut self) -> Vec<Self> {
        let rows = std::mem::take(&mut self.rows);
        (0..rows).map(|_| Self::counted(&self.traffic, 1)).collect()
    }
}

impl Drop for WaitingRows {
    fn drop(&mut self) {
        self.traffic.waiting.fetch_sub(signed(self.rows), Ordering::Relaxed);
    }
}

/// A row may be picked before its sender has counted it.
fn count(number: &AtomicI64) -> usize {
    usize::try_from(number.load(Ordering::Relaxed)).unwrap_or(0)
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_beyond_the_bound_are_counted_together() {
        let traffic = Traffic::new();
        for number in 0..MAX_ADAPTERS_TOLD_APART + 10 {
            for _ in 0..2 {
                traffic.domain(Some(&format!("a{number:03}"))).request();
            }
        }
        traffic.domain(None).request();
        let figures = traffic.figures();
        assert_eq!(figures.len(), MAX_ADAPTERS_TOLD_APART + 2);
        assert_eq!((&figures[0].domain, figures[0].requests), (&DomainLabel::Base, 1));
        assert_eq!((&figures[1].domain, figures[1].requests), (&DomainLabel::Adapter("a000".to_owned()), 2));
        let others = &figures[figures.len() - 1];
        assert_eq!((&others.domain, others.requests), (&DomainLabel::Others, 20));
    }

    #[test]
    fn guards_take_back_what_they_stand_for() {
        let traffic = Traffic::new();
        let domain = traffic.domain(Some("law"));
        let submitted = domain.request_is_submitted();
        domain.rows_wait(3);
        let rows = WaitingRows::counted(&domain, 3).split();
        assert_eq!((traffic.waiting(), traffic.running(), traffic.figures()[1].waiting_rows), (1, 0, 3));
        drop(rows);
        let running = domain.request_runs();
        assert_eq!((traffic.waiting(), traffic.running(), traffic.figures()[1].waiting_rows), (0, 1, 0));
        drop(running);
        drop(submitted);
        assert_eq!((traffic.waiting(), traffic.running()), (0, 0));
    }
}
