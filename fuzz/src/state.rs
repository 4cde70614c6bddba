//! What the wire formats ask the server's state for.

pub use crate::model_names::ModelNames;

/// Stands where the server has its engine.
pub struct AppState;

impl AppState {
    /// Bytes a body may have.
    pub fn payload_limit(&self) -> usize {
        2 << 20
    }
}
