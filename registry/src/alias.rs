//! A name, and the versions behind it.

use serde::{Deserialize, Serialize};

use crate::{BasisPoints, VersionId};

/// A name of an adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// Who answers; `None` while nobody does.
    pub active: Option<VersionId>,
    /// Who answers for a share of the traffic instead.
    pub split: Option<Split>,
    /// Whether what is active stays in host memory.
    pub pinned: bool,
    /// All versions, oldest first.
    pub versions: Vec<VersionId>,
}

/// An A/B test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The version that is tried.
    pub candidate: VersionId,
    /// Its share of the traffic.
    pub share: BasisPoints,
}
