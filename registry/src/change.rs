//! What may be asked of the registry, and why it may be refused.

use crate::{About, AdapterName, BaseRef, BasisPoints, Content, Digest, Selector, Source, VersionId};

/// A change that somebody asks for. `expect`, where there is one, is the digest that must be active for it to happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Registers a content under a name. The same content again is the same version.
    Register(Box<NewVersion>),
    /// Has a version answer from the next request on.
    Promote {
        /// The name.
        name: AdapterName,
        /// The version; `None` for the candidate of the A/B test.
        version: Option<Selector>,
        /// Compare and swap.
        expect: Option<Digest>,
    },
    /// Has the version answer that answered before the active one.
    Rollback {
        /// The name.
        name: AdapterName,
        /// Compare and swap.
        expect: Option<Digest>,
    },
    /// Begins or changes an A/B test.
    Split {
        /// The name.
        name: AdapterName,
        /// The version that is tried.
        candidate: Selector,
        /// Its share of the traffic.
        share: BasisPoints,
        /// Compare and swap.
        expect: Option<Digest>,
    },
    /// Ends an A/B test: what is active answers all.
    EndSplit {
        /// The name.
        name: AdapterName,
        /// Compare and swap.
        expect: Option<Digest>,
    },
    /// Takes a version that is neither active nor tried out of service, or (`None`) the whole name.
    Retire {
        /// The name.
        name: AdapterName,
        /// The version.
        version: Option<Selector>,
        /// Compare and swap.
        expect: Option<Digest>,
    },
    /// Deletes a version that is neither active nor tried, or (`None`) the whole name.
    Delete {
        /// The name.
        name: AdapterName,
        /// The version.
        version: Option<Selector>,
        /// Whether the folders they came from are not to be picked up again by themselves.
        is_buried: bool,
        /// Compare and swap.
        expect: Option<Digest>,
    },
    /// Keeps what is active in host memory, or no longer.
    Pin {
        /// The name.
        name: AdapterName,
        /// Whether it stays.
        is_pinned: bool,
    },
    /// Notes that a version could not be loaded, or (`None`) that it could again.
    Fault {
        /// The version.
        id: VersionId,
        /// Why.
        reason: Option<String>,
    },
    /// Changes what is said of a version.
    Describe {
        /// The version.
        id: VersionId,
        /// What is said from now on.
        about: About,
    },
    /// Notes the embedding of the probe text.
    Probe {
        /// The version.
        id: VersionId,
        /// Its embedding.
        probe: Vec<f32>,
    },
}

/// A content to be registered.
#[derive(Clone, Debug, PartialEq)]
pub struct NewVersion {
    /// The name.
    pub name: AdapterName,
    /// Its semantic version; `None` takes the next patch.
    pub label: Option<semver::Version>,
    /// Its content's digest.
    pub digest: Digest,
    /// What its files hold.
    pub content: Content,
    /// Where it lies.
    pub source: Source,
    /// The base it was checked against.
    pub base: BaseRef,
    /// What is said of it.
    pub about: About,
    /// Whether it answers at once.
    pub activate: Activate,
}

/// Whether a version that is registered answers at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activate {
    /// Not before it is promoted.
    Never,
    /// When nobody answers under the name.
    IfVacant,
    /// From the next request on.
    Now,
}

/// Why a change is refused; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The name is nobody's.
    #[error("no adapter is registered under the name {name:?}")]
    UnknownName {
        /// The name.
        name: AdapterName,
    },
    /// The name has no such version.
    #[error("adapter {name:?} has no version {version}; it has {known}")]
    UnknownVersion {
        /// The name.
        name: AdapterName,
        /// As it was asked for.
        version: String,
        /// The versions that there are.
        known: String,
    },
    /// No version has the number.
    #[error("no version has the number {id}")]
    UnknownId {
        /// The number.
        id: VersionId,
    },
    /// Another version is active than the change was meant for.
    #[error(
        "adapter {name:?}: the change expects the active version to be {expected}, found {found}: look again and decide anew"
    )]
    Conflict {
        /// The name.
        name: AdapterName,
        /// Expected.
        expected: Digest,
        /// What is active, `none` for nobody.
        found: String,
    },
    /// The label belongs to another content.
    #[error(
        "adapter {name:?} has a version {label} already, with another content ({digest}): choose another label"
    )]
    LabelTaken {
        /// The name.
        name: AdapterName,
        /// The label.
        label: semver::Version,
        /// The content that has it.
        digest: Digest,
    },
    /// The content is registered under another label.
    #[error("adapter {name:?} has this content as version {label} already, not as {asked}")]
    ContentTaken {
        /// The name.
        name: AdapterName,
        /// The label that the content has.
        label: semver::Version,
        /// The label that was asked for.
        asked: semver::Version,
    },
    /// Nothing answered before the active version, or it is no longer there.
    #[error("adapter {name:?} has nothing to roll back to: {reason}")]
    NothingBefore {
        /// The name.
        name: AdapterName,
        /// What is missing.
        reason: String,
    },
    /// Nobody answers whose traffic could be split.
    #[error("adapter {name:?} has no active version: promote one first")]
    Inactive {
        /// The name.
        name: AdapterName,
    },
    /// There is no A/B test whose candidate could be promoted.
    #[error("adapter {name:?} has no A/B test: name the version")]
    NoSplit {
        /// The name.
        name: AdapterName,
    },
    /// The version may not be served.
    #[error("adapter {name:?}: version {label} is {phase}: register it again first")]
    NotServable {
        /// The name.
        name: AdapterName,
        /// The version.
        label: semver::Version,
        /// Its phase, in a word.
        phase: &'static str,
    },
    /// The version answers, or is tried.
    #[error(
        "adapter {name:?}: version {label} is in service: promote another one, or end the A/B test, first"
    )]
    InService {
        /// The name.
        name: AdapterName,
        /// The version.
        label: semver::Version,
    },
    /// A virtual adapter is made of the version.
    #[error("adapter {name:?}: version {label} is a part of the virtual adapter {of:?}: delete that first")]
    PartOf {
        /// The name.
        name: AdapterName,
        /// The version.
        label: semver::Version,
        /// The virtual adapter's name.
        of: AdapterName,
    },
    /// It could be written, but would not be read again as it was.
    #[error("{what} cannot be stored: expected {expected}")]
    Unstorable {
        /// What cannot.
        what: String,
        /// What can.
        expected: &'static str,
    },
    /// A bound of the registry is reached.
    #[error("the registry takes at most {max} {what}: delete some first")]
    Full {
        /// What there are too many of.
        what: &'static str,
        /// The bound.
        max: usize,
    },
}
