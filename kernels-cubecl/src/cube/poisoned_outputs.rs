//! Kernels write all that they should and nothing else: outputs are poisoned and lie before a poisoned guard.

use std::io::Write;
use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, TensorData};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::ir::{ElemType, FloatKind};

use super::layer_end::LayerEnd;
use super::lora::LoraLaunch;
use super::row_shape::{lanes, row_shape};
use super::variant::{ATTENTION_SHAPES, Form, KernelVariant, rms_norm_units};
use super::{attention, embedding, gated, rms_norm};
use crate::extent::{ExtentLayout, HostExtent, SiteId, SiteShape};
use crate::lora::{LoraOperand, LoraTable, PlacedAdapter};
use crate::lora_index::LoraIndex;
use crate::ops::attention::{AttentionArgs, AttentionMask};
use crate::ops::embedding::{EmbedArgs, EmbedNormArgs};
use crate::ops::gated::GatedArgs;
use crate::ops::pooling::PoolArgs;
use crate::ops::rms_norm::{RmsNormArgs, RmsNormTensors};
use crate::query_tiles::{QUERY_FIELDS, query_tiles};
use crate::sequences::SequenceBounds;
use crate::tiles::{TilePlan, TileRows};
use crate::weight::NormTensors;
use crate::{Activation, HeadShape, Pooling, SiteGroup, SiteSpan, segments_of};

pub(super) const F32: ElemType = ElemType::Float(FloatKind::F32);
/// Values behind an output.
const GUARD: usize = 300;
/// A NaN that no computation gives.
pub(super) const POISON: u32 = 0x7fc1_2345;

pub(super) fn device() -> Option<CubeDevice> {
    #[cfg(feature = "cuda")]
    let found = CubeDevice::cuda(0).ok();
    #[cfg(not(feature = "cuda"))]
    let found: Option<CubeDevice> = None;
    #[cfg(feature = "wgpu")]
    let found = found.or_else(|| CubeDevice::wgpu(Default::default()).ok());
    if found.is_none() {
        assert!(
            std::env::var_os("POLYLORA_REQUIRE_WGPU").is_none(),
            "POLYLORA_REQUIRE_WGPU is set, but no GPU is there"
        );
        let _ = writeln!(std::io::stderr(), "NOT RUN: no GPU device: outputs were not poisoned");
    }
    found
}

pub(super) fn floats(device: &CubeDevice, values: Vec<f32>, shape: &[usize]) -> CubeTensor {
    CubeBackend::float_from_data(TensorData::new(values, shape.to_vec()), device)
}

pub(super) fn ints(device: &CubeDevice, values: Vec<i32>) -> CubeTensor {
    use burn::backend::ops::IntTensorOps;
    let shape = vec![values.len()];
    CubeBackend::int_from_data(TensorData::new(values, shape), device)
}

pub(super) fn some(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5).collect()
}

/// An output of that shape before its guard, all of it poison; and the whole.
pub(super) fn poisoned(device: &CubeDevice, shape: [usize; 2]) -> (CubeTensor, CubeTensor) {
    let len = shape[0] * shape[1] + GUARD;
    let whole = floats(device, vec![f32::from_bits(POISON); len], &[len]);
    let (client, handle) = (whole.client.clone(), whole.handle.clone());
    let out = CubeTensor::new_contiguous(client, whole.device.clone(), shape.into(), handle, DType::F32);
    (out, whole)
}

pub(super) fn bits(whole: CubeTensor) -> Vec<u32> {
    let data = burn::tensor::read_sync(CubeBackend::float_into_data(whole)).expect("values");
    data.iter::<f32>().map(f32::to_bits).collect()
}

/// Every value of the output was written, none of the guard.
pub(super) fn assert_full(whole: CubeTensor, len: usize, what: &str) {
    let bits = bits(whole);
    let finite = bits[..len].iter().position(|b| !f32::from_bits(*b).is_finite());
    assert_eq!(finite, None, "{what}: a value was not written");
    assert!(bits[len..].iter().all(|b| *b == POISON), "{what}: the guard was written");
}

fn sequences(device: &CubeDevice, lengths: &[u32]) -> SequenceBounds<CubeBackend> {
    let mut bounds = vec![0u32];
    lengths.iter().for_each(|len| bounds.push(bounds[bounds.len() - 1] + len));
    let tiles = query_tiles(&bounds);
    let count = tiles.len() / QUERY_FIELDS;
    let index = ints(device, bounds.iter().map(|b| *b as i32).chain(tiles).collect());
    SequenceBounds { index, tiles: count, host: bounds.into() }
}

