//! A version as the API tells it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
