//! Versions of adapters as the fleet's API shows them.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use polylora_adapters::{AdapterName, HealthReport, Listed, Phase, Source, Timestamp, Usage, VirtualPart};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// Several versions.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdapterEntries {
    adapters: Vec<AdapterEntry>,
    total: usize,
}

/// A version, and the others of its name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdapterMetadata {
    #[serde(flatten)]
    entry: AdapterEntry,
    versions: Vec<AdapterEntry>,
}

/// What was deleted.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeletedAdapters {
    deleted: Vec<AdapterEntry>,
}

/// A version of an adapter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdapterEntry {
    /// The name that clients use.
    adapter_id: String,
    /// The version's number, never used for another.
    pub(crate) id: u64,
    /// Its semantic version.
    adapter_version: String,
    /// Digest of its content.
    digest: String,
    /// `name@version#digest8`, as replies name who answered.
    tag: String,
    base_model: String,
    base_model_digest: String,
    #[schema(required)]
    domain: Option<String>,
    domains: Vec<String>,
    #[schema(required)]
    task_type: Option<String>,
    /// `registered`, `loading`, `ready` (in host memory), `resident` (on the device), `errored` or `retired`.
    status: &'static str,
    /// Why it is `errored`.
    #[schema(required)]
    reason: Option<String>,
    /// Whether it answers under its name.
    active: bool,
    /// Its share of the traffic in an A/B test.
    #[schema(required)]
    ab_percent: Option<f64>,
    pinned: bool,
    created_at: String,
    #[schema(required)]
    previous_version: Option<u64>,
    ranks: Vec<usize>,
    targets: Vec<String>,
    bytes: u64,
    /// Its folder.
    #[schema(required)]
    source: Option<String>,
    /// What a virtual adapter is made of.
    #[schema(required)]
    virtual_of: Option<Vec<VirtualPartEntry>>,
    #[schema(value_type = Object)]
    training: BTreeMap<String, Value>,
    #[schema(value_type = Object)]
    thresholds: BTreeMap<String, f64>,
    #[schema(value_type = Object)]
    custom_metadata: BTreeMap<String, Value>,
    metrics: AdapterFigures,
}

/// A part of a virtual adapter.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct VirtualPartEntry {
    id: u64,
    #[schema(value_type = f32)]
    weight: f64,
}

/// How a version fares.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdapterFigures {
    requests: u64,
    errors: u64,
    /// Share of successes among the last hundred requests.
    #[schema(required)]
    success_rate: Option<f64>,
    /// Moving average of the latency, milliseconds.
    latency_ema_ms: f64,
    #[schema(required)]
    last_used: Option<String>,
}

/// A version's health.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdapterHealth {
    adapter_id: String,
    tag: String,
    healthy: bool,
    checks: Vec<AdapterCheck>,
}

/// One thing that was checked.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdapterCheck {
    name: &'static str,
    /// `null` for what could not be checked.
    #[schema(required)]
    ok: Option<bool>,
    detail: String,
}

impl AdapterEntries {
    /// All of them.
    pub fn new(listed: impl IntoIterator<Item = Listed>) -> Self {
        let adapters: Vec<_> = listed.into_iter().map(AdapterEntry::from).collect();
        Self { total: adapters.len(), adapters }
    }

    /// One a name: the active version, or the newest.
    pub fn one_a_name(listed: Vec<Listed>) -> Self {
        let mut names: BTreeMap<AdapterName, Listed> = BTreeMap::new();
        for version in listed {
            let leads = names.get(&version.version.name).is_none_or(|other| !other.is_active);
            if leads || version.is_active {
                names.insert(version.version.name.clone(), version);
            }
        }
        Self::new(names.into_values())
    }
}

impl AdapterMetadata {
    /// The version that leads, and all of its name's.
    pub fn new(lead: Listed, versions: Vec<Listed>) -> Self {
        Self { entry: lead.into(), versions: versions.into_iter().map(AdapterEntry::from).collect() }
    }
}

impl DeletedAdapters {
    /// Those that are gone.
    pub fn new(gone: Vec<Listed>) -> Self {
        Self { deleted: gone.into_iter().map(AdapterEntry::from).collect() }
    }
}

impl From<Listed> for AdapterEntry {
    fn from(listed: Listed) -> Self {
        let Listed { version, state, is_active, trial_percent, is_pinned, usage } = listed;
        let virtual_of = match &version.source {
            Source::Folder { .. } => None,
            Source::Virtual { parts } => {
                let part =
                    |part: &VirtualPart| VirtualPartEntry { id: part.id.0, weight: as_written(part.weight) };
                Some(parts.iter().map(part).collect())
            }
        };
        Self {
            adapter_id: version.name.to_string(),
            id: version.id.0,
            adapter_version: version.label.to_string(),
            digest: version.digest.to_hex(),
            tag: version.tag(),
            base_model: version.base.name.clone(),
            base_model_digest: version.base.digest.to_hex(),
            domain: version.about.domains.first().cloned(),
            domains: version.about.domains.clone(),
            task_type: version.about.task_type.clone(),
            status: state.word(),
            reason: match &version.phase {
                Phase::Errored { reason } => Some(reason.clone()),
                Phase::Registered | Phase::Retired => None,
            },
            active: is_active,
            ab_percent: trial_percent,
            pinned: is_pinned,
            created_at: rfc3339(version.created_at),
            previous_version: version.previous.map(|id| id.0),
            ranks: version.content.ranks.clone(),
            targets: version.content.targets.clone(),
            bytes: version.content.bytes,
            source: version.source.folder().map(|path| path.display().to_string()),
            virtual_of,
            training: version.about.training.clone(),
            thresholds: version.about.thresholds.clone(),
            custom_metadata: version.about.custom.clone(),
            metrics: usage.into(),
        }
    }
}

impl From<Usage> for AdapterFigures {
    fn from(usage: Usage) -> Self {
        Self {
            requests: usage.requests,
            errors: usage.errors,
            success_rate: usage.success_rate(),
            latency_ema_ms: usage.latency_ema_ms,
            last_used: usage.last_used.map(rfc3339),
        }
    }
}

impl From<HealthReport> for AdapterHealth {
    fn from(report: HealthReport) -> Self {
        let healthy = report.is_healthy();
        let checks = report.checks.into_iter();
        Self {
            adapter_id: report.version.name.to_string(),
            tag: report.version.tag(),
            healthy,
            checks: checks.map(|c| AdapterCheck { name: c.name, ok: c.is_ok, detail: c.detail }).collect(),
        }
    }
}

/// A weight as an f64 of the same digits: 0.1, not 0.10000000149011612.
pub(crate) fn as_written(weight: f32) -> f64 {
    weight.to_string().parse().unwrap_or_else(|_| f64::from(weight))
}

/// As RFC 3339 has it, in UTC.
fn rfc3339(time: Timestamp) -> String {
    // Later than the year 9999 cannot be written, and cannot have been.
    let since = Duration::from_millis(time.0.min(253_402_300_799_999));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_written() {
        assert_eq!(rfc3339(Timestamp(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(Timestamp(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }
}
