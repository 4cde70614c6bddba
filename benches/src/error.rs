//! Why a benchmark could not run.

use std::path::PathBuf;

/// Why a benchmark could not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The machine's device could not be opened.
    #[error(transparent)]
    Device(#[from] polylora_kernels::device::DeviceError),
    /// There is no memory for adapters.
    #[error(transparent)]
    Memory(#[from] polylora_kernels::OutOfMemory),
    /// The device failed while it computed.
    #[error("the device failed: {reason}")]
    Execution {
        /// Its words.
        reason: String,
    },
    /// Adapters changed nothing, or gave values that are no numbers: times would be worth nothing.
    #[error("{what}: adapters changed nothing, or gave values that are not finite")]
    NoEffect {
        /// The op and its shape.
        what: String,
    },
    /// The model's directory was not taken.
    #[error(transparent)]
    Model(#[from] polylora_models::ModelError),
    /// An adapter was not taken.
    #[error(transparent)]
    Adapter(#[from] polylora_adapters::AdapterError),
    /// Rows do not fit the model.
    #[error(transparent)]
    Batch(#[from] polylora_models::BatchError),
    /// A step of a language model failed.
    #[error(transparent)]
    Step(#[from] polylora_engine::RunError),
    /// A text could not be tokenised.
    #[error("a text could not be tokenised: {reason}")]
    Tokenize {
        /// The tokenizer's words.
        reason: String,
    },
    /// tokenizer.json has too few words to make texts of.
    #[error("{file} has {found} plain words of one token, expected at least {expected}")]
    FewWords {
        /// The file.
        file: PathBuf,
        /// Words found.
        found: usize,
        /// Words needed.
        expected: usize,
    },
    /// A request to the lockstep program is none.
    #[error("line {line} is no request: {reason}")]
    Request {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The measured server did not come up, or answered what is no answer.
    #[error("the server: {reason}")]
    Server {
        /// What is known.
        reason: String,
    },
    /// A program that is compared with did not build or run, or said what is not understood.
    #[error("{program}: {reason}")]
    Program {
        /// Which.
        program: String,
        /// What is known.
        reason: String,
    },
    /// A file has not the markers between which a bench writes.
    #[error("{file} has not `<!-- {name}:begin -->` and `<!-- {name}:end -->`, each once and in this order")]
    Markers {
        /// The file.
        file: PathBuf,
        /// The part's name.
        name: String,
    },
    /// A temporary adapter could not be written.
    #[error("an adapter could not be written: {0}")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// JSON could not be read or written.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}
