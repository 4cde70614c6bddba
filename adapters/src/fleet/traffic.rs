//! What versions are asked and how they answer, and the rule that ends an A/B test whose candidate does worse.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use polylora_registry::{AdapterName, Alias, Change, StateError, Usage, VersionId};

use super::{Fleet, FleetError, now};

/// Most requests of a version that a window looks back on.
const MOST_SAMPLES: usize = 4_096;
/// Fewest requests of both sides before they are compared.
const FEWEST_SAMPLES: usize = 50;
/// Fewest before their p99s are.
const FEWEST_FOR_P99: usize = 200;

/// When a candidate is taken out of its A/B test. Off unless somebody sets it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RollbackRule {
    /// How many times worse than the active version it may do, in its share of errors or its p99.
    pub factor: f64,
    /// How far back both are looked at.
    pub window: Duration,
}

/// A version's requests within a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Requests.
    pub requests: usize,
    /// Share of them that failed, 0 to 1.
    pub error_rate: f64,
    /// The latency that 99 of 100 successful ones stayed within.
    pub p99: Duration,
}

/// What comparing a candidate with the active version says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Too few requests to tell.
    TooFew,
    /// It does not do worse by the factor.
    Holds,
    /// It fails more.
    Errors,
    /// It is slower.
    Slower,
}

impl RollbackRule {
    /// Compares a candidate with what is active.
    pub fn compare(&self, active: Window, candidate: Window) -> Comparison {
        if active.requests.min(candidate.requests) < FEWEST_SAMPLES {
            return Comparison::TooFew;
        }
        // One failure in as many requests as were seen is as good as none.
        let floor = 1.0 / candidate.requests as f64;
        if candidate.error_rate > self.factor * active.error_rate.max(floor) {
            return Comparison::Errors;
        }
        // Of fewer, the p99 is the slowest one.
        let is_enough = active.requests.min(candidate.requests) >= FEWEST_FOR_P99;
        match is_enough && candidate.p99 > active.p99.mul_f64(self.factor) {
            true => Comparison::Slower,
            false => Comparison::Holds,
        }
    }
}

/// The figures of all versions.
pub(super) struct TrafficBook {
    versions: RwLock<HashMap<VersionId, Arc<Mutex<Traffic>>>>,
}

#[derive(Default)]
struct Traffic {
    usage: Usage,
    is_dirty: bool,
    recent: VecDeque<(Instant, Duration, bool)>,
}

impl TrafficBook {
    pub(super) fn new(usage: BTreeMap<VersionId, Usage>) -> Self {
        let traffic = |usage| Arc::new(Mutex::new(Traffic { usage, ..Traffic::default() }));
        Self { versions: RwLock::new(usage.into_iter().map(|(id, usage)| (id, traffic(usage))).collect()) }
    }

    pub(super) fn usage(&self, id: VersionId) -> Usage {
        self.versions.read().get(&id).map_or_else(Usage::default, |traffic| traffic.lock().usage)
    }

    pub(super) fn forget_all_but(&self, kept: &HashSet<VersionId>) {
        self.versions.write().retain(|id, _| kept.contains(id));
    }

    fn of(&self, id: VersionId) -> Arc<Mutex<Traffic>> {
        if let Some(traffic) = self.versions.read().get(&id) {
            return Arc::clone(traffic);
        }
        Arc::clone(self.versions.write().entry(id).or_default())
    }

    fn window(&self, id: VersionId, length: Duration) -> Window {
        let traffic = self.of(id);
        let traffic = traffic.lock();
        let within: Vec<_> = traffic.recent.iter().filter(|(at, ..)| at.elapsed() <= length).collect();
        let mut latencies: Vec<_> =
            within.iter().filter(|(_, _, is_ok)| *is_ok).map(|(_, took, _)| *took).collect();
        latencies.sort_unstable();
        let failed = within.len() - latencies.len();
        let at = (latencies.len() * 99).div_ceil(100).saturating_sub(1);
        Window {
            requests: within.len(),
            error_rate: if within.is_empty() { 0.0 } else { failed as f64 / within.len() as f64 },
            p99: latencies.get(at).copied().unwrap_or_default(),
        }
    }
}

impl Fleet {
    /// Counts a request that a version answered, or failed.
    pub fn count(&self, id: VersionId, is_ok: bool, took: Duration) {
        let traffic = self.traffic.of(id);
        let mut traffic = traffic.lock();
        traffic.usage.count(is_ok, took.as_secs_f64() * 1e3, now());
        traffic.is_dirty = true;
        if !self.judges_trials.load(Ordering::Relaxed) {
            return;
        }
        if traffic.recent.len() == MOST_SAMPLES {
            traffic.recent.pop_front();
        }
        traffic.recent.push_back((Instant::now(), took, is_ok));
    }

