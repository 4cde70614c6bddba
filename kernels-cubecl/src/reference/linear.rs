//! The linear layers in plain tensor operations.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};

use super::{activate, as_row, assign, cast, layer_norm, slice, widen};
use crate::extent::SiteSlot;
use crate::lora::{LoraOperand, LoraTable};
use crate::ops::linear::{LinearAddArgs, LinearAddNormArgs, LinearArgs};
use crate::site_group::SiteGroup;
use crate::weight::PreparedWeight;

pub(crate) fn linear<B: Backend>(args: LinearArgs<B>) -> FloatTensor<B> {
    let dtype = args.x.dtype();
    cast::<B>(affine::<B>(args), dtype)
}

pub(crate) fn linear_add<B: Backend>(args: LinearAddArgs<B>) -> FloatTensor<B> {
    let dtype = args.residual.dtype();
    cast::<B>(B::float_add(affine::<B>(args.linear), widen::<B>(args.residual)), dtype)
}

pub(crate) fn linear_add_norm<B: Backend>(args: LinearAddNormArgs<B>) -> FloatTensor<B> {
    let dtype = args.residual.dtype();
    let sum = B::float_add(affine::<B>(args.linear), widen::<B>(args.residual));
    cast::<B>(layer_norm::<B>(sum, args.norm), dtype)
}

/// `activation(g (W x) + B (A x) + bias)`, `[T, out]` in f32.
fn affine<B: Backend>(args: LinearArgs<B>) -> FloatTensor<B> {
    let LinearArgs { x, weight, bias, activation, lora } = args;
    let weight = plain_weight::<B>(weight, &x);
    let y = widen::<B>(B::float_matmul(x.clone(), B::float_swap_dims(weight, 0, 1)));
    let bias = bias.into_option().map(widen::<B>);
    let y = match lora {
        LoraOperand::Absent => match bias {
            Some(bias) => B::float_add(y, as_row::<B>(bias)),
            None => y,
        },
        LoraOperand::Arena { values, table, group, .. } => {
            with_lora::<B>(y, x, bias, Lora { values, table: &table, group: &group })
        }
        LoraOperand::Host(table, group) => {
            let values = host_values::<B>(&table, &x);
            with_lora::<B>(y, x, bias, Lora { values, table: &relative(&table), group: &group })
        }
    };
    activate::<B>(activation, y)
}

/// What one layer's LoRA needs: the arena's values and who lies where.
struct Lora<'a, B: Backend> {
    values: FloatTensor<B>,
    table: &'a LoraTable,
    group: &'a SiteGroup,
}

fn with_lora<B: Backend>(
    mut y: FloatTensor<B>,
    x: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    lora: Lora<'_, B>,
) -> FloatTensor<B> {
    let (rows, inputs, outputs) = (x.shape()[0], x.shape()[1], y.shape()[1]);
    let block = |at: usize, shape: [usize; 2]| -> FloatTensor<B> {
        let flat = slice::<B>(lora.values.clone(), &[at..at + shape[0] * shape[1]]);
        B::float_reshape(flat, shape.into())
    };
    let zeros = B::float_mul_scalar(y.clone(), 0f32.into());
    let mut biases = match bias {
        Some(bias) => B::float_expand(as_row::<B>(bias), [rows, outputs].into()),
        None => zeros,
    };
    for (segment, adapter, slots) in lora.table.effects(lora.group) {
        for (span, slot) in slots {
            let SiteSlot { shape, a, b, gain, bias } = *slot;
            let at: [Range<usize>; 2] = [segment.rows.clone(), span.columns.clone()];
            let mut part = slice::<B>(y.clone(), &at);
            if let Some(gain) = gain {
                part = B::float_mul(part, widen::<B>(block(adapter.offset + gain, [1, shape.out_width])));
            }
            if shape.rank > 0 {
                let a = block(adapter.offset + a, [shape.rank, inputs]);
                let b = block(adapter.offset + b, [shape.rank, shape.out_width]);
                let x = slice::<B>(x.clone(), &[segment.rows.clone(), 0..inputs]);
                let hidden = B::float_matmul(x, B::float_swap_dims(a, 0, 1));
                part = B::float_add(part, widen::<B>(B::float_matmul(hidden, b)));
            }
            y = assign::<B>(y, &at, part);
            if let Some(bias) = bias {
                let own = widen::<B>(block(adapter.offset + bias, [1, shape.out_width]));
                let own = B::float_expand(own, [segment.rows.len(), shape.out_width].into());
                biases = assign::<B>(biases, &at, own);
            }
        }
    }
    B::float_add(y, biases)
}

fn plain_weight<B: Backend>(weight: PreparedWeight<B>, x: &FloatTensor<B>) -> FloatTensor<B> {
    match weight {
        PreparedWeight::Plain(weight) => weight,
        PreparedWeight::Packed(packed) => {
            let shape = [packed.outputs(), packed.inputs()];
            from_host::<B>(packed.unpack(), &shape, x)
        }
    }
}

/// The batch's host extents one after the other, as an arena.
fn host_values<B: Backend>(table: &LoraTable, x: &FloatTensor<B>) -> FloatTensor<B> {
    let values: Vec<f32> = table.adapters.iter().flat_map(|a| a.extent.values()).copied().collect();
    let len = values.len();
    from_host::<B>(values, &[len], x)
}

/// The table with offsets into [`host_values`].
fn relative(table: &LoraTable) -> LoraTable {
    let mut adapters = table.adapters.clone();
    let mut at = 0;
    for adapter in &mut adapters {
        adapter.offset = at;
        at += adapter.extent.layout().len();
    }
    LoraTable { segments: table.segments.clone(), adapters, plan: table.plan.clone() }
}

fn from_host<B: Backend>(values: Vec<f32>, shape: &[usize], like: &FloatTensor<B>) -> FloatTensor<B> {
    let data = burn::tensor::TensorData::new(values, shape.to_vec());
    cast::<B>(B::float_from_data(data, &like.device()), like.dtype())
}
