//! The compiled forms of the kernels for paged keys and values.

use cubecl::prelude::*;

use super::definitions::Parts;
use super::kernels::attention::AttentionShape;
use super::kernels::paged_decode::{CHUNK_UNITS, DecodeShape, SUM_UNITS, decode_chunk, decode_sum};
use super::kernels::paged_lookup::PagedShapeCompilationArg;
use super::kernels::paged_prompt::attention_prompt;
use super::kernels::paged_store::{COPY_UNITS, STORE_UNITS, StoreShapeCompilationArg, copy_blocks, store_kv};
use super::row_shape::LANES;
use super::variant::ATTENTION_SHAPES;
use crate::launches::Kernel;

/// The shapes that a chunk of a decoding row's keys is compiled for, each within 16 KiB of shared memory: by ascending room,
/// then rows.
pub(crate) const DECODE_SHAPES: [DecodeShape; 8] = [
    DecodeShape { rows: 2, head_room: 64 },
    DecodeShape { rows: 4, head_room: 64 },
    DecodeShape { rows: 8, head_room: 64 },
    DecodeShape { rows: 2, head_room: 128 },
    DecodeShape { rows: 4, head_room: 128 },
    DecodeShape { rows: 8, head_room: 128 },
    DecodeShape { rows: 2, head_room: 256 },
    DecodeShape { rows: 4, head_room: 256 },
];

/// A kernel for paged keys and values and its compile-time shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PagedForm {
    Store { norms: bool },
    Prompt(AttentionShape),
    DecodeChunk(DecodeShape),
    DecodeSum,
    CopyBlocks,
}

impl PagedForm {
    /// The kernel that it is a form of.
    pub(crate) fn kernel(self) -> Kernel {
        match self {
            PagedForm::Store { .. } => Kernel::StoreKv,
            PagedForm::Prompt(_) => Kernel::AttentionPrompt,
            PagedForm::DecodeChunk(_) => Kernel::DecodeChunk,
            PagedForm::DecodeSum => Kernel::DecodeSum,
            PagedForm::CopyBlocks => Kernel::CopyBlocks,
        }
    }

    /// Units of its workgroups.
    pub(crate) fn units(self) -> usize {
        match self {
            PagedForm::Store { .. } => STORE_UNITS,
            PagedForm::Prompt(shape) => shape.side * shape.side,
            PagedForm::DecodeChunk(_) => CHUNK_UNITS,
            PagedForm::DecodeSum => SUM_UNITS,
            PagedForm::CopyBlocks => COPY_UNITS,
        }
    }
}

/// Every form, with the lanes that it reads.
pub(crate) fn paged_forms() -> Vec<(usize, PagedForm)> {
    let mut forms: Vec<_> = [false, true].map(|norms| (1, PagedForm::Store { norms })).into();
    forms.extend(ATTENTION_SHAPES.map(|shape| (1, PagedForm::Prompt(shape))));
    forms.push((1, PagedForm::DecodeSum));
    for lanes in [1, LANES] {
        forms.extend(DECODE_SHAPES.map(|shape| (lanes, PagedForm::DecodeChunk(shape))));
        forms.push((lanes, PagedForm::CopyBlocks));
    }
    forms
}

/// The kernel of `form`.
pub(crate) fn define_paged(form: PagedForm, parts: Parts) -> Box<dyn CubeKernel> {
    let Parts { settings: s, device: d, target: t, elem, lanes } = parts;
    let b = || BufferCompilationArg { inplace: None };
    let heads =
        PagedShapeCompilationArg { query: (), kv: (), width: (), scale: (), block_size: (), window: () };
    match form {
        PagedForm::Store { norms } => {
            let shape = StoreShapeCompilationArg {
                rows: (),
                query: (),
                kv: (),
                width: (),
                half: (),
                q_epsilon: (),
                k_epsilon: (),
            };
            Box::new(store_kv::StoreKv::new(
                s,
                d,
                t,
                b(),
                b(),
                b(),
                b(),
                b(),
                b(),
                b(),
                b(),
                shape,
                norms,
                elem,
            ))
        }
        PagedForm::Prompt(shape) => Box::new(attention_prompt::AttentionPrompt::new(
            s,
            d,
            t,
            b(),
            b(),
            b(),
            b(),
            heads,
            (),
            (),
            (),
            shape,
            elem,
        )),
        PagedForm::DecodeChunk(shape) => Box::new(decode_chunk::DecodeChunk::new(
            s,
            d,
            t,
            b(),
            b(),
            b(),
            b(),
            b(),
            heads,
            (),
            (),
            (),
            shape,
            elem,
            lanes,
        )),
        PagedForm::DecodeSum => {
            Box::new(decode_sum::DecodeSum::new(s, d, t, b(), b(), b(), b(), heads, (), (), elem))
        }
        PagedForm::CopyBlocks => {
            Box::new(copy_blocks::CopyBlocks::new(s, d, t, b(), b(), (), (), (), elem, lanes))
        }
    }
}
