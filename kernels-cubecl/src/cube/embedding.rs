//! Embedding lookup with its norm.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::grid::grid;
use super::kernels::embed::embed_norm;
use super::kernels::row_norm::NormShape;
use super::row_shape::{lanes, row_shape};
use super::tensors::{contiguous, elem_type, empty, row_stride};
use super::variant::{Form, KernelVariant};
use crate::ops::embedding::{EmbedNormArgs, EmbeddingOps};
use crate::reference;

impl EmbeddingOps for CubeBackend {
    fn embed_norm(args: EmbedNormArgs<Self>) -> FloatTensor<Self> {
        let (rows, width, dtype) = (args.ids.shape()[0], args.words.shape()[1], args.words.dtype);
        let lanes = lanes([width]);
        let alike = [&args.positions, &args.norm.gamma, &args.norm.beta].iter().all(|t| t.dtype == dtype)
            && [&args.ids, &args.position_ids].iter().all(|t| t.dtype == DType::I32);
        let (Some(elem), Some(row), true) = (elem_type(dtype), row_shape(width, lanes), alike) else {
            return reference::embedding::embed_norm::<Self>(args);
        };
        let out = empty(&args.words, [rows, width].into(), dtype);
        if rows > 0 {
            launch(args, out.clone(), KernelVariant { elem, lanes, form: Form::EmbedNorm(row) }, row);
        }
        out
    }
}

/// The embeddings into `out`, `[T, width]`.
pub(super) fn launch(
    args: EmbedNormArgs<CubeBackend>,
    out: CubeTensor,
    variant: KernelVariant,
    row: NormShape,
) {
    let EmbedNormArgs { words, positions, ids, position_ids, norm } = args;
    let (rows, width) = (ids.shape()[0], words.shape()[1]);
    assert_eq!(position_ids.shape()[0], rows, "as many positions as ids");
    assert_eq!(positions.shape()[1], width, "tables of one width");
    let [(words, word_stride), (positions, position_stride)] = [words, positions].map(|table| {
        // Tables are read where they lie, padded rows and all; copying them would cost more than the lookup.
        match row_stride(&table, variant.lanes) {
            Some(stride) => (table, stride),
            None => (contiguous(table), width),
        }
    });
    embed_norm::launch(
        &out.client.clone(),
        grid(rows, 1),
        variant.admit(),
        words.into_buffer_arg(),
        positions.into_buffer_arg(),
        contiguous(ids).into_buffer_arg(),
        contiguous(position_ids).into_buffer_arg(),
        contiguous(norm.gamma).into_buffer_arg(),
        contiguous(norm.beta).into_buffer_arg(),
        norm.epsilon,
        out.into_buffer_arg(),
        rows as u32,
        width as u32,
        word_stride as u32,
        position_stride as u32,
        row,
        variant.elem,
        variant.lanes,
    );
}
