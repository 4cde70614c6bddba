//! Why an adapter is refused: one variant for each kind of defect, with the facts.

use std::{io, path::PathBuf};

/// Why an adapter cannot be used. Every message names the file, the tensor or field, what was found and what was
/// expected; names and values that come out of the files are quoted, so that they cannot forge log lines.
#[derive(Debug, thiserror::Error)]
#[allow(
    missing_docs,
    reason = "the fields carry the same names throughout and each message says what they are"
)]
pub enum AdapterError {
    /// The system refused to open or read.
    #[error("{}: cannot be read: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    /// The folder has no configuration.
    #[error("{}: missing; expected the configuration that PEFT's save_pretrained writes", file.display())]
    ConfigMissing { file: PathBuf },
    /// The folder has no weights.
    #[error("{}: missing; expected the adapter's tensors in safetensors form", file.display())]
    WeightsMissing { file: PathBuf },
    /// The weights are there only as a pickle.
    #[error(
        "{}: found only this pickle, expected adapter_model.safetensors; pickles run code when they are read, so \
         they never are: load the adapter with PEFT where you trust it and save it again with \
         save_pretrained(folder, safe_serialization=True)",
        file.display()
    )]
    PickleOnly { file: PathBuf },
    /// A link leads out of the adapter's folder.
    #[error(
        "{}: leads to {}, expected a file inside {}; copy the file into the folder",
        file.display(), found.display(), folder.display()
    )]
    OutsideFolder { file: PathBuf, found: PathBuf, folder: PathBuf },
    /// A folder, pipe, socket or device where a file is expected.
    #[error("{}: found {found}, expected a regular file", file.display())]
    NotRegularFile { file: PathBuf, found: &'static str },
    /// The configuration is larger than any real one.
    #[error("{}: found {found} bytes, expected at most {max}", file.display())]
    ConfigTooLarge { file: PathBuf, found: u64, max: u64 },
    /// The configuration is not a JSON object.
    #[error("{}: not a JSON object: {reason}", file.display())]
    ConfigNotJson { file: PathBuf, reason: String },
    /// The adapter's own chat template cannot be used.
    #[error("{}: {reason}; conversations through the adapter would go through this file: mend or remove it", file.display())]
    ChatUnusable { file: PathBuf, reason: String },
    /// A rank above what the operator allows.
    #[error("{}: found a site of rank {found}, expected at most {max} (--max-lora-rank)", file.display())]
    RankAboveLimit { file: PathBuf, found: usize, max: usize },
    /// A field without which nothing can be computed is absent.
    #[error("{}: field `{field}`: missing; expected {expected}", file.display())]
    FieldMissing { file: PathBuf, field: String, expected: &'static str },
    /// A field has a value of another type or range.
    #[error("{}: field `{field}`: found {found}, expected {expected}", file.display())]
    FieldInvalid { file: PathBuf, field: String, found: String, expected: String },
    /// A field asks for something that is known but not computed here.
    #[error("{}: field `{field}`: found {found}, which is not supported: {reason}", file.display())]
    FieldUnsupported { file: PathBuf, field: String, found: String, reason: &'static str },
    /// A field that no known PEFT version writes, with a value that may have an effect.
    #[error(
        "{}: field `{field}`: found {found}, expected no such field (those of PEFT up to {known} are known); it may \
         change what the adapter computes, so it is not skipped: remove it if it has no effect",
        file.display()
    )]
    FieldUnknown { file: PathBuf, field: String, found: String, known: &'static str },
    /// A method other than LoRA.
    #[error("{}: field `peft_type`: found {found}, expected \"LORA\"", file.display())]
    PeftTypeUnsupported { file: PathBuf, found: String },
    /// A rank outside the limits.
    #[error("{}: field `{field}`: found rank {found}, expected 1 to {max}", file.display())]
    RankOutOfRange { file: PathBuf, field: String, found: String, max: usize },
    /// A pattern that does not compile, runs too long or means something else to Python.
    #[error("{}: field `{field}`: pattern {pattern:?}: {reason}", file.display())]
    Pattern { file: PathBuf, field: String, pattern: String, reason: String },
    /// alpha and rank give a scale that f32 cannot hold.
    #[error("{}: module {module:?}: alpha {alpha} at rank {rank} gives scale {found}, expected a finite f32", file.display())]
    ScaleNotFinite { file: PathBuf, module: String, alpha: f64, rank: usize, found: f32 },
    /// The targets select no module of the base model.
    #[error(
        "{}: field `target_modules`: found {found}, which selects no module of the base model; expected names such \
         as {example:?}",
        file.display()
    )]
    TargetsMatchNothing { file: PathBuf, found: String, example: String },
    /// The targets select an embedding table.
    #[error(
        "{}: field `target_modules`: selects the embedding table {module:?}; expected linear modules only: LoRA on \
         embeddings is not supported",
        file.display()
    )]
    EmbeddingTargeted { file: PathBuf, module: String },
    /// The targets select a module that shares an embedding table's weight.
    #[error(
        "{}: field `target_modules`: selects {module:?}, whose weight is the embedding table's (tie_word_embeddings of the \
         base model); expected linear modules of their own weight: a change of one would have to change both",
        file.display()
    )]
    TiedTargeted { file: PathBuf, module: String },
    /// The weights end before their first eight bytes do.
    #[error("{}: found {found} bytes, expected at least {expected} (a safetensors file begins with its header's length)", file.display())]
    FileTooShort { file: PathBuf, found: u64, expected: u64 },
    /// The header's length field is larger than any real header.
    #[error("{}: header length: found {found} bytes, expected at most {max}", file.display())]
    HeaderTooLong { file: PathBuf, found: u64, max: u64 },
    /// The header's length field leads out of the file.
    #[error("{}: header length: found {found} bytes, expected at most the {available} that follow it in the file; it is cut short or damaged", file.display())]
    HeaderBeyondFile { file: PathBuf, found: u64, available: u64 },
    /// The header is not what safetensors prescribes.
    #[error("{}: header: {reason}; expected a JSON object of tensors with dtype, shape and data_offsets", file.display())]
    HeaderInvalid { file: PathBuf, reason: String },
    /// A tensor of integers, doubles or 8-bit floats.
    #[error("{}: tensor {tensor:?}: found dtype {found:?}, expected F32, F16 or BF16", file.display())]
    DtypeUnsupported { file: PathBuf, tensor: String, found: String },
    /// A shape whose size overflows.
    #[error("{}: tensor {tensor:?}: found shape {found:?}, whose size in bytes overflows; expected one that fits the file", file.display())]
    ShapeOverflow { file: PathBuf, tensor: String, found: Vec<u64> },
    /// Offsets lead out of the file.
    #[error(
        "{}: tensor {tensor:?}: found data_offsets {begin}..{end}, expected them within the {available} bytes of data \
         in the file; it is cut short or damaged",
        file.display()
    )]
    OffsetsOutsideFile { file: PathBuf, tensor: String, begin: u64, end: u64, available: u64 },
    /// Shape and offsets disagree.
    #[error("{}: tensor {tensor:?}: data_offsets span {found} bytes, expected {expected} for its shape and dtype", file.display())]
    SizeMismatch { file: PathBuf, tensor: String, found: u64, expected: u64 },
    /// Two tensors claim the same bytes.
    #[error("{}: tensor {tensor:?}: data begins at {found}, expected {expected}: it overlaps {other:?}", file.display())]
    OffsetsOverlap { file: PathBuf, tensor: String, other: String, found: u64, expected: u64 },
    /// Bytes that belong to no tensor.
    #[error("{}: {found} bytes from offset {at} of the data belong to no tensor, expected none", file.display())]
    UnclaimedBytes { file: PathBuf, at: u64, found: u64 },
    /// A tensor whose name is not of a LoRA adapter.
    #[error("{}: tensor {tensor:?}: unexpected; expected {expected}", file.display())]
    TensorUnexpected { file: PathBuf, tensor: String, expected: &'static str },
    /// LoRA on an embedding table.
    #[error("{}: tensor {tensor:?}: belongs to LoRA on an embedding, which is not supported; expected linear modules only", file.display())]
    EmbeddingTensor { file: PathBuf, tensor: String },
    /// Tensors named after different models or adapters in one file.
    #[error("{}: tensor {tensor:?}: its {part} is {found:?}, expected {expected:?} as in the others", file.display())]
    NamingMixed { file: PathBuf, tensor: String, part: &'static str, found: String, expected: String },
    /// A module that the base model lacks.
    #[error("{}: tensor {tensor:?}: the base model has no module {module:?}; expected one of its {modules}, such as {example:?}", file.display())]
    ModuleUnknown { file: PathBuf, tensor: String, module: String, modules: usize, example: String },
    /// A tensor for a module that the configuration does not select.
    #[error("{}: tensor {tensor:?}: the configuration does not target module {module:?}; expected tensors of targeted modules only", file.display())]
    TensorNotTargeted { file: PathBuf, tensor: String, module: String },
    /// A targeted module without one of its tensors.
    #[error("{}: tensor {tensor:?}: missing; expected because the configuration targets module {module:?}", file.display())]
    TensorMissing { file: PathBuf, tensor: String, module: String },
    /// Two names for one tensor.
    #[error("{}: tensor {tensor:?}: means the same as {other:?}, expected one of them", file.display())]
    TensorDuplicate { file: PathBuf, tensor: String, other: String },
    /// A tensor with another number of dimensions.
    #[error("{}: tensor {tensor:?}: found shape {found:?}, expected {expected}", file.display())]
    ShapeMismatch { file: PathBuf, tensor: String, found: Vec<usize>, expected: &'static str },
    /// A tensor of another rank than the configuration gives.
    #[error("{}: tensor {tensor:?}: found rank {found} in shape {shape:?}, expected rank {expected} from the configuration", file.display())]
    RankMismatch { file: PathBuf, tensor: String, shape: Vec<usize>, found: usize, expected: usize },
    /// A tensor made for a base model of another width.
    #[error("{}: tensor {tensor:?}: found {side} width {found} in shape {shape:?}, expected {expected} as in the base model", file.display())]
    WidthMismatch {
        file: PathBuf,
        tensor: String,
        side: &'static str,
        shape: Vec<usize>,
        found: usize,
        expected: usize,
    },
    /// A NaN or an infinity.
    #[error("{}: tensor {tensor:?}: found {value} at flat index {index}, expected finite values", file.display())]
    NotFinite { file: PathBuf, tensor: String, index: usize, value: f32 },
    /// A DoRA magnitude that the base weight's norm cannot divide.
    #[error("{}: tensor {tensor:?}: magnitude {magnitude} at row {row} over the weight's norm {norm} gives no finite gain", file.display())]
    GainNotFinite { file: PathBuf, tensor: String, row: usize, magnitude: f32, norm: f32 },
    /// A value that overflows once scaled.
    #[error("{}: tensor {tensor:?}: value {value} at flat index {index} overflows f32 times factor {factor}, expected a finite product", file.display())]
    ScaledOverflow { file: PathBuf, tensor: String, index: usize, value: f32, factor: f32 },
}

/// The beginning of `text` on one line: what an error shows of words that come out of a file.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN_CHARACTERS: usize = 300;
    let shown: String = text
        .chars()
        .take(SHOWN_CHARACTERS)
        .flat_map(|c| {
            let control = c.is_control();
            c.escape_default().filter(move |_| control).chain((!control).then_some(c))
        })
        .collect();
    if text.chars().nth(SHOWN_CHARACTERS).is_some() { shown + " (and more)" } else { shown }
}
