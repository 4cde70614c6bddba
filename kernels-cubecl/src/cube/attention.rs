//! Attention over packed rows.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;

use super::grid::grid;
use super::kernels::attention::attention;
use super::tensors::{contiguous, elem_type, empty};
use super::variant::{ATTENTION_SHAPES, Form, KernelVariant};
use crate::ops::attention::{AttentionArgs, AttentionMask, AttentionOps};
use crate::query_tiles::QUERY_ROWS;
use crate::reference;

impl AttentionOps for CubeBackend {
    fn attention_packed(args: AttentionArgs<Self>) -> FloatTensor<Self> {
        let AttentionMask::Full = args.mask;
        let shape = ATTENTION_SHAPES.into_iter().find(|shape| shape.head_room >= args.heads.width);
        let (Some(shape), Some(elem)) = (shape, elem_type(args.qkv.dtype)) else {
            return reference::attention::attention_packed::<Self>(args);
        };
        let AttentionArgs { qkv, sequences, heads, scale, .. } = args;
        let (rows, width) = (qkv.shape()[0], heads.heads * heads.width);
        let out = empty(&qkv, [rows, width].into(), qkv.dtype);
        if sequences.tiles == 0 {
            return out;
        }
        let variant = KernelVariant { elem, lanes: 1, form: Form::Attention(shape) };
        attention::launch(
            &out.client,
            grid(sequences.tiles * QUERY_ROWS / shape.block, heads.heads),
            variant.admit(),
            contiguous(qkv).into_buffer_arg(),
            sequences.index.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            heads.heads as u32,
            heads.width as u32,
            scale,
            sequences.host.len() as u32,
            sequences.tiles as u32,
            shape,
            elem,
        );
        out
    }
}
