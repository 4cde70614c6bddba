//! Every compiled form of our kernels that the engine can launch: one table, from which launches are admitted and from
//! which the compile proofs take what they compile.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use cubecl::ir::{AddressType, DeviceProperties, ElemType, FloatKind, TargetProperties};
use cubecl::prelude::*;

use super::definitions::{Parts, define};
use super::kernels::attention::AttentionShape;
use super::kernels::column::ColumnShape;
use super::kernels::row_norm::NormShape;
use super::kernels::shrink::{SGMV_UNITS, SgmvShape};
use super::paged_forms::{PagedForm, paged_forms};
use super::row_shape::{LANES, ROW_SHAPES};
use crate::launches::Kernel;
use crate::lora_index::RANK_STEP;
use crate::tiles::TileRows;
use crate::{Activation, Pooling};

/// Units of a workgroup that ends a linear layer, or has a piece of a row.
pub(crate) const END_UNITS: usize = 128;
/// Units that a BGMV workgroup may have, by ascending width of input.
pub(crate) const BGMV_UNITS: [usize; 3] = [64, 128, 256];
/// Units that a workgroup of a root mean square norm may have, by ascending width.
const RMS_NORM_UNITS: [usize; 2] = [64, 256];
/// Columns of a head that attention is compiled for, each with the block that fits 16 KiB of shared memory.
pub(crate) const ATTENTION_SHAPES: [AttentionShape; 6] = [
    AttentionShape { block: 32, head_room: 16, side: 8 },
    AttentionShape { block: 32, head_room: 32, side: 8 },
    AttentionShape { block: 16, head_room: 64, side: 8 },
    AttentionShape { block: 16, head_room: 96, side: 8 },
    AttentionShape { block: 8, head_room: 128, side: 8 },
    AttentionShape { block: 4, head_room: 256, side: 4 },
];

/// A kernel with all that is fixed when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelVariant {
    pub(crate) elem: ElemType,
    pub(crate) lanes: usize,
    pub(crate) form: Form,
}

/// The kernel and its compile-time shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    Sgmv(SgmvShape),
    Bgmv { units: usize },
    LinearEnd { tile_rows: usize, shape: ColumnShape },
    AddNorm { tile_rows: usize, shape: ColumnShape, row: NormShape },
    EmbedNorm(NormShape),
    Embed,
    RmsNorm { units: usize },
    Gated { activation: Activation },
    Attention(AttentionShape),
    Pool { pooling: Pooling, row: NormShape },
    Paged(PagedForm),
}

impl KernelVariant {
    /// The kernel that it is a form of.
    pub fn kernel(&self) -> Kernel {
        match self.form {
            Form::Sgmv(_) => Kernel::SgmvShrink,
            Form::Bgmv { .. } => Kernel::BgmvShrink,
            Form::LinearEnd { shape, .. } if !shape.lora => Kernel::BiasActivation,
            Form::LinearEnd { tile_rows: 1, .. } => Kernel::BgmvExpand,
            Form::LinearEnd { .. } => Kernel::SgmvExpand,
            Form::AddNorm { .. } => Kernel::AddNorm,
            Form::EmbedNorm(_) => Kernel::EmbedNorm,
            Form::Embed => Kernel::Embed,
            Form::RmsNorm { .. } => Kernel::RmsNorm,
            Form::Gated { .. } => Kernel::Gated,
            Form::Attention(_) => Kernel::Attention,
            Form::Pool { .. } => Kernel::Pool,
            Form::Paged(form) => form.kernel(),
        }
    }

    /// Units of its workgroups.
    pub(crate) fn cube_dim(&self) -> CubeDim {
        let units = match self.form {
            Form::Sgmv(_) => SGMV_UNITS,
            Form::Bgmv { units } | Form::RmsNorm { units } => units,
            Form::LinearEnd { .. } | Form::Embed | Form::Gated { .. } => END_UNITS,
            Form::AddNorm { row, .. } | Form::EmbedNorm(row) | Form::Pool { row, .. } => row.units,
            Form::Attention(shape) => shape.side * shape.side,
            Form::Paged(form) => form.units(),
        };
        CubeDim::new_1d(units as u32)
    }

