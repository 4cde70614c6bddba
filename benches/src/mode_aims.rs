//! What the comparison of modes hopes for, reckoned from its figures. Pure: no server, no clock.

use crate::{Aim, Scenario, ServedFigures, ServedMode};

/// All that was measured, medians of the rounds.
#[derive(Clone, Debug, Default)]
pub struct ModeFigures {
    /// Mode (`None`: batched and mixed without any adapter), scenario, figures.
    pub lines: Vec<(Option<ServedMode>, Scenario, ServedFigures)>,
    /// Resident bytes at the start and at the end, by mode.
    pub memory: Vec<(Option<ServedMode>, [f64; 2])>,
    /// Clients of the busy load of domains.
    pub busy: usize,
    /// Clients of its crowded one.
    pub crowd: usize,
    /// The library's texts a second through the base in batches of 1.
    pub library_1: f64,
    /// Likewise of 100.
    pub library_100: f64,
    /// Milliseconds of a request that is refused without any computation.
    pub http_ms: f64,
    /// Bytes of the base's weights in the number format that is served.
    pub weight_bytes: f64,
}

/// Domains that the aims are about.
const DOMAINS: usize = 13;

impl ModeFigures {
    /// Figures of a mode under a scenario.
    pub fn of(&self, mode: Option<ServedMode>, scenario: Scenario) -> Option<&ServedFigures> {
        self.lines.iter().find(|(m, s, _)| (*m, *s) == (mode, scenario)).map(|(.., figures)| figures)
    }

    /// The aims for a CPU, or those for a GPU. A figure that was not measured misses its aim.
    pub fn aims(&self, on_gpu: bool) -> Vec<Aim> {
        if on_gpu { self.gpu_aims() } else { self.cpu_aims() }
    }

    fn cpu_aims(&self) -> Vec<Aim> {
        let library = self.library_100 / self.library_1;
        let base_1 = self.of(Some(ServedMode::Serial), Scenario::Base { clients: 1 });
        let mut aims = vec![
            Aim::at_least(
                format!("mixed / serial, req/s, {} clients (0.8 of the library's {library:.3})", self.busy),
                self.ratio(ServedMode::Serial, self.busy_load()),
                0.8 * library,
            ),
            Aim::at_least(
                "mixed / per domain, req/s, 13 domains, one text each",
                self.ratio(ServedMode::PerDomain, one_each()),
                1.8,
            ),
            Aim::at_least(
                "mixed / per domain, req/s, burst of 100 over 5 domains",
                self.ratio(ServedMode::PerDomain, Scenario::Burst { texts: 100, domains: 5 }),
                1.0,
            ),
            Aim::at_most(
                "serial, 1 client, base: p50 / (library's batch 1 + HTTP)",
                base_1.map_or(f64::NAN, |f| f.p50) / (1e3 / self.library_1 + self.http_ms),
                1.3,
            ),
        ];
        aims.extend(self.memory_aims());
        aims
    }

    fn memory_aims(&self) -> Vec<Aim> {
        let memory = |mode| self.memory.iter().find(|(m, _)| *m == mode).map(|(_, bytes)| *bytes);
        let ratio = |with: Option<[f64; 2]>, without: Option<[f64; 2]>, at: usize| {
            with.zip(without).map_or(f64::NAN, |(with, without)| with[at] / without[at])
        };
        let mut aims = vec![Aim::at_most(
            "memory, batched with 13 adapters / without any, under the same clients",
            ratio(memory(Some(ServedMode::Mixed)), memory(None), 1),
            1.3,
        )];
        let pooled = self.memory.iter().find_map(|(mode, [start, _])| match mode {
            Some(ServedMode::Pooled(size)) => Some((*size, *start)),
            _ => None,
        });
        if let (Some((size @ 2.., start)), Some([serial, _])) = (pooled, memory(Some(ServedMode::Serial))) {
            let each = (start - serial) / (size - 1) as f64;
            aims.push(Aim::at_least(
                format!("memory, pooled: each of {} further instances / the base's weights", size - 1),
                each / self.weight_bytes,
                0.9,
            ));
        }
        aims
    }

