//! What several tests of one file use at once and nobody uses after them.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A value that is made for the first test that asks, given to all that run beside it, and dropped with the last one: a
/// server in a plain static would outlive the tests.
pub struct Shared<T> {
    make: fn() -> T,
    live: Mutex<Weak<T>>,
}

impl<T> Shared<T> {
    /// Nothing yet.
    pub const fn new(make: fn() -> T) -> Self {
        Self { make, live: Mutex::new(Weak::new()) }
    }

    /// The value.
    pub fn get(&self) -> Arc<T> {
        // A test that failed while making it is no reason for the others not to try.
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.upgrade().unwrap_or_else(|| {
            let made = Arc::new((self.make)());
            *live = Arc::downgrade(&made);
            made
        })
    }
}
