//! What happened to the registry: the only thing that changes it, and what is stored.

use serde::{Deserialize, Serialize};

use crate::{About, AdapterName, Phase, Source, Split, Timestamp, Version, VersionId};

/// Something that happened. What is written once is read for ever: fields and variants are added, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A version came to be; its name, too, if it is new.
    Registered(Box<Version>),
    /// A version's content was found at another place, or its files were touched.
    Moved {
        /// The version.
        id: VersionId,
        /// Where it is now.
        source: Source,
    },
    /// From the next request on another version answers; an A/B test of the name is over.
    Activated {
        /// The name.
        name: AdapterName,
        /// Who answers now.
        id: VersionId,
        /// Why.
        cause: Cause,
        /// When.
        at: Timestamp,
    },
    /// An A/B test began, changed or ended.
    Divided {
        /// The name.
        name: AdapterName,
        /// The candidate and its share; `None` when it is over.
        split: Option<Split>,
        /// When.
        at: Timestamp,
    },
    /// A version's phase changed.
    Phased {
        /// The version.
        id: VersionId,
        /// Its phase now.
        phase: Phase,
        /// When.
        at: Timestamp,
    },
    /// A name was taken out of service: nobody answers, and all its versions are retired.
    Retired {
        /// The name.
        name: AdapterName,
        /// When.
        at: Timestamp,
    },
    /// A version is gone for good; only its number and the place it was read from are remembered.
    Deleted {
        /// The version.
        id: VersionId,
        /// Whether the folder it came from is not to be picked up again by itself.
        is_buried: bool,
        /// When.
        at: Timestamp,
    },
    /// Whether what is active stays in host memory.
    Pinned {
        /// The name.
        name: AdapterName,
        /// Whether it does.
        is_pinned: bool,
    },
    /// What is said of a version changed.
    Described {
        /// The version.
        id: VersionId,
        /// What is said now.
        about: About,
    },
    /// The probe text was embedded.
    Probed {
        /// The version.
        id: VersionId,
        /// Its embedding.
        probe: Vec<f32>,
    },
}

/// Why another version answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It was registered to answer at once.
    Registration,
    /// Somebody promoted it.
    Promotion,
    /// Somebody, or the rule, went back to what answered before.
    Rollback,
}
