//! The lock that the device pool's owner and its leases share.
//!
//! `tests/lease_model.rs` compiles `pool.rs`, `lease.rs` and `residency.rs` once more, with a lock from a model checker
//! in the place of this one.

pub(crate) use parking_lot::Mutex;
