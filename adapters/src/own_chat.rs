//! What a base model made of the texts that an adapter brings for conversations. Only the base knows what that is.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// An adapter's own way to write conversations, as its base model made it.
#[derive(Clone)]
pub struct OwnChat {
    made: Arc<dyn Any + Send + Sync>,
    bytes: usize,
}

/// Why an adapter's texts for conversations are of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct ChatFault {
    /// Name of the file, without its folder.
    pub file: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl OwnChat {
    /// What was made of texts of so many bytes.
    pub fn new<T: Any + Send + Sync>(made: T, bytes: usize) -> Self {
        Self { made: Arc::new(made), bytes }
    }

    /// What was made; `None` for another type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.made.downcast_ref()
    }

    /// Bytes of the texts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for OwnChat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnChat").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