    fn gpu_aims(&self) -> Vec<Aim> {
        let crowd =
            self.of(Some(ServedMode::Mixed), Scenario::Domains { clients: self.crowd, domains: DOMAINS });
        let crowded = |figure: fn(&ServedFigures) -> Option<f64>| crowd.and_then(figure).unwrap_or(f64::NAN);
        vec![
            Aim::at_least(
                format!("mixed / serial, req/s, {} clients", self.busy),
                self.ratio(ServedMode::Serial, self.busy_load()),
                4.0,
            ),
            Aim::at_least(
                "mixed / per domain, req/s, 13 domains, one text each",
                self.ratio(ServedMode::PerDomain, one_each()),
                1.5,
            ),
            Aim::at_least(format!("mixed, req/s, {} clients", self.crowd), crowded(|f| Some(f.rate)), 1500.0),
            Aim::at_most(format!("mixed, p99 ms, {} clients", self.crowd), crowded(|f| Some(f.p99)), 100.0),
            Aim::at_most(
                format!("mixed, resident GB, {} clients", self.crowd),
                crowded(|f| f.resident) / 1e9,
                1.0,
            ),
        ]
    }

    fn busy_load(&self) -> Scenario {
        Scenario::Domains { clients: self.busy, domains: DOMAINS }
    }

    /// Mixed over another mode, in replies a second.
    fn ratio(&self, other: ServedMode, scenario: Scenario) -> f64 {
        let rate = |mode| self.of(Some(mode), scenario).map_or(f64::NAN, |f| f.rate);
        rate(ServedMode::Mixed) / rate(other)
    }
}

fn one_each() -> Scenario {
    Scenario::OneEach { domains: DOMAINS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;

    fn figures(rate: f64, p50: f64) -> ServedFigures {
        ServedFigures {
            rate,
            mean: p50,
            p50,
            p99: p50,
            errors: 0.0,
            server_cpu: None,
            client_cpu: None,
            client_cores: None,
            resident: Some(2e8),
        }
    }

    fn measured() -> ModeFigures {
        let line = |mode, scenario, rate, p50| (Some(mode), scenario, figures(rate, p50));
        let burst = Scenario::Burst { texts: 100, domains: 5 };
        let busy = Scenario::Domains { clients: 100, domains: DOMAINS };
        ModeFigures {
            busy: 100,
            crowd: 500,
            lines: vec![
                line(ServedMode::Serial, busy, 600.0, 160.0),
                line(ServedMode::Mixed, busy, 1000.0, 90.0),
                line(ServedMode::PerDomain, one_each(), 500.0, 20.0),
                line(ServedMode::Mixed, one_each(), 1000.0, 13.0),
                line(ServedMode::PerDomain, burst, 1001.0, 50.0),
                line(ServedMode::Mixed, burst, 1000.0, 50.0),
                line(ServedMode::Serial, Scenario::Base { clients: 1 }, 600.0, 1.6),
            ],
            memory: vec![
                (Some(ServedMode::Serial), [150e6, 160e6]),
                (Some(ServedMode::Pooled(4)), [450e6, 500e6]),
                (Some(ServedMode::Mixed), [150e6, 190e6]),
                (None, [150e6, 180e6]),
            ],
            library_1: 800.0,
            library_100: 1200.0,
            http_ms: 0.1,
            weight_bytes: 91e6,
        }
    }

    #[test]
    fn every_aim_of_the_cpu_is_judged_by_its_own_figures() {
        let verdicts: Vec<Verdict> = measured().aims(false).iter().map(Aim::verdict).collect();
        let (met, missed) = (Verdict::Met, Verdict::Missed);
        assert_eq!(verdicts, [met, met, missed, met, met, met]);
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let nothing = ModeFigures::default();
        for on_gpu in [false, true] {
            assert!(nothing.aims(on_gpu).iter().all(|aim| aim.verdict() == Verdict::Missed), "{on_gpu}");
        }
    }
}
