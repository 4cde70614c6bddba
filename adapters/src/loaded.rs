//! An adapter that was read, checked and laid out in host memory.

use std::sync::Arc;

use polylora_kernels::extent::HostExtent;

use crate::Digest;

/// An adapter ready for the device: identity and values belong together and never change.
#[derive(Clone, Debug)]
pub struct LoadedAdapter {
    /// Content digest over the bytes that were loaded and the base model's digest.
    pub digest: Digest,
    /// Values, with scale and DoRA gain folded into `B`.
    pub extent: Arc<HostExtent>,
}
