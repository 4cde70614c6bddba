//! PEFT adapters.

mod adapter_dir;
mod adapter_name;
mod adapter_source;
mod arena;
mod base_model;
mod digest;
mod error;
mod host_cache;
mod lease;
mod loaded;
mod peft;
mod pool;
mod residency;
mod revision;
mod site_catalog;
mod store;
mod weights;

pub use adapter_dir::{AdapterDirectory, Finding, FoundAdapter, MAX_ADAPTERS, OpenError, RefusedFolder};
pub use adapter_name::{AdapterName, MAX_NAME_BYTES, NameError};
pub use adapter_source::{AdapterSource, Refusal};
pub use arena::{Arena, Extent};
pub use base_model::{BaseModel, LowRank};
pub use digest::{Digest, DigestBuilder};
pub use error::AdapterError;
pub use host_cache::{HostCache, HostCacheStats, MAX_REMEMBERED_FAILURES};
pub use lease::Lease;
pub use loaded::LoadedAdapter;
pub use peft::{
    AdapterIdentity, AdapterManifest, CONFIG_FILE, FileIdentity, FileTrust, MAX_CONFIG_BYTES,
    MAX_HEADER_BYTES, MAX_RANK, WEIGHTS_FILE,
};
pub use pool::{DevicePool, ExtentSink, NoCopy, PoolError, PoolMode, PoolMonitor, PoolStats, StoreError};
pub use site_catalog::{IgnoredModule, Module, Site, SiteCatalog};
pub use store::{AdapterStore, LoadError, RECHECK_AFTER, RETRY_AFTER, ServedAdapter, StoreOptions};