    /// Counts a launch of this variant and gives its workgroup.
    ///
    /// # Panics
    /// When the table does not have it: then nothing has proved that it compiles.
    pub(crate) fn admit(&self) -> CubeDim {
        static TABLE: OnceLock<HashSet<KernelVariant>> = OnceLock::new();
        let table = TABLE.get_or_init(|| variants().into_iter().collect());
        assert!(table.contains(self), "{self:?} is not in the table of kernels");
        self.kernel().count();
        self.cube_dim()
    }
}

/// Rows that a workgroup ends at once, for tiles of `tile_rows` over `row`s.
pub(crate) fn end_rows(tile_rows: usize, row: Option<NormShape>) -> usize {
    // Four rows of wide vectors would not fit the registers.
    let most = if row.is_some_and(|row| row.vectors_per_unit > 2) { 1 } else { 4 };
    tile_rows.min(most)
}

/// Units for the root mean square norm of a row of `vectors` vectors.
pub(crate) fn rms_norm_units(vectors: usize) -> usize {
    // Four vectors a unit: fewer would wait longer for each other than they compute.
    if vectors <= 4 * RMS_NORM_UNITS[0] { RMS_NORM_UNITS[0] } else { RMS_NORM_UNITS[1] }
}

/// Every variant.
pub fn variants() -> Vec<KernelVariant> {
    let mut table = vec![];
    for elem in [FloatKind::F32, FloatKind::F16, FloatKind::BF16].map(ElemType::Float) {
        for lanes in [1, LANES] {
            table.extend(forms().into_iter().map(|form| KernelVariant { elem, lanes, form }));
        }
        let attention =
            ATTENTION_SHAPES.map(|shape| KernelVariant { elem, lanes: 1, form: Form::Attention(shape) });
        table.extend(attention);
        let paged = paged_forms().into_iter();
        table.extend(paged.map(|(lanes, form)| KernelVariant { elem, lanes, form: Form::Paged(form) }));
    }
    table
}

/// Every form that reads vectors.
fn forms() -> Vec<Form> {
    let mut forms = vec![];
    for tile_rows in [TileRows::Sixteen, TileRows::SixtyFour].map(TileRows::count) {
        let of = |rank_tile| Form::Sgmv(SgmvShape { tile_rows, rank_tile });
        forms.extend([1, 2, 4].map(|blocks| of(blocks * RANK_STEP)));
    }
    forms.extend(BGMV_UNITS.map(|units| Form::Bgmv { units }));
    // Without adapters, rows are taken in tiles of four.
    let heights = [(4, false)].into_iter().chain(TileRows::ALL.map(|rows| (rows.count(), true)));
    for (tile_rows, lora) in heights {
        let shape = |rows, bias, activation| ColumnShape { rows, lora, bias, activation, residual: false };
        for activation in Activation::ALL {
            forms.extend([false, true].map(|bias| Form::LinearEnd {
                tile_rows,
                shape: shape(end_rows(tile_rows, None), bias, activation),
            }));
        }
        forms.extend([false, true].map(|bias| Form::LinearEnd {
            tile_rows,
            shape: ColumnShape {
                residual: true,
                ..shape(end_rows(tile_rows, None), bias, Activation::Identity)
            },
        }));
        forms.extend(ROW_SHAPES.map(|row| {
            let tile_rows = if lora { tile_rows } else { end_rows(tile_rows, Some(row)) };
            let shape = shape(end_rows(tile_rows, Some(row)), true, Activation::Identity);
            let shape = ColumnShape { residual: true, ..shape };
            Form::AddNorm { tile_rows, shape, row }
        }));
    }
    forms.extend(ROW_SHAPES.map(Form::EmbedNorm));
    forms.push(Form::Embed);
    forms.extend(RMS_NORM_UNITS.map(|units| Form::RmsNorm { units }));
    forms.extend(Activation::ALL.map(|activation| Form::Gated { activation }));
    for pooling in [Pooling::Mean, Pooling::Max, Pooling::Cls, Pooling::LastToken] {
        forms.extend(ROW_SHAPES.map(|row| Form::Pool { pooling, row }));
    }
    forms
}

/// The variant as a kernel that a compiler takes, for a device of these properties.
pub fn definition(variant: &KernelVariant, device: Arc<DeviceProperties>) -> Box<dyn CubeKernel> {
    let KernelVariant { elem, lanes, form } = *variant;
    let settings = KernelSettings::new(*variant.cube_dim(), ExecutionMode::Checked, AddressType::U32);
    let target = Arc::new(TargetProperties::default());
    define(form, Parts { settings, device, target, elem, lanes })
}
