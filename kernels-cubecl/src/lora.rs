//! The adapters of one batch, in the form the ops compute with.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType};
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::extent::{HostExtent, SiteSlot};
use crate::lora_index::LoraIndex;
use crate::memory::AdapterMemory;
use crate::ops::linear::Linear;
use crate::segments::{Segment, segments_of};
use crate::site_group::{SiteGroup, SiteSpan};
use crate::tiles::TilePlan;

/// An adapter of a batch and where it lies in the device's arena.
#[derive(Clone, Debug)]
pub struct PlacedAdapter {
    /// Its layout and values.
    pub extent: Arc<HostExtent>,
    /// Start in the arena, in values.
    pub offset: usize,
}

/// The rows of a batch by adapter: plain data, shared by all layers.
#[derive(Debug)]
pub struct LoraTable {
    /// Segments in order of rows, covering all of them.
    pub segments: Vec<Segment>,
    /// The adapters that the segments name.
    pub adapters: Vec<PlacedAdapter>,
    /// The segments, cut for kernels.
    pub plan: TilePlan,
}

impl LoraTable {
    /// For each segment with an adapter that has an effect in `group`: its rows, the adapter and its slots by span.
    pub(crate) fn effects<'a>(
        &'a self,
        group: &'a SiteGroup,
    ) -> impl Iterator<Item = (&'a Segment, &'a PlacedAdapter, Vec<(&'a SiteSpan, &'a SiteSlot)>)> {
        self.segments.iter().filter_map(move |segment| {
            let adapter = &self.adapters[segment.adapter?];
            let layout = adapter.extent.layout();
            let slots: Vec<_> =
                group.spans().iter().filter_map(|span| Some((span, layout.slot(span.site)?))).collect();
            (!slots.is_empty()).then_some((segment, adapter, slots))
        })
    }
}

/// What LoRA brings to one linear layer, as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub enum LoraOperand<B: Backend> {
    /// Nothing: no LoRA kernel is launched.
    Absent,
    /// Values in the host extents.
    Host(Arc<LoraTable>, Arc<SiteGroup>),
    /// Values in the device's arena.
    Arena {
        /// The arena, `[capacity]`.
        values: FloatTensor<B>,
        /// The batch's tiles and slots, as `lora_index.rs` lays them out.
        index: IntTensor<B>,
        /// Sites a row of the index's slots has.
        sites: usize,
        /// The group's spans, `[spans * 3]`: site, first column, one past the last.
        spans: IntTensor<B>,
        /// Rows by adapter.
        table: Arc<LoraTable>,
        /// The layer's sites.
        group: Arc<SiteGroup>,
    },
}

/// The adapters of one packed batch.
#[derive(Clone, Debug)]
pub struct LoraBatch {
    table: Arc<LoraTable>,
    memory: AdapterMemory,
    index: Option<DeviceIndex>,
    launches: Arc<AtomicU64>,
}

/// A [`LoraIndex`] on the arena's device: one upload a batch, for all layers.
#[derive(Clone, Debug)]
struct DeviceIndex {
    values: Tensor<1, Int>,
    sites: usize,
}

impl LoraBatch {
    /// A batch whose rows are all of the base model.
    pub fn base() -> Self {
        Self::new(vec![], vec![], AdapterMemory::HostAlias)
    }

