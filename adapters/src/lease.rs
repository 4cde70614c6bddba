//! A lease: while it lives, its adapter stays where it is on the device.

use std::fmt;
use std::sync::Arc;

use polylora_kernels::extent::HostExtent;

use crate::residency::Residency;
use crate::sync::Mutex;
use crate::{Digest, Extent};

/// The right to read one resident adapter. Its place is neither written nor freed before the lease is dropped, which
/// may happen on any thread.
///
/// A holder whose device works asynchronously drops it only after the results were read back. Not `Clone`: each lease
/// counts, so ask the pool for another.
#[must_use = "dropping a lease gives its adapter free for eviction"]
pub struct Lease {
    residency: Arc<Mutex<Residency>>,
    digest: Digest,
    place: Extent,
    extent: Arc<HostExtent>,
}

impl Lease {
    /// Takes over a lease that `residency` has counted already.
    pub(crate) fn counted(
        residency: Arc<Mutex<Residency>>,
        digest: Digest,
        place: Extent,
        extent: Arc<HostExtent>,
    ) -> Self {
        Self { residency, digest, place, extent }
    }

    /// Content digest of the adapter.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// First element in the device's buffer. In [`crate::PoolMode::Alias`] a number without a buffer behind it.
    pub fn offset(&self) -> usize {
        self.place.offset
    }

    /// The range in the device's buffer, in elements.
    pub fn place(&self) -> Extent {
        self.place
    }

    /// Layout and values in host memory. In [`crate::PoolMode::Alias`] the resident's own, which kernels read.
    pub fn extent(&self) -> &Arc<HostExtent> {
        &self.extent
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.residency.lock().release(&self.digest);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("digest", &self.digest)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
