//! An adapter that was read, checked and laid out in host memory.

use std::sync::Arc;

use polylora_kernels::extent::HostExtent;

use crate::{Digest, OwnChat};

/// An adapter ready for the device: identity and values belong together and never change.
#[derive(Clone, Debug)]
pub struct LoadedAdapter {
    /// Content digest over the bytes that were loaded, its own chat template included, and the base model's digest.
    pub digest: Digest,
    /// Values, with scale and DoRA gain folded into `B`.
    pub extent: Arc<HostExtent>,
    /// Its own way to write conversations, where it brings one and its base takes it.
    pub chat: Option<OwnChat>,
}
