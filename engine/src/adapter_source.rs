//! Where adapters come from, as the engine sees it.

use std::time::Duration;

use polylora_adapters::{LoadedAdapter, SplitKey, Ticket, VersionId};

use crate::{AdapterInfo, EmbedError, ServedBy};

/// Which adapter a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct AdapterQuery<'a> {
    /// Its name, or `name@version`.
    pub name: &'a str,
    /// What stands for the client where traffic is split.
    pub split_key: Option<SplitKey>,
}

/// An adapter's values, and whose they are.
#[derive(Clone, Debug)]
pub struct ServedAdapter {
    /// The values.
    pub adapter: LoadedAdapter,
    /// Whose.
    pub served_by: ServedBy,
}

/// What a look at an adapter's name finds, without waiting.
#[derive(Clone, Debug)]
pub enum FoundAdapter {
    /// In host memory.
    Loaded(ServedAdapter),
    /// To be loaded first.
    NotLoaded(Ticket),
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
    /// Finds who answers, without blocking.
    ///
    /// # Errors
    /// [`EmbedError::UnknownAdapter`], or [`EmbedError::AdapterInvalid`] for one that was found and refused.
    fn find(&self, query: &AdapterQuery<'_>) -> Result<FoundAdapter, EmbedError>;

    /// Gives what a ticket stands for, reading it when needed. Called on a thread that may block.
    ///
    /// # Errors
    /// As [`find`](Self::find), and what only the values show.
    fn load(&self, ticket: &Ticket) -> Result<ServedAdapter, EmbedError>;

    /// The adapters that are served, by name; refused ones are not among them.
    fn list(&self) -> Vec<AdapterInfo>;

    /// What lies in host memory now.
    fn memory(&self) -> AdapterMemory;

    /// Hears how a version answered a request, and how long the request took.
    fn answered(&self, id: VersionId, is_ok: bool, took: Duration) {
        let _ = (id, is_ok, took);
    }
}
