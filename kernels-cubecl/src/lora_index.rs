//! The batch's tiles and the places of its adapters' values as one image of i32: what the kernels look things up in.

use crate::extent::EXTENT_ALIGN;
use crate::lora::PlacedAdapter;
use crate::tiles::TilePlan;

/// Numbers a tile: first row, rows, adapter or -1.
pub const TILE_FIELDS: usize = 3;
/// Numbers an adapter and site: rank, then where A, B, gain and bias begin in the arena in units of [`EXTENT_ALIGN`]
/// values, -1 for what is not there.
pub const SLOT_FIELDS: usize = 5;
/// The numbers of a site that an adapter has no effect on.
const NO_EFFECT: [i32; SLOT_FIELDS] = [0, 0, 0, -1, -1];
/// Ranks are padded to this many columns between shrink and expand.
#[cfg_attr(not(feature = "cube"), expect(dead_code, reason = "only GPU backends have hidden columns"))]
pub const RANK_STEP: usize = 8;

/// Tiles, then slots: `[tiles * 3 + adapters * sites * 5]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraIndex {
    /// The image.
    pub values: Vec<i32>,
    /// Sites a row of the slots has: one more than the highest site number.
    pub sites: usize,
}

impl LoraIndex {
    /// The image of `plan` and `adapters`.
    ///
    /// # Panics
    /// When an adapter does not begin at a multiple of [`EXTENT_ALIGN`], or beyond what an i32 names: a pool that gives
    /// out such places is broken.
    pub fn new(plan: &TilePlan, adapters: &[PlacedAdapter]) -> Self {
        let number = |n: usize| i32::try_from(n).expect("rows and blocks are numbered in 31 bits");
        let highest =
            adapters.iter().filter_map(|a| a.extent.layout().slots().last()).map(|s| s.shape.site.0 + 1);
        let sites = highest.max().unwrap_or(0) as usize;
        let mut values =
            Vec::with_capacity(plan.tiles.len() * TILE_FIELDS + adapters.len() * sites * SLOT_FIELDS);
        for tile in &plan.tiles {
            let adapter = tile.adapter.map_or(-1, number);
            values.extend([number(tile.first_row), number(tile.rows), adapter]);
        }
        for adapter in adapters {
            assert!(adapter.offset.is_multiple_of(EXTENT_ALIGN), "an extent is not aligned");
            let block = |at: usize| number((adapter.offset + at) / EXTENT_ALIGN);
            let slots = values.len();
            values.extend(std::iter::repeat_n(NO_EFFECT, sites).flatten());
            for slot in adapter.extent.layout().slots() {
                let at = slots + slot.shape.site.0 as usize * SLOT_FIELDS;
                let optional = |at: Option<usize>| at.map_or(-1, block);
                values[at..at + SLOT_FIELDS].copy_from_slice(&[
                    number(slot.shape.rank),
                    block(slot.a),
                    block(slot.b),
                    optional(slot.gain),
                    optional(slot.bias),
                ]);
            }
        }
        Self { values, sites }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{ExtentLayout, HostExtent, SiteId, SiteShape};
    use crate::segments::segments_of;
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn every_tile_and_every_block_is_found_again(
            sequences in proptest::collection::vec((0usize..40, proptest::option::of(0usize..3)), 0..8),
            ranks in proptest::collection::vec(proptest::collection::vec(0usize..20, 7), 3),
            places in proptest::collection::vec(0usize..1000, 3),
        ) {
            let adapters: Vec<PlacedAdapter> = ranks.iter().zip(&places).map(|(ranks, place)| {
                let shapes = ranks.iter().enumerate().filter(|(_, rank)| **rank > 2).map(|(site, rank)| SiteShape {
                    site: SiteId(site as u32),
                    in_width: 5 + site,
                    out_width: 9,
                    rank: *rank - 3,
                    has_gain: rank.is_multiple_of(2),
                    has_bias: rank.is_multiple_of(3),
                });
                let layout = ExtentLayout::new(shapes.collect(), |s| s.0 / 2);
                PlacedAdapter { extent: Arc::new(HostExtent::zeroed(layout)), offset: place * EXTENT_ALIGN }
            }).collect();
            let plan = TilePlan::new(&segments_of(sequences));
            let index = LoraIndex::new(&plan, &adapters);
            let (tiles, slots) = index.values.split_at(plan.tiles.len() * TILE_FIELDS);
            for (found, tile) in tiles.chunks(TILE_FIELDS).zip(&plan.tiles) {
                let adapter = tile.adapter.map_or(-1, |a| a as i32);
                prop_assert_eq!(found, &[tile.first_row as i32, tile.rows as i32, adapter]);
            }
            prop_assert_eq!(slots.len(), adapters.len() * index.sites * SLOT_FIELDS);
            for (a, adapter) in adapters.iter().enumerate() {
                for site in 0..index.sites {
                    let found = &slots[(a * index.sites + site) * SLOT_FIELDS..][..SLOT_FIELDS];
                    let Some(slot) = adapter.extent.layout().slot(SiteId(site as u32)) else {
                        prop_assert_eq!(found, &[0, 0, 0, -1, -1]);
                        continue;
                    };
                    let at = |block: i32| block as usize * EXTENT_ALIGN - adapter.offset;
                    prop_assert_eq!(found[0] as usize, slot.shape.rank);
                    prop_assert_eq!((at(found[1]), at(found[2])), (slot.a, slot.b));
                    for (found, want) in [(found[3], slot.gain), (found[4], slot.bias)] {
                        prop_assert_eq!((found >= 0).then(|| at(found)), want);
                    }
                }
            }
        }
    }
}
