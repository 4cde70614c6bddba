//! Whose weights a sequence goes through.

use std::fmt;

/// The digest of an adapter's content: two adapters with one key compute the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterKey(pub [u8; 32]);

impl fmt::Debug for AdapterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Four bytes tell the adapters of one process apart.
        let [a, b, c, d, ..] = self.0;
        write!(f, "AdapterKey({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

/// The weights that a sequence goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// The base model alone.
    Base,
    /// The base model with this adapter.
    Adapter(AdapterKey),
}

impl Domain {
    /// The adapter, when there is one.
    pub fn adapter(self) -> Option<AdapterKey> {
        match self {
            Self::Base => None,
            Self::Adapter(key) => Some(key),
        }
    }
}