/// A batch over a layer of two sites, 40 inputs and `outputs` outputs; adapters of rank 12 + 3, and 5 on one site.
fn lora(device: &CubeDevice, outputs: usize, height: TileRows) -> (LoraLaunch, Vec<Option<usize>>) {
    let rows = [(3, None), (21, Some(0)), (1, Some(1)), (70, Some(0)), (2, None), (16, Some(1))];
    let cut = outputs / 2;
    let shape = |site: u32, out_width, rank| SiteShape {
        site: SiteId(site),
        in_width: 40,
        out_width,
        rank,
        has_gain: site == 0,
        has_bias: site == 1,
    };
    let shapes = [vec![shape(0, cut, 12), shape(1, outputs - cut, 3)], vec![shape(1, outputs - cut, 5)]];
    let mut at = 0;
    let mut arena = vec![];
    let adapters = shapes.map(|shapes| {
        let mut extent = HostExtent::zeroed(ExtentLayout::new(shapes, |_| 0));
        let values = some(extent.values().len());
        extent.values_mut().copy_from_slice(&values);
        let offset = at;
        at += values.len();
        arena.extend(values);
        PlacedAdapter { extent: Arc::new(extent), offset }
    });
    let segments = segments_of(rows);
    let plan = TilePlan::with_height(&segments, height);
    let index = LoraIndex::new(&plan, &adapters);
    let spans = [(0, 0..cut), (1, cut..outputs)].map(|(id, columns)| SiteSpan { site: SiteId(id), columns });
    let numbers =
        spans.iter().flat_map(|s| [s.site.0 as i32, s.columns.start as i32, s.columns.end as i32]).collect();
    let len = arena.len();
    let operand = LoraOperand::Arena {
        values: floats(device, arena, &[len]),
        index: ints(device, index.values),
        sites: index.sites,
        spans: ints(device, numbers),
        table: Arc::new(LoraTable { segments, adapters: adapters.to_vec(), plan }),
        group: Arc::new(SiteGroup::new(spans.to_vec())),
    };
    let owners = rows.iter().flat_map(|(len, adapter)| vec![*adapter; *len]).collect();
    (LoraLaunch::of(operand).expect("adapters"), owners)
}

#[test]
fn shrink_writes_the_columns_of_each_rows_adapter_and_no_other() {
    let Some(device) = device() else { return };
    for height in TileRows::ALL {
        let (lora, owners) = lora(&device, 36, height);
        // Site 0: 12 ranks in 16 columns, site 1: 3 in 8; the second adapter has 5 ranks in 8 columns.
        let width = 24;
        let x = floats(&device, some(owners.len() * 40), &[owners.len(), 40]);
        let (hidden, whole) = poisoned(&device, [owners.len(), width]);
        lora.shrink_into(&x, hidden);
        let bits = bits(whole);
        for (row, owner) in owners.iter().enumerate() {
            let columns = owner.map_or(0, |adapter| [24, 8][adapter]);
            for (column, found) in bits[row * width..][..width].iter().enumerate() {
                let written = f32::from_bits(*found).is_finite();
                assert_eq!(written, column < columns, "{height:?} row {row} column {column}");
                assert!(written || *found == POISON);
            }
        }
        assert!(
            bits[owners.len() * width..].iter().all(|b| *b == POISON),
            "{height:?}: the guard was written"
        );
    }
}

/// What follows a product.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Activation,
    Residual,
    Norm,
}

#[test]
fn layer_ends_read_no_poison_and_stay_within_their_rows() {
    let Some(device) = device() else { return };
    for height in TileRows::ALL {
        let ends = [End::Activation, End::Residual, End::Norm];
        let wide = (520, End::Norm);
        for (outputs, after) in ends.into_iter().flat_map(|end| [(36, end), (37, end)]).chain([wide]) {
            let (lora, owners) = lora(&device, outputs, height);
            let rows = owners.len();
            let x = floats(&device, some(rows * 40), &[rows, 40]);
            let (hidden, hidden_whole) = poisoned(&device, [rows, 24]);
            lora.shrink_into(&x, hidden.clone());
            let mut values = some(rows * outputs);
            values.extend([f32::from_bits(POISON); GUARD]);
            let whole = floats(&device, values, &[rows * outputs + GUARD]);
            let (client, handle) = (whole.client.clone(), whole.handle.clone());
            let product = CubeTensor::new_contiguous(
                client,
                device.clone(),
                [rows, outputs].into(),
                handle,
                DType::F32,
            );
            let lanes = lanes([outputs]).min(lora.lanes());
            let bias = Some(floats(&device, some(outputs), &[outputs]));
            let residual = || floats(&device, some(rows * outputs), &[rows, outputs]);
            let residual = (after != End::Activation).then(residual);
            let end = LayerEnd { product, bias, lora: Some(lora), hidden: Some(hidden), residual, lanes };
            match after {
                End::Activation => end.finish(Activation::Gelu),
                End::Residual => end.finish(Activation::Identity),
                End::Norm => {
                    let vector = || floats(&device, some(outputs), &[outputs]);
                    let norm = NormTensors { gamma: vector(), beta: vector(), epsilon: 1e-5 };
                    end.add_norm(norm, row_shape(outputs, lanes).expect("fits"))
                }
            };
            drop(hidden_whole);
            assert_full(whole, rows * outputs, &format!("{height:?} {outputs} {after:?}"));
        }
    }
}

