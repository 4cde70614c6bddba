//! A version as the API tells it, read from a server or made of a registry.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use polylora_registry::{Alias, Phase, Source, Timestamp, Usage, Version, VirtualPart};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::values::as_written;

/// One version. Fields that a server adds are not minded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The adapter's name.
    pub adapter_id: String,
    /// The version's number.
    pub id: u64,
    /// Its semantic version.
    pub adapter_version: String,
    /// Its content's digest.
    pub digest: String,
    /// `name@version#digest8`.
    pub tag: String,
    /// Name of the base model.
    pub base_model: String,
    /// Its digest.
    pub base_model_digest: String,
    /// The first of its domains.
    pub domain: Option<String>,
    /// The domains that it is for.
    #[serde(default)]
    pub domains: Vec<String>,
    /// What it was trained to do.
    pub task_type: Option<String>,
    /// How far it is from answering, in a word.
    pub status: String,
    /// Why it could not be loaded.
    pub reason: Option<String>,
    /// Whether it answers under its name.
    pub active: bool,
    /// Its share of the traffic in an A/B test.
    pub ab_percent: Option<f64>,
    /// Whether its name is pinned.
    pub pinned: bool,
    /// When it was registered.
    pub created_at: String,
    /// Number of the version that answered before it.
    pub previous_version: Option<u64>,
    /// Its ranks.
    pub ranks: Vec<u64>,
    /// The modules that it changes.
    pub targets: Vec<String>,
    /// Bytes of its values.
    pub bytes: u64,
    /// The folder that it is read from.
    pub source: Option<String>,
    /// The versions that it is a sum of.
    pub virtual_of: Option<Vec<EntryPart>>,
    /// How it was trained.
    #[serde(default)]
    pub training: BTreeMap<String, Value>,
    /// Its thresholds.
    #[serde(default)]
    pub thresholds: BTreeMap<String, Value>,
    /// Whatever else was given.
    #[serde(default)]
    pub custom_metadata: BTreeMap<String, Value>,
    /// How it fares.
    pub metrics: EntryMetrics,
}

/// A part of a virtual adapter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryPart {
    /// The version's number.
    pub id: u64,
    /// How much of its effect.
    pub weight: f64,
}

/// How a version fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EntryMetrics {
    /// Requests that it answered or failed.
    pub requests: u64,
    /// Those it failed.
    pub errors: u64,
    /// Share of successes among the newest requests.
    pub success_rate: Option<f64>,
    /// Moving average of its latency.
    pub latency_ema_ms: f64,
    /// When it was last asked.
    pub last_used: Option<String>,
}

impl Entry {
    /// A version of a registry that no server has open: nothing is loaded.
    pub fn new(version: &Version, alias: &Alias, usage: Usage) -> Self {
        let trial = alias.split.filter(|split| split.candidate == version.id);
        let reason = match &version.phase {
            Phase::Errored { reason } => Some(reason.clone()),
            Phase::Registered | Phase::Retired => None,
        };
        let (source, virtual_of) = match &version.source {
            Source::Folder { path, .. } => (Some(path.display().to_string()), None),
            Source::Virtual { parts } => {
                let part = |part: &VirtualPart| EntryPart { id: part.id.0, weight: as_written(part.weight) };
                (None, Some(parts.iter().map(part).collect()))
            }
        };
        let about = &version.about;
        Self {
            adapter_id: version.name.to_string(),
            id: version.id.0,
            adapter_version: version.label.to_string(),
            digest: version.digest.to_hex(),
            tag: version.tag(),
            base_model: version.base.name.clone(),
            base_model_digest: version.base.digest.to_hex(),
            domain: about.domains.first().cloned(),
            domains: about.domains.clone(),
            task_type: about.task_type.clone(),
            status: version.phase.word().to_owned(),
            reason,
            active: alias.active == Some(version.id),
            ab_percent: trial.map(|split| split.share.percent()),
            pinned: alias.pinned,
            created_at: rfc3339(version.created_at),
            previous_version: version.previous.map(|id| id.0),
            ranks: version.content.ranks.iter().map(|&rank| rank as u64).collect(),
            targets: version.content.targets.clone(),
            bytes: version.content.bytes,
            source,
            virtual_of,
            training: about.training.clone(),
            thresholds: about.thresholds.iter().map(|(key, value)| (key.clone(), (*value).into())).collect(),
            custom_metadata: about.custom.clone(),
            metrics: usage.into(),
        }
    }
}

impl From<Usage> for EntryMetrics {
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
