//! PEFT adapters.

mod adapter_source;
mod arena;
mod base_model;
mod bases;
mod cache_books;
mod digest;
mod directory_entry;
mod error;
mod findings;
mod fleet;
mod host_cache;
mod layout;
mod lease;
mod load_failures;
mod loaded;
mod own_chat;
mod peft;
mod pool;
mod residency;
mod site_catalog;
mod sync;
mod tier_figures;
mod virtual_adapter;
mod weights;

pub use adapter_source::{AdapterSource, Refusal};
pub use arena::{Arena, Extent};
pub use base_model::{BaseModel, LowRank};
pub use bases::Base;
pub use cache_books::{MAX_PINS, PinError};
pub use error::AdapterError;
pub use findings::{Finding, MAX_ADAPTERS, OpenError, RefusedFolder};
pub use fleet::{
    Answering, Comparison, Fleet, FleetError, FleetFound, FleetOptions, FleetParts, HealthCheck,
    HealthReport, Listed, LoadError, OpenFleetError, PathError, RECHECK_AFTER, RETRY_AFTER, RegisterFolder,
    RegisterVirtual, RollbackRule, Roots, State, Ticket, WatchError, Watcher, Window,
};
pub use host_cache::{HostCache, HostCacheLimits, HostCacheStats};
pub use layout::{FoundVersion, Layout, MAX_VERSIONS};
pub use lease::Lease;
pub use load_failures::MAX_REMEMBERED_FAILURES;
pub use loaded::LoadedAdapter;
pub use own_chat::{ChatFault, OwnChat};
pub use peft::{
    AdapterIdentity, AdapterManifest, CHAT_TEMPLATE_FILE, CONFIG_FILE, ChatFiles, FileIdentity, FileTrust,
    MAX_CONFIG_BYTES, MAX_HEADER_BYTES, MAX_RANK, TOKENIZER_CONFIG_FILE, WEIGHTS_FILE,
};
pub use polylora_registry::{
    About, Activate, AdapterName, BasisPoints, Change, ChangeError, Content, Digest, DigestBuilder, Event,
    MAX_NAME_BYTES, NameError, Phase, Selector, Source, SplitKey, StoreError as RegistryError, Timestamp,
    Usage, Version, VersionId, VirtualPart,
};
pub use pool::{DevicePool, ExtentSink, NoCopy, PoolError, PoolMode, PoolMonitor, PoolStats, StoreError};
pub use site_catalog::{IgnoredModule, Module, Site, SiteCatalog};
pub use tier_figures::TierFigures;
pub use virtual_adapter::{ComposeError, MAX_PARTS, compose};
