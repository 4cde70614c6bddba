//! Attention over packed rows.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::grid::grid;
use super::kernels::attention::{AttentionShape, attention};
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
        let width = args.heads.heads * args.heads.width;
        let bounds = &args.sequences.host;
        assert_eq!(
            bounds[bounds.len() - 1] as usize,
            args.qkv.shape()[0],
            "the sequences are not those of the rows"
        );
        assert_eq!(
            args.qkv.shape()[1],
            3 * args.heads.heads * args.heads.width,
            "queries, keys and values side by side"
        );
        assert!(
            u32::try_from(args.qkv.shape().num_elements()).is_ok(),
            "queries, keys and values beyond 32-bit indices"
        );
        let out = empty(&args.qkv, [args.qkv.shape()[0], width].into(), args.qkv.dtype);
        if args.sequences.tiles > 0 {
            let variant = KernelVariant { elem, lanes: 1, form: Form::Attention(shape) };
            launch(args, out.clone(), variant, shape);
        }
        out
    }
}

/// Attention into `out`, `[T, heads * width]`.
pub(super) fn launch(
    args: AttentionArgs<CubeBackend>,
    out: CubeTensor,
    variant: KernelVariant,
    shape: AttentionShape,
) {
    let AttentionArgs { qkv, sequences, heads, scale, .. } = args;
    attention::launch(
        &qkv.client.clone(),
        grid(sequences.tiles * QUERY_ROWS / shape.block, heads.heads),
        variant.admit(),
        contiguous(qkv).into_buffer_arg(),
        sequences.index.into_buffer_arg(),
        out.into_buffer_arg(),
        heads.heads as u32,
        heads.width as u32,
        scale,
        sequences.host.len() as u32,
        sequences.tiles as u32,
        shape,
        variant.elem,
    );
}
