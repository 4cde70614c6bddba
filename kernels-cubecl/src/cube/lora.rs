//! LoRA on a CubeCL device: shrink, and what expand needs of it.

use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::grid::grid;
use super::kernels::lookup::LoraTablesLaunch;
use super::kernels::shrink::{SgmvShape, bgmv_shrink, sgmv_shrink};
use super::row_shape::lanes;
use super::tensors::{elem_type, empty};
use super::variant::{BGMV_UNITS, Form, KernelVariant};
use crate::lora::{LoraOperand, LoraTable};
use crate::lora_index::{RANK_STEP, TILE_FIELDS};
use crate::site_group::SiteGroup;
use crate::tiles::TileRows;

/// Vectors of an `A` row that one unit of BGMV reads at most, where more units can be had.
const BGMV_SWEEPS: usize = 4;

/// What adapters bring to one layer, on the device.
pub(crate) struct LoraLaunch {
    /// The adapters' values, `[capacity]`.
    pub(crate) arena: CubeTensor,
    index: CubeTensor,
    spans: CubeTensor,
    sites: usize,
    table: Arc<LoraTable>,
    group: Arc<SiteGroup>,
    hidden_width: usize,
}

impl LoraLaunch {
    /// The operand's parts; `None` without adapters.
    ///
    /// # Panics
    /// On values in host memory, which no kernel reaches; the caller has sent those to the reference.
    pub(crate) fn of(operand: LoraOperand<CubeBackend>) -> Option<Self> {
        match operand {
            LoraOperand::Absent => None,
            LoraOperand::Host(..) => panic!("a GPU kernel cannot read adapters in host memory"),
            LoraOperand::Arena { values, index, sites, spans, table, group } => {
                let hidden_width = hidden_width(&table, &group);
                Some(Self { arena: values, index, spans, sites, table, group, hidden_width })
            }
        }
    }

    /// Most rows of a tile.
    pub(crate) fn tile_rows(&self) -> usize {
        self.table.plan.tile_rows.count()
    }

    /// Tiles, those of base rows among them.
    pub(crate) fn tiles(&self) -> usize {
        self.table.plan.tiles.len()
    }

    /// Lanes in which the layer's end may read columns: no vector may cross from one span to the next.
    pub(crate) fn lanes(&self) -> usize {
        span_lanes(&self.group)
    }

    /// The tables for a launch over the first `tiles` tiles.
    pub(crate) fn tables(&self, tiles: usize) -> LoraTablesLaunch {
        LoraTablesLaunch::new(
            self.index.clone().into_buffer_arg(),
            self.spans.clone().into_buffer_arg(),
            self.group.spans().len() as u32,
            tiles as u32,
            (self.tiles() * TILE_FIELDS) as u32,
            self.sites as u32,
            self.hidden_width as u32,
        )
    }

    /// `A x` for every row with an adapter, `[T, hidden width]` in f32; `None` when no adapter has a low-rank part here.
    pub(crate) fn shrink(&self, x: &CubeTensor) -> Option<CubeTensor> {
        if self.hidden_width == 0 {
            return None;
        }
        let hidden = empty(x, [x.shape()[0], self.hidden_width].into(), DType::F32);
        self.shrink_into(x, hidden.clone());
        Some(hidden)
    }

    /// The tables are those of this layer.
    ///
    /// # Panics
    /// When they are not: kernels would read what is not theirs.
    pub(crate) fn check(&self, rows: usize, inputs: usize, outputs: usize) {
        let last = self.table.segments.last().map_or(0, |segment| segment.rows.end);
        assert_eq!(last, rows, "the batch's segments are not those of its rows");
        for span in self.group.spans() {
            assert!(span.columns.end <= outputs, "a span ends at column {} of {outputs}", span.columns.end);
            for adapter in &self.table.adapters {
                let Some(slot) = adapter.extent.layout().slot(span.site) else { continue };
                let shape = (slot.shape.in_width, slot.shape.out_width);
                assert_eq!(shape, (inputs, span.columns.len()), "an adapter is not of this layer's widths");
            }
        }
    }

    /// [`Self::shrink`] into `hidden`, of which only the columns of each row's adapter are written.
    pub(crate) fn shrink_into(&self, x: &CubeTensor, hidden: CubeTensor) {
        let inputs = x.shape()[1];
        let lanes = lanes([inputs]);
        let elem = elem_type(x.dtype).expect("a dtype of ours");
        let tiles = self.table.plan.with_adapter;
        let tables = self.tables(tiles);
        let (x, arena) = (x.clone(), self.arena.clone());
        let client = x.client.clone();
        let form = self.shrink_form(inputs / lanes);
        let dim = KernelVariant { elem, lanes, form }.admit();
        match form {
            Form::Bgmv { units } => bgmv_shrink::launch(
                &client,
                grid(tiles, self.hidden_width / RANK_STEP),
                dim,
                x.into_buffer_arg(),
                arena.into_buffer_arg(),
                tables,
                hidden.into_buffer_arg(),
                inputs as u32,
                units,
                elem,
                lanes,
            ),
            Form::Sgmv(shape) => sgmv_shrink::launch(
                &client,
                grid(tiles, self.hidden_width.div_ceil(shape.rank_tile)),
                dim,
                x.into_buffer_arg(),
                arena.into_buffer_arg(),
                tables,
                hidden.into_buffer_arg(),
                inputs as u32,
                shape,
                elem,
                lanes,
            ),
            _ => unreachable!("a shrink is one of these"),
        }
    }

    fn shrink_form(&self, vectors: usize) -> Form {
        match self.table.plan.tile_rows {
            TileRows::One => {
                // Each unit has a few vectors to read, so that their loads overlap.
                let units = BGMV_UNITS.into_iter().find(|units| *units * BGMV_SWEEPS >= vectors);
                Form::Bgmv { units: units.unwrap_or(BGMV_UNITS[BGMV_UNITS.len() - 1]) }
            }
            tile_rows => {
                let blocks = (self.hidden_width / RANK_STEP).next_power_of_two().min(4);
                Form::Sgmv(SgmvShape { tile_rows: tile_rows.count(), rank_tile: blocks * RANK_STEP })
            }
        }
    }
}

/// Lanes in which columns may be read so that no vector crosses from one of the group's spans to the next.
pub(crate) fn span_lanes(group: &SiteGroup) -> usize {
    lanes(group.spans().iter().flat_map(|span| [span.columns.start, span.columns.end]))
}

/// Hidden columns that the widest adapter of the batch needs over the group's sites.
fn hidden_width(table: &LoraTable, group: &SiteGroup) -> usize {
    let of = |adapter: &crate::lora::PlacedAdapter| {
        let layout = adapter.extent.layout();
        let ranks = group.spans().iter().filter_map(|span| Some(layout.slot(span.site)?.shape.rank));
        ranks.map(|rank| rank.next_multiple_of(RANK_STEP)).sum()
    };
    table.adapters.iter().map(of).max().unwrap_or(0)
}
