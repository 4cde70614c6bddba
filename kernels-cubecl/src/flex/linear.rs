//! Linear layers on the CPU.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, bf16};
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::buffers::{Value, give, take};
use super::{KernelDType, contiguous, from_values, in_f32, kernel_dtype, values};
use crate::lora::{LoraOperand, LoraTable};
use crate::ops::linear::{LinearAddArgs, LinearAddNormArgs, LinearArgs, LinearOps};
use crate::reference;
use crate::site_group::SiteGroup;
use crate::weight::{NormTensors, PreparedWeight, WeightCoding};

impl LinearOps for Flex {
    fn prepare_weight(weight: FloatTensor<Self>, coding: WeightCoding) -> PreparedWeight<Self> {
        let format = match (kernel_dtype(&weight, []), coding) {
            (Some(_), WeightCoding::Int8) if weight.shape()[1] <= cpu::INT8_MOST_INPUTS => {
                Isa::current().int8_format()
            }
            (Some(KernelDType::F32), _) => cpu::WeightFormat::F32,
            (Some(KernelDType::Bf16), _) => cpu::WeightFormat::Bf16,
            (None, _) => return PreparedWeight::Plain(weight),
        };
        let shape = weight.shape();
        let weight = contiguous(weight);
        PreparedWeight::Packed(Arc::new(cpu::PackedMatrix::pack(
            &in_f32(&weight),
            shape[0],
            shape[1],
            format,
        )))
    }

    fn linear(args: LinearArgs<Self>) -> FloatTensor<Self> {
        match packed(&args, None) {
            Some(packed) => run_in(packed, args, After::default()),
            None => reference::linear::linear::<Self>(args),
        }
    }

    fn linear_add(args: LinearAddArgs<Self>) -> FloatTensor<Self> {
        match packed(&args.linear, Some(args.residual.dtype())) {
            Some(packed) => run_in(packed, args.linear, After { residual: Some(args.residual), norm: None }),
            None => reference::linear::linear_add::<Self>(args),
        }
    }

    fn linear_add_norm(args: LinearAddNormArgs<Self>) -> FloatTensor<Self> {
        match packed(&args.linear, Some(args.residual.dtype())) {
            Some(packed) => {
                run_in(packed, args.linear, After { residual: Some(args.residual), norm: Some(args.norm) })
            }
            None => reference::linear::linear_add_norm::<Self>(args),
        }
    }
}

/// A packed weight and the dtype of the rows that it is for.
type Packed = (Arc<cpu::PackedMatrix>, KernelDType);

/// The packed weight and the rows' dtype, when the call is one that the CPU kernels serve.
fn packed(args: &LinearArgs<Flex>, residual: Option<DType>) -> Option<Packed> {
    let dtype = kernel_dtype(&args.x, [])?;
    if residual.is_some_and(|residual| residual != args.x.dtype()) {
        return None;
    }
    match (&args.weight, &args.lora) {
        (PreparedWeight::Packed(weight), LoraOperand::Absent | LoraOperand::Host(..)) => {
            Some((weight.clone(), dtype))
        }
        _ => None,
    }
}

/// What follows the layer's own activation: a residual to be added, and a norm of the sum.
#[derive(Default)]
struct After {
    residual: Option<FloatTensor<Flex>>,
    norm: Option<NormTensors<Flex>>,
}

fn run_in((weight, dtype): Packed, args: LinearArgs<Flex>, after: After) -> FloatTensor<Flex> {
    match dtype {
        KernelDType::F32 => run::<f32>(args, &weight, after),
        KernelDType::Bf16 => run::<bf16>(args, &weight, after),
    }
}

fn run<E: Value>(args: LinearArgs<Flex>, weight: &cpu::PackedMatrix, after: After) -> FloatTensor<Flex> {
    let rows = args.x.shape()[0];
    let x = contiguous(args.x);
    let bias = args.bias.into_option();
    let bias = bias.as_ref().map(in_f32);
    let lora = match &args.lora {
        LoraOperand::Host(table, group) => segments(table, group, weight),
        _ => vec![],
    };
    let After { residual, norm } = after;
    let residual = residual.map(contiguous);
    let norm = norm.as_ref().map(|norm| (in_f32(&norm.gamma), in_f32(&norm.beta), norm.epsilon));
    let mut out = take::<E>(rows * weight.outputs());
    let call = cpu::LinearCall {
        x: values::<E>(&x),
        weight,
        bias: bias.as_deref(),
        lora: &lora,
        activation: args.activation,
        residual: residual.as_ref().map(values::<E>),
        norm: norm.as_ref().map(|(gamma, beta, epsilon)| cpu::NormParams { gamma, beta, epsilon: *epsilon }),
    };
    cpu::linear(Isa::current(), call, &mut out);
    give::<E>(x);
    if let Some(residual) = residual {
        give::<E>(residual);
    }
    from_values(out, [rows, weight.outputs()].into())
}

/// The batch's segments with what their adapters bring to this layer: slices of the host extents, and beside a base in 16 or 8
/// bits what was packed of them.
fn segments<'a>(
    table: &'a LoraTable,
    group: &'a SiteGroup,
    weight: &cpu::PackedMatrix,
) -> Vec<cpu::LoraSegment<'a>> {
    table
        .effects(group)
        .map(|(segment, adapter, slots)| {
            let values = adapter.extent.values();
            let first = slots[0].1.shape.site;
            let spans: Vec<_> = slots
                .into_iter()
                .map(|(span, slot)| {
                    let shape = slot.shape;
                    let vector = |at: usize| &values[at..at + shape.out_width];
                    cpu::LoraSpan {
                        columns: span.columns.clone(),
                        rank: shape.rank,
                        a: &values[slot.a..slot.a + shape.rank * shape.in_width],
                        b: &values[slot.b..slot.b + shape.rank * shape.out_width],
                        gain: slot.gain.map(vector),
                        bias: slot.bias.map(vector),
                    }
                })
                .collect();
            let pack = || cpu::PackedLora::pack(&spans, weight.outputs(), weight.inputs(), weight.format());
            let packed = adapter.extent.packed(first, weight.format(), pack);
            cpu::LoraSegment { rows: segment.rows.clone(), spans, packed }
        })
        .collect()
}
