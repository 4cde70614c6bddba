//! The fleet's figures for Prometheus: tiers, loads, and each adapter's requests.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use polylora_adapters::{Fleet, Listed, TierFigures};
use polylora_engine::{DomainLabel, DomainSnapshot};

/// Versions that have lines of their own; the others are left out.
const MOST_VERSIONS: usize = 256;

/// All of it in Prometheus' text format, with the traffic of all engines. `max_lora` is what a device takes at once.
pub fn render(fleet: &Fleet, domains: &[DomainSnapshot], max_lora: Option<usize>) -> String {
    let mut text = String::new();
    let listed = fleet.list();
    let in_service = listed.iter().filter(|v| v.is_active || v.trial_percent.is_some());
    let in_service: Vec<_> = in_service.take(MOST_VERSIONS).collect();
    let mut gauge = |name: &str, kind: &str, help: &str, lines: &[(String, f64)]| {
        // Writing into a text cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in lines {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let plain = |value: u64| vec![(String::new(), value as f64)];
    let memory = fleet.memory();
    gauge("polylora_adapters_registered", "gauge", "Names in the registry", &plain(names(&listed)));
    gauge("polylora_adapter_versions", "gauge", "Versions in the registry, by state", &states(&listed));
    gauge("polylora_host_cache_adapters", "gauge", "Adapters in host memory", &plain(memory.adapters));
    gauge("polylora_host_cache_bytes", "gauge", "Their bytes", &plain(memory.bytes));
    gauge("polylora_host_cache_capacity_bytes", "gauge", "Bytes in all", &plain(memory.capacity_bytes));
    gauge("polylora_host_cache_pinned", "gauge", "Pinned adapters in host memory", &plain(memory.pinned));
    gauge(
        "polylora_host_cache_evictions_total",
        "counter",
        "Adapters that had to leave",
        &plain(memory.evictions),
    );
    gauge("polylora_adapter_loads_total", "counter", "Adapters read from disk", &plain(memory.loads));
    gauge(
        "polylora_adapter_load_failures_total",
        "counter",
        "Those that failed",
        &plain(memory.failed_loads),
    );
    let seconds = vec![(String::new(), memory.load_micros as f64 / 1e6)];
    gauge("polylora_adapter_load_seconds_total", "counter", "Time spent on that", &seconds);
    let pools = fleet.pools();
    let sum = |figure: fn(&polylora_adapters::PoolStats) -> u64| pools.iter().map(figure).sum::<u64>() as f64;
    let tier = |name: &str, value: f64| (format!("{{tier=\"{name}\"}}"), value);
    let (host, disk) = (memory.hits as f64, memory.loads as f64);
    let hits = vec![tier("device", sum(|pool| pool.hits)), tier("host", host), tier("disk", disk)];
    gauge(
        "polylora_adapter_tier_hits_total",
        "counter",
        "Where adapters were found when they were needed",
        &hits,
    );
    let worst = pools.iter().map(|pool| pool.fragmentation).fold(0.0, f64::max);
    let fragmentation = vec![(String::new(), worst)];
    gauge(
        "polylora_pool_fragmentation",
        "gauge",
        "Share of the free device memory outside its longest hole",
        &fragmentation,
    );
    let by_version = |figure: &dyn Fn(&Listed) -> Option<f64>| -> Vec<(String, f64)> {
        in_service.iter().filter_map(|listed| Some((labels(listed), figure(listed)?))).collect()
    };
    gauge(
        "polylora_adapter_version_requests_total",
        "counter",
        "Requests that a version answered or failed",
        &by_version(&|l| Some(l.usage.requests as f64)),
    );
    gauge(
        "polylora_adapter_version_errors_total",
        "counter",
        "Those that it failed",
        &by_version(&|l| Some(l.usage.errors as f64)),
    );
    gauge(
        "polylora_adapter_success_rate",
        "gauge",
        "Share of successes among its last hundred requests",
        &by_version(&|l| l.usage.success_rate()),
    );
    gauge(
        "polylora_adapter_latency_ema_seconds",
        "gauge",
        "Moving average of its latency",
        &by_version(&|l| Some(l.usage.latency_ema_ms / 1e3)),
    );
    gauge(
        "polylora_adapter_version_bytes",
        "gauge",
        "Bytes of its values",
        &by_version(&|l| Some(l.version.content.bytes as f64)),
    );
    let tiers: Vec<VersionTiers> = in_service.iter().map(|listed| VersionTiers::of(listed, fleet)).collect();
    let in_host = |figure: fn(&TierFigures) -> f64| -> Vec<(String, f64)> {
        tiers.iter().map(|version| (format!("{{{}}}", version.labels), figure(&version.host))).collect()
    };
    gauge(
        "polylora_adapter_version_loads_total",
        "counter",
        "Times that it was read from disk",
        &in_host(|t| t.loads as f64),
    );
    gauge(
        "polylora_adapter_version_load_seconds_total",
        "counter",
        "Time spent on that",
        &in_host(|t| t.load_micros as f64 / 1e6),
    );
    gauge(
        "polylora_adapter_version_tier_hits_total",
        "counter",
        "Times that it was found in a tier",
        &by_tier(&tiers, |t| t.hits),
    );
    gauge(
        "polylora_adapter_version_evictions_total",
        "counter",
        "Times that it had to leave a tier",
        &by_tier(&tiers, |t| t.evictions),
    );
    gauge(
        "polylora_adapter_up",
        "gauge",
        "Whether it could be loaded when that was last tried",
        &by_version(&|l| Some(f64::from(u8::from(l.state != polylora_adapters::State::Errored)))),
    );
    text.push_str(&lora_requests_info(domains, max_lora));
    text
}

/// A version's labels and its figures in each tier.
struct VersionTiers {
    labels: String,
    host: TierFigures,
    /// On the devices together.
    device: TierFigures,
}

impl VersionTiers {
    fn of(listed: &Listed, fleet: &Fleet) -> Self {
        let (host, device) = fleet.tier_figures(&listed.version);
        Self { labels: label_list(listed), host, device }
    }
}

/// A line for each tier of each version.
fn by_tier(versions: &[VersionTiers], figure: fn(&TierFigures) -> u64) -> Vec<(String, f64)> {
    let lines = |VersionTiers { labels, host, device }: &VersionTiers| {
        [("host", host), ("device", device)]
            .map(|(tier, figures)| (format!("{{{labels},tier=\"{tier}\"}}"), figure(figures) as f64))
    };
    versions.iter().flat_map(lines).collect()
}

/// vLLM's gauge as the Gateway API Inference Extension reads it: names in labels, the time as the value.
fn lora_requests_info(domains: &[DomainSnapshot], max_lora: Option<usize>) -> String {
    let list = |wanted: fn(&DomainSnapshot) -> bool| {
        let names =
            domains.iter().filter(|domain| wanted(domain)).filter_map(|domain| match &domain.domain {
                DomainLabel::Adapter(name) => Some(name.as_str()),
                DomainLabel::Base | DomainLabel::Others => None,
            });
        names.collect::<Vec<_>>().join(",")
    };
    let (running, waiting) =
        (list(|domain| domain.running_requests > 0), list(|domain| domain.waiting_rows > 0));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let max_lora = max_lora.map_or_else(|| "0".to_owned(), |most| most.to_string());
    format!(
        "# HELP vllm:lora_requests_info Running stats on lora requests.\n# TYPE vllm:lora_requests_info gauge\n\
         vllm:lora_requests_info{{max_lora=\"{max_lora}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"{}\"}} {now}\n",
        escaped(&running),
        escaped(&waiting)
    )
}

fn names(listed: &[Listed]) -> u64 {
    let mut names: Vec<_> = listed.iter().map(|listed| &listed.version.name).collect();
    names.dedup();
    names.len() as u64
}

fn states(listed: &[Listed]) -> Vec<(String, f64)> {
    use polylora_adapters::State;
    let states =
        [State::Registered, State::Loading, State::Ready, State::Resident, State::Errored, State::Retired];
    let count = |state: State| listed.iter().filter(|listed| listed.state == state).count();
    states.into_iter().map(|state| (format!("{{state=\"{}\"}}", state.word()), count(state) as f64)).collect()
}

fn labels(listed: &Listed) -> String {
    format!("{{{}}}", label_list(listed))
}

fn label_list(listed: &Listed) -> String {
    let version = &listed.version;
    format!("adapter=\"{}\",version=\"{}\"", escaped(version.name.as_str()), version.label)
}

/// A text as a label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_gauge_names_the_adapters_of_all_engines_by_what_they_do() {
        let domain = |name: Option<&str>, running_requests, waiting_rows| DomainSnapshot {
            domain: name.map_or(DomainLabel::Base, |name| DomainLabel::Adapter(name.to_owned())),
            requests: 9,
            waiting_rows,
            running_requests,
        };
        let embedding = [domain(None, 2, 2), domain(Some("law"), 1, 0)];
        let generation = [domain(None, 1, 0), domain(Some("chat"), 1, 4), domain(Some("sql"), 0, 0)];
        let told = lora_requests_info(&[&embedding[..], &generation[..]].concat(), Some(4));
        let line = told.lines().last().unwrap_or_default();
        let labels = r#"{max_lora="4",running_lora_adapters="law,chat",waiting_lora_adapters="chat"}"#;
        assert!(line.starts_with(&format!("vllm:lora_requests_info{labels} ")), "{told}");
        assert!(lora_requests_info(&[], None).contains(r#"max_lora="0",running_lora_adapters="","#));
    }
}
