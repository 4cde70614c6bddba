//! Embedding lookup, alone or with its norm.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::grid::grid;
use super::kernels::embed::{embed, embed_norm};
use super::kernels::row_norm::NormShape;
use super::row_shape::{lanes, row_shape};
use super::tensors::{contiguous, elem_type, empty, row_stride};
use super::variant::{END_UNITS, Form, KernelVariant};
use crate::ops::embedding::{EmbedArgs, EmbedNormArgs, EmbeddingOps};
use crate::reference;

impl EmbeddingOps for CubeBackend {
    fn embed(args: EmbedArgs<Self>) -> FloatTensor<Self> {
        let (rows, width, dtype) = (args.ids.shape()[0], args.table.shape()[1], args.table.dtype);
        let (Some(elem), true) = (elem_type(dtype), args.ids.dtype == DType::I32) else {
            return reference::embedding::embed::<Self>(args);
        };
        let out = empty(&args.table, [rows, width].into(), dtype);
        if rows * width > 0 {
            launch_embed(args, out.clone(), KernelVariant { elem, lanes: lanes([width]), form: Form::Embed });
        }
        out
    }

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

/// Rows of the table into `out`, `[T, width]`.
pub(super) fn launch_embed(args: EmbedArgs<CubeBackend>, out: CubeTensor, variant: KernelVariant) {
    let (rows, width) = (out.shape()[0], out.shape()[1]);
    let (table, stride) = where_it_lies(args.table, variant.lanes);
    embed::launch(
        &out.client.clone(),
        grid(rows, (width / variant.lanes).div_ceil(END_UNITS)),
        variant.admit(),
        table.into_buffer_arg(),
        contiguous(args.ids).into_buffer_arg(),
        out.into_buffer_arg(),
        rows as u32,
        width as u32,
        stride as u32,
        variant.elem,
        variant.lanes,
    );
}

/// A table and the values from row to row. It is read where it lies, padded rows and all: copying it would cost more than the
/// lookup.
fn where_it_lies(table: CubeTensor, lanes: usize) -> (CubeTensor, usize) {
    let width = table.shape()[1];
    match row_stride(&table, lanes) {
        Some(stride) => (table, stride),
        None => (contiguous(table), width),
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
    let (words, word_stride) = where_it_lies(words, variant.lanes);
    let (positions, position_stride) = where_it_lies(positions, variant.lanes);
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
