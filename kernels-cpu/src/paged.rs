//! Keys and values that are remembered in blocks of some tokens (PagedAttention, arXiv 2309.06180): writing them, and causal
//! attention over them.
//!
//! Both lie as the panels that the products read, so that nothing is laid out again when they are: scores and contexts are
//! products as a linear layer's are, of a few rows of queries or weights by a panel.

mod attention;
mod batch;
mod chunk;
mod panels;
mod softmax;
mod store;

pub use attention::{PagedAttentionCall, attention_paged};
pub use batch::{KvHeads, KvShape, PagedBatch, PagedSequence};
pub use panels::{KvPanels, NoMemory};
pub use store::{HeadNorm, RotaryTable, StoreCall, store_kv};
