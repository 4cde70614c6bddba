//! A result that several tasks write.

/// The start of a result, of which tasks write disjoint rows or columns.
pub(crate) struct SharedOut<E>(pub *mut E);

// SAFETY: whoever writes through it sees to it that no two tasks write the same values, and that nobody reads them meanwhile.
unsafe impl<E: Send> Sync for SharedOut<E> {}
