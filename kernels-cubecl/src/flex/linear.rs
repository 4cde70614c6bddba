//! Linear layers on the CPU.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::{contiguous, from_values, is_f32, values};
use crate::lora::{LoraOperand, LoraTable};
use crate::ops::linear::{LinearAddNormArgs, LinearArgs, LinearOps};
use crate::reference;
use crate::site_group::SiteGroup;
use crate::weight::{NormTensors, PreparedWeight};

impl LinearOps for Flex {
    fn prepare_weight(weight: FloatTensor<Self>) -> PreparedWeight<Self> {
        if !is_f32(&weight) {
            return PreparedWeight::Plain(weight);
        }
        let shape = weight.shape();
        let weight = contiguous(weight);
        PreparedWeight::Packed(Arc::new(cpu::PackedMatrix::pack(values(&weight), shape[0], shape[1])))
    }

    fn linear(args: LinearArgs<Self>) -> FloatTensor<Self> {
        match packed(&args) {
            Some(weight) => run(args, &weight, None),
            None => reference::linear::linear::<Self>(args),
        }
    }

    fn linear_add_norm(args: LinearAddNormArgs<Self>) -> FloatTensor<Self> {
        match packed(&args.linear) {
            Some(weight) => run(args.linear, &weight, Some((args.residual, args.norm))),
            None => reference::linear::linear_add_norm::<Self>(args),
        }
    }
}

/// The packed weight, when the call is one that the CPU kernels serve.
fn packed(args: &LinearArgs<Flex>) -> Option<Arc<cpu::PackedMatrix>> {
    match (&args.weight, &args.lora) {
        (PreparedWeight::Packed(weight), LoraOperand::Absent | LoraOperand::Host(..)) if is_f32(&args.x) => {
            Some(weight.clone())
        }
        _ => None,
    }
}

fn run(
    args: LinearArgs<Flex>,
    weight: &cpu::PackedMatrix,
    add_norm: Option<(FloatTensor<Flex>, NormTensors<Flex>)>,
) -> FloatTensor<Flex> {
    let rows = args.x.shape()[0];
    let x = contiguous(args.x);
    let bias = args.bias.into_option().map(contiguous);
    let lora = match &args.lora {
        LoraOperand::Host(table, group) => segments(table, group),
        _ => vec![],
    };
    let tail = add_norm.map(|(residual, norm)| {
        (contiguous(residual), contiguous(norm.gamma), contiguous(norm.beta), norm.epsilon)
    });
    let mut out = vec![0f32; rows * weight.outputs()];
    let call = cpu::LinearCall {
        x: values(&x),
        weight,
        bias: bias.as_ref().map(values),
        lora: &lora,
        activation: args.activation,
        residual: tail.as_ref().map(|(residual, ..)| values(residual)),
        norm: tail.as_ref().map(|(_, gamma, beta, epsilon)| cpu::NormParams {
            gamma: values(gamma),
            beta: values(beta),
            epsilon: *epsilon,
        }),
    };
    cpu::linear(Isa::current(), call, &mut out);
    from_values(out, [rows, weight.outputs()].into())
}

/// The batch's segments with what their adapters bring to this layer, as slices of the host extents.
fn segments<'a>(table: &'a LoraTable, group: &'a SiteGroup) -> Vec<cpu::LoraSegment<'a>> {
    table
        .effects(group)
        .map(|(segment, adapter, slots)| {
            let values = adapter.extent.values();
            let spans = slots.into_iter().map(|(span, slot)| {
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
            });
            cpu::LoraSegment { rows: segment.rows.clone(), spans: spans.collect() }
        })
        .collect()
}
