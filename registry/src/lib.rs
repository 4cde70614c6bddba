//! Which adapters there are.
//!
//! A **version** is a content: the digest over an adapter's bytes. It has a [`VersionId`], a semantic version, and never
//! changes. A **name** is an alias: it points at the version that answers, perhaps splits off a share of its traffic for
//! a candidate, and remembers what answered before.
//!
//! [`Registry`] is a pure state machine: [`Registry::plan`] judges a [`Change`] and says which [`Event`]s it is,
//! [`Registry::apply`] takes them in. [`StateLog`] keeps events and snapshots in a database; [`RegistryStore`] puts both
//! together, so that whatever was acknowledged survives the end of the process at any point.
//!
//! Nothing here reads an adapter's files, knows a tensor, a clock or a device.

mod adapter_name;
mod alias;
mod change;
mod digest;
mod event;
mod parts;
mod plan;
mod readback;
mod registry;
mod registry_store;
mod selector;
mod split;
mod state_log;
mod usage;
mod version;

pub use adapter_name::{AdapterName, MAX_NAME_BYTES, NameError};
pub use alias::{Alias, Split};
pub use change::{Activate, Change, ChangeError, NewVersion};
pub use digest::{Digest, DigestBuilder, DigestError};
pub use event::{Cause, Event};
pub use registry::{Grave, Inconsistent, MAX_NAMES, MAX_VERSIONS_OF_A_NAME, Registry, ResolveError};
pub use registry_store::{RegistryStore, StoreError};
pub use selector::Selector;
pub use split::{BasisPoints, SplitKey};
pub use state_log::{REGISTRY_FILE, SCHEMA, StateError, StateLog};
pub use usage::{RECENT_OUTCOMES, Usage};
pub use version::{
    About, BaseRef, Content, FileStamp, FilesStamp, Phase, Source, Timestamp, Version, VersionId, VirtualPart,
};