    /// A batch of `segments` (covering all rows) through `adapters`, whose values lie in `memory`.
    ///
    /// # Panics
    /// When a segment names an adapter that is not there, the segments do not cover the rows in order, or an adapter lies
    /// beyond the memory's end: kernels trust these numbers.
    pub fn new(segments: Vec<Segment>, adapters: Vec<PlacedAdapter>, memory: AdapterMemory) -> Self {
        assert!(segments.iter().all(|s| s.adapter.is_none_or(|a| a < adapters.len())), "unknown adapter");
        let mut end = 0;
        for Segment { rows, .. } in &segments {
            assert!(
                rows.start == end && rows.end > end,
                "segments follow one another from row 0, none of them empty"
            );
            end = rows.end;
        }
        if let AdapterMemory::Arena(arena) = &memory {
            let capacity = arena.dims()[0];
            let inside = |a: &PlacedAdapter| a.offset + a.extent.layout().len() <= capacity;
            assert!(adapters.iter().all(inside), "an adapter lies beyond the arena's {capacity} values");
        }
        let plan = TilePlan::new(&segments);
        let index = match &memory {
            AdapterMemory::Arena(arena) if plan.with_adapter > 0 => {
                let LoraIndex { values, sites } = LoraIndex::new(&plan, &adapters);
                let shape = [values.len()];
                let values = Tensor::from_data(TensorData::new(values, shape), (&arena.device(), DType::I32));
                Some(DeviceIndex { values, sites })
            }
            _ => None,
        };
        let table = Arc::new(LoraTable { segments, adapters, plan });
        Self { table, memory, index, launches: Arc::default() }
    }

    /// The same batch with its adapters' values read from their host extents, as the CPU's kernels do.
    pub fn in_host_memory(&self) -> Self {
        Self { memory: AdapterMemory::HostAlias, index: None, ..self.clone() }
    }

    /// The part of the batch that consists of `rows`, counted from 0 there, its adapters' values read from their host
    /// extents; launches are counted together.
    ///
    /// # Panics
    /// When the rows end beyond the batch's, unless all are of the base model.
    pub fn part(&self, rows: Range<usize>) -> Self {
        let end = self.table.segments.last().map_or(rows.end, |s| s.rows.end);
        assert!(rows.end <= end, "the batch has {end} rows");
        let within = |s: &Segment| {
            let part = s.rows.start.max(rows.start)..s.rows.end.min(rows.end);
            let adapter = s.adapter;
            (!part.is_empty())
                .then(|| Segment { rows: part.start - rows.start..part.end - rows.start, adapter })
        };
        let segments: Vec<Segment> = self.table.segments.iter().filter_map(within).collect();
        let plan = TilePlan::new(&segments);
        let table = Arc::new(LoraTable { segments, adapters: self.table.adapters.clone(), plan });
        Self { table, memory: AdapterMemory::HostAlias, index: None, launches: self.launches.clone() }
    }

    /// The rows of the batch at `rows`, in that order, as a batch of their own; launches are counted together.
    pub fn select(&self, rows: &[usize]) -> Self {
        let adapter_of = |row: usize| {
            let at = self.table.segments.partition_point(|s| s.rows.end <= row);
            self.table.segments.get(at)?.adapter
        };
        let segments = segments_of(rows.iter().map(|row| (1, adapter_of(*row))));
        let selected = Self::new(segments, self.table.adapters.clone(), self.memory.clone());
        Self { launches: self.launches.clone(), ..selected }
    }

    /// Whether an adapter of the batch changes `layer`.
    pub fn acts_on(&self, layer: &Linear) -> bool {
        self.table.effects(&layer.sites).next().is_some()
    }

    /// LoRA launches so far: linear layers that ran with an adapter's part, each part of the batch by itself.
    pub fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// The operand for one layer; counts a launch when there is one.
    pub(crate) fn operand(&self, group: &Arc<SiteGroup>) -> LoraOperand<Dispatch> {
        if self.table.effects(group).next().is_none() {
            return LoraOperand::Absent;
        }
        self.launches.fetch_add(1, Ordering::Relaxed);
        match &self.memory {
            AdapterMemory::HostAlias => LoraOperand::Host(self.table.clone(), group.clone()),
            AdapterMemory::Arena(values) => {
                let index = self.index.as_ref().expect("a batch with effects has an index");
                LoraOperand::Arena {
                    values: values.as_ref().clone().into_dispatch(),
                    index: index.values.clone().into_dispatch(),
                    sites: index.sites,
                    spans: group.on_device(&values.device()).into_dispatch(),
                    table: self.table.clone(),
                    group: group.clone(),
                }
            }
        }
    }
}