    /// Has each request be remembered for [`Fleet::judge_trials`] from now on.
    pub fn remember_requests(&self) {
        self.judges_trials.store(true, Ordering::Relaxed);
    }

    /// A version's figures.
    pub fn usage(&self, id: VersionId) -> Usage {
        self.traffic.usage(id)
    }

    /// Writes the figures of all versions, if there is anything new.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn flush_usage(&self) -> Result<(), StateError> {
        let all: Vec<_> = self.traffic.versions.read().iter().map(|(id, t)| (*id, Arc::clone(t))).collect();
        let mut is_dirty = false;
        let mut usage = BTreeMap::new();
        let known: HashSet<_> = self.store.read().versions().map(|version| version.id).collect();
        for (id, traffic) in all.into_iter().filter(|(id, _)| known.contains(id)) {
            let mut traffic = traffic.lock();
            is_dirty |= std::mem::take(&mut traffic.is_dirty);
            usage.insert(id, traffic.usage);
        }
        if is_dirty { self.store.write_usage(&usage) } else { Ok(()) }
    }

    /// The names that were asked for most, most first.
    pub fn most_used(&self, most: usize) -> Vec<AdapterName> {
        let mut used: Vec<(u64, AdapterName)> = {
            let registry = self.store.read();
            let requests = |name: &AdapterName| {
                registry
                    .versions_of(name.as_str())
                    .map(|version| self.traffic.usage(version.id).requests)
                    .sum()
            };
            registry
                .names()
                .filter(|(_, alias)| alias.active.is_some())
                .map(|(n, _)| (requests(n), n.clone()))
                .collect()
        };
        used.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        used.into_iter().take(most).map(|(_, name)| name).collect()
    }

    /// Ends each A/B test whose candidate does worse than `rule` allows; says which, and why.
    ///
    /// # Errors
    /// [`FleetError`] when an end cannot be stored.
    pub fn judge_trials(&self, rule: RollbackRule) -> Result<Vec<(AdapterName, Comparison)>, FleetError> {
        let trials: Vec<(AdapterName, Alias)> = {
            let registry = self.store.read();
            registry
                .names()
                .filter(|(_, alias)| alias.split.is_some())
                .map(|(n, a)| (n.clone(), a.clone()))
                .collect()
        };
        let mut ended = vec![];
        for (name, alias) in trials {
            let (Some(active), Some(split)) = (alias.active, alias.split) else { continue };
            let window = |id| self.traffic.window(id, rule.window);
            let said = rule.compare(window(active), window(split.candidate));
            if matches!(said, Comparison::Errors | Comparison::Slower) {
                self.operate(Change::EndSplit { name: name.clone(), expect: None })?;
                tracing::warn!(adapter = ?name, candidate = %split.candidate, ?said, "an A/B test was ended by the rollback rule");
                ended.push((name, said));
            }
        }
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: RollbackRule = RollbackRule { factor: 2.0, window: Duration::from_secs(60) };

    fn window(requests: usize, error_rate: f64, p99_ms: u64) -> Window {
        Window { requests, error_rate, p99: Duration::from_millis(p99_ms) }
    }

    #[test]
    fn a_candidate_is_judged_by_errors_and_p99_once_there_are_enough_requests() {
        let good = window(1000, 0.01, 10);
        for (candidate, said) in [
            (window(49, 1.0, 1000), Comparison::TooFew),
            (window(50, 0.02, 20), Comparison::Holds),
            (window(50, 0.05, 10), Comparison::Errors),
            (window(1000, 0.021, 10), Comparison::Errors),
            (window(1000, 0.0, 21), Comparison::Slower),
            (window(1000, 0.0, 5), Comparison::Holds),
        ] {
            assert_eq!(RULE.compare(good, candidate), said, "{candidate:?}");
        }
        assert_eq!(RULE.compare(window(10, 0.0, 1), window(1000, 1.0, 1)), Comparison::TooFew);
        let never_fails = window(1000, 0.0, 10);
        assert_eq!(
            RULE.compare(never_fails, window(100, 0.02, 10)),
            Comparison::Holds,
            "two in a hundred may be chance"
        );
        assert_eq!(RULE.compare(never_fails, window(100, 0.03, 10)), Comparison::Errors);
    }
}
