//! Requests and replies: this part of `engine` knows neither model nor device.

#[path = "../../../engine/src/error.rs"]
mod error;
#[path = "../../../engine/src/request.rs"]
mod request;

pub use error::{Blame, EmbedError};
pub use request::{EmbedInput, EmbedReply, EmbedRequest, RowOutput, ServedBy, Timings, TruncationSide};
