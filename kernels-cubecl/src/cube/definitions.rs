//! Variants as kernels that a compiler takes without a device.

use std::sync::Arc;

use cubecl::ir::{DeviceProperties, ElemType, TargetProperties};
use cubecl::prelude::*;

use super::kernels::lookup::LoraTablesCompilationArg;
use super::kernels::{attention, embed, gated, linear_end, pool, rms_norm, shrink};
use super::paged_forms::define_paged;
use super::variant::Form;

/// What every kernel's definition takes beside its shape.
pub(crate) struct Parts {
    pub(crate) settings: KernelSettings,
    pub(crate) device: Arc<DeviceProperties>,
    pub(crate) target: Arc<TargetProperties>,
    pub(crate) elem: ElemType,
    pub(crate) lanes: usize,
}

/// The kernel of `form`.
pub(crate) fn define(form: Form, parts: Parts) -> Box<dyn CubeKernel> {
    let Parts { settings: s, device: d, target: t, elem, lanes } = parts;
    let b = || BufferCompilationArg { inplace: None };
    let tables = || LoraTablesCompilationArg {
        index: b(),
        spans: b(),
        span_count: (),
        tiles: (),
        slots_at: (),
        sites: (),
        hidden_width: (),
    };
    match form {
        Form::Paged(form) => define_paged(form, Parts { settings: s, device: d, target: t, elem, lanes }),
        Form::Sgmv(shape) => Box::new(shrink::sgmv_shrink::SgmvShrink::new(
            s,
            d,
            t,
            b(),
            b(),
            tables(),
            b(),
            (),
            shape,
            elem,
            lanes,
        )),
        Form::Bgmv { units } => Box::new(shrink::bgmv_shrink::BgmvShrink::new(
            s,
            d,
            t,
            b(),
            b(),
            tables(),
            b(),
            (),
            units,
            elem,
            lanes,
        )),
        Form::LinearEnd { tile_rows, shape } => Box::new(linear_end::linear_end::LinearEnd::new(
            s,
            d,
            t,
            b(),
            b(),
            b(),
            b(),
            b(),
            tables(),
            (),
            (),
            tile_rows,
            shape,
            elem,
            lanes,
        )),
        Form::AddNorm { tile_rows, shape, row } => {
            Box::new(linear_end::linear_add_norm_end::LinearAddNormEnd::new(
                s,
                d,
                t,
                b(),
                b(),
                b(),
                b(),
                b(),
                tables(),
                b(),
                b(),
                (),
                (),
                (),
                tile_rows,
                shape,
                row,
                elem,
                lanes,
            ))
        }
        Form::EmbedNorm(row) => Box::new(embed::embed_norm::EmbedNorm::new(
            s,
            d,
            t,
            b(),
            b(),
            b(),
            b(),
            b(),
            b(),
            (),
            b(),
            (),
            (),
            (),
            (),
            row,
            elem,
            lanes,
        )),
        Form::Embed => Box::new(embed::embed::Embed::new(s, d, t, b(), b(), b(), (), (), (), elem, lanes)),
        Form::RmsNorm { units } => Box::new(rms_norm::rms_norm::RmsNorm::new(
            s,
            d,
            t,
            b(),
            b(),
            (),
            b(),
            (),
            (),
            (),
            units,
            elem,
            lanes,
        )),
        Form::Gated { activation } => {
            Box::new(gated::gated::Gated::new(s, d, t, b(), b(), (), (), (), activation, elem, lanes))
        }
        Form::Attention(shape) => Box::new(attention::attention::Attention::new(
            s,
            d,
            t,
            b(),
            b(),
            b(),
            (),
            (),
            (),
            (),
            (),
            shape,
            elem,
        )),
        Form::Pool { pooling, row } => Box::new(pool::pool_rows::PoolRows::new(
            s,
            d,
            t,
            b(),
            b(),
            b(),
            (),
            (),
            (),
            pooling,
            row,
            elem,
            lanes,
        )),
    }
}
