//! Whether versions could answer, as the API tells it.

use serde::{Deserialize, Serialize};

/// The health of several versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthList {
    /// Whether all are well.
    pub healthy: bool,
    /// Each of them.
    pub adapters: Vec<Health>,
}

/// The health of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The adapter's name.
    pub adapter_id: String,
    /// `name@version#digest8`.
    pub tag: String,
    /// Whether nothing that was checked is ill.
    pub healthy: bool,
    /// All that was checked.
    pub checks: Vec<HealthItem>,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthItem {
    /// What, in a word.
    pub name: String,
    /// Whether it is well; `None` when it could not be checked.
    pub ok: Option<bool>,
    /// What was found.
    pub detail: String,
}
