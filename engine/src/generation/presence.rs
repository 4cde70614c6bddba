//! A request in the engine's traffic: it waits until its first step and runs until its end.

use std::sync::Arc;

use crate::traffic::{DomainTraffic, RunningRequest, SubmittedRequest, WaitingRows};

/// Counts a request as long as it is there.
#[derive(Debug)]
pub(crate) struct Presence {
    traffic: Arc<DomainTraffic>,
    waiting: Option<WaitingRows>,
    running: Option<RunningRequest>,
    _submitted: SubmittedRequest,
}

impl Presence {
    /// A request of that domain, which waits from now on.
    pub(crate) fn new(traffic: Arc<DomainTraffic>) -> Self {
        traffic.request();
        traffic.rows_wait(1);
        let waiting = Some(WaitingRows::counted(&traffic, 1));
        Self { waiting, running: None, _submitted: traffic.request_is_submitted(), traffic }
    }

    /// Its first step begins.
    pub(crate) fn begins(&mut self) {
        self.running.get_or_insert_with(|| self.traffic.request_runs());
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Traffic;

    #[test]
    fn a_request_waits_then_runs_and_is_gone_in_the_end() {
        let traffic = Traffic::new();
        let mut presence = Presence::new(traffic.domain(Some("law")));
        let seen = |traffic: &Traffic| {
            let law = &traffic.figures()[1];
            (law.requests, law.waiting_rows, law.running_requests, traffic.waiting(), traffic.running())
        };
        assert_eq!(seen(&traffic), (1, 1, 0, 1, 0));
        presence.begins();
        presence.begins();
        assert_eq!(seen(&traffic), (1, 0, 1, 0, 1));
        drop(presence);
        assert_eq!(seen(&traffic), (1, 0, 0, 0, 0));
        drop(Presence::new(traffic.domain(Some("law"))));
        assert_eq!(seen(&traffic), (2, 0, 0, 0, 0));
    }
}