#[test]
fn attention_pooling_and_embedding_fill_their_outputs() {
    let Some(device) = device() else { return };
    let lengths = [1, 33, 64, 5];
    let rows: usize = lengths.iter().sum::<u32>() as usize;
    for shape in ATTENTION_SHAPES {
        let width = shape.head_room - 3;
        let args = AttentionArgs {
            qkv: floats(&device, some(rows * 6 * width), &[rows, 6 * width]),
            sequences: sequences(&device, &lengths),
            heads: HeadShape { heads: 2, width },
            scale: 0.3,
            mask: AttentionMask::Full,
        };
        let (out, whole) = poisoned(&device, [rows, 2 * width]);
        attention::launch(
            args,
            out,
            KernelVariant { elem: F32, lanes: 1, form: Form::Attention(shape) },
            shape,
        );
        assert_full(whole, rows * 2 * width, &format!("{shape:?}"));
    }
    for width in [36, 37, 1028] {
        let lanes = lanes([width]);
        let row = row_shape(width, lanes).expect("fits");
        let vector = || floats(&device, some(width), &[width]);
        let args = EmbedNormArgs {
            words: floats(&device, some(9 * width), &[9, width]),
            positions: floats(&device, some(4 * width), &[4, width]),
            ids: ints(&device, vec![8, 0, 3]),
            position_ids: ints(&device, vec![0, 3, 1]),
            norm: NormTensors { gamma: vector(), beta: vector(), epsilon: 1e-5 },
        };
        let (out, whole) = poisoned(&device, [3, width]);
        embedding::launch(args, out, KernelVariant { elem: F32, lanes, form: Form::EmbedNorm(row) }, row);
        assert_full(whole, 3 * width, "embedding");
        for pooling in [Pooling::Mean, Pooling::Max, Pooling::Cls, Pooling::LastToken] {
            let args = PoolArgs {
                hidden: floats(&device, some(rows * width), &[rows, width]),
                sequences: sequences(&device, &lengths),
                pooling,
                normalize: true,
            };
            let (out, whole) = poisoned(&device, [lengths.len(), width]);
            super::pooling::launch(
                args,
                out,
                KernelVariant { elem: F32, lanes, form: Form::Pool { pooling, row } },
                row,
            );
            assert_full(whole, lengths.len() * width, &format!("{pooling:?}"));
        }
    }
}

#[test]
fn norms_gates_and_lookups_fill_their_outputs() {
    let Some(device) = device() else { return };
    for width in [1, 36, 37, 1028, 2050] {
        let (lanes, rows) = (lanes([width]), 3);
        let variant = |form| KernelVariant { elem: F32, lanes, form };
        let table = || floats(&device, some(9 * width), &[9, width]);
        let (out, whole) = poisoned(&device, [rows, width]);
        let args = EmbedArgs { table: table(), ids: ints(&device, vec![8, 0, 3]) };
        embedding::launch_embed(args, out, variant(Form::Embed));
        assert_full(whole, rows * width, "lookup");

        let (out, whole) = poisoned(&device, [9, width]);
        let norm = RmsNormTensors { gamma: floats(&device, some(width), &[width]), epsilon: 1e-5 };
        let units = rms_norm_units(width / lanes);
        rms_norm::launch(RmsNormArgs { x: table(), norm }, out, variant(Form::RmsNorm { units }), units);
        assert_full(whole, 9 * width, "norm");

        let (out, whole) = poisoned(&device, [rows, width]);
        let gate_up = floats(&device, some(rows * 2 * width), &[rows, 2 * width]);
        let activation = Activation::Silu;
        gated::launch(GatedArgs { gate_up, activation }, out, variant(Form::Gated { activation }));
        assert_full(whole, rows * width, "gate");
    }
}
