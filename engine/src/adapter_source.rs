//! Where adapters come from, as the engine sees it.

use polylora_adapters::LoadedAdapter;

use crate::{AdapterInfo, EmbedError};

/// What a look at an adapter's name finds, without waiting.
#[derive(Clone, Debug)]
pub enum FoundAdapter {
    /// In host memory.
    Loaded(LoadedAdapter),
    /// Served, and to be loaded first.
    NotLoaded,
}

/// Adapters in host memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterMemory {
    /// Adapters.
    pub adapters: usize,
    /// Bytes of their values.
    pub bytes: usize,
}

/// The adapters that are served, by name.
pub trait AdapterSource: Send + Sync + 'static {
    /// Looks `name` up without blocking.
    ///
    /// # Errors
    /// [`EmbedError::UnknownAdapter`], or [`EmbedError::AdapterInvalid`] for one that was found and refused.
    fn find(&self, name: &str) -> Result<FoundAdapter, EmbedError>;

    /// Gives the adapter, reading it when needed. Called on a thread that may block.
    ///
    /// # Errors
    /// As [`find`](Self::find), and what only the values show.
    fn load(&self, name: &str) -> Result<LoadedAdapter, EmbedError>;

    /// The adapters that are served, by name; refused ones are not among them.
    fn list(&self) -> Vec<AdapterInfo>;

    /// What lies in host memory now.
    fn memory(&self) -> AdapterMemory;
}
