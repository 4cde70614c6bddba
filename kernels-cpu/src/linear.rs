//! A linear layer with all that follows it, in DESIGN's order: scale, LoRA, bias, activation, residual, norm.

use rayon::prelude::*;

use crate::epilogue::{Activation, activate, add};
use crate::gemm::{Rows, gemm};
use crate::isa::{Isa, Target, dispatch};
use crate::lora::{LoraSegment, apply_span};
use crate::norm::{NormParams, layer_norm};
use crate::packed_matrix::{PANEL, PackedMatrix};

/// Rows of one task: their outputs stay in the second-level cache until the epilogue is through.
const ROW_BLOCK: usize = 96;
/// Below so many rows a thread the columns are split instead of the rows.
const FEW_ROWS: usize = 24;

/// Everything one linear layer computes.
#[derive(Clone, Copy, Debug)]
pub struct LinearCall<'a> {
    /// Input, `[rows, inputs]` row-major.
    pub x: &'a [f32],
    /// Weight.
    pub weight: &'a PackedMatrix,
    /// Bias, `[outputs]`.
    pub bias: Option<&'a [f32]>,
    /// The rows' adapters; segments in order, not overlapping; rows in none are base rows.
    pub lora: &'a [LoraSegment<'a>],
    /// Activation after the bias.
    pub activation: Activation,
    /// Added after the activation, `[rows, outputs]`.
    pub residual: Option<&'a [f32]>,
    /// Normalisation of the result.
    pub norm: Option<NormParams<'a>>,
}

/// Computes the layer into `out`, `[rows, outputs]`, on the threads of the current rayon pool.
///
/// # Panics
/// When a length does not fit the widths.
pub fn linear(isa: Isa, call: LinearCall<'_>, out: &mut [f32]) {
    isa.require();
    let (inputs, outputs) = (call.weight.inputs(), call.weight.outputs());
    if outputs == 0 || out.is_empty() {
        return;
    }
    let rows = out.len() / outputs;
    assert_eq!(out.len(), rows * outputs, "out is not [rows, {outputs}]");
    assert_eq!(call.x.len(), rows * inputs, "x is not [{rows}, {inputs}]");
    assert!(call.bias.is_none_or(|b| b.len() == outputs), "bias is not [{outputs}]");
    assert!(call.residual.is_none_or(|r| r.len() == out.len()), "residual is not [{rows}, {outputs}]");
    let norm_fits = |n: NormParams<'_>| n.gamma.len() == outputs && n.beta.len() == outputs;
    assert!(call.norm.is_none_or(norm_fits), "the norm is not of width {outputs}");
    call.lora.iter().flat_map(|s| &s.spans).for_each(|span| span.check(inputs, outputs));
    let threads = rayon::current_num_threads();
    if threads > 1 && rows <= FEW_ROWS * threads {
        few_rows(isa, &call, rows, threads, out);
        let share = rows.div_ceil(threads);
        out.par_chunks_mut(share * outputs)
            .enumerate()
            .for_each(|(i, o)| finish_rows(isa, &call, i * share, o));
        return;
    }
    let block = ROW_BLOCK.min(rows.div_ceil(threads)).max(1);
    if threads == 1 {
        out.chunks_mut(block * outputs).enumerate().for_each(|(i, o)| whole_rows(isa, &call, i * block, o));
    } else {
        out.par_chunks_mut(block * outputs)
            .enumerate()
            .for_each(|(i, o)| whole_rows(isa, &call, i * block, o));
    }
}

/// The product of a few rows, split by columns among the threads.
fn few_rows(isa: Isa, call: &LinearCall<'_>, rows: usize, threads: usize, out: &mut [f32]) {
    let outputs = call.weight.outputs();
    let share = call.weight.panel_count().div_ceil(threads).max(1);
    let parts: Vec<(usize, Vec<f32>)> = (0..call.weight.panel_count())
        .into_par_iter()
        .step_by(share)
        .map(|first| {
            let last = (first + share).min(call.weight.panel_count());
            let width = outputs.min(last * PANEL) - first * PANEL;
            let mut part = vec![0f32; rows * width];
            let x = Rows { values: call.x, stride: call.weight.inputs(), count: rows };
            product(isa, x, call.weight, first..last, &mut part, width);
            (first * PANEL, part)
        })
        .collect();
    for (column, part) in parts {
        let width = part.len() / rows;
        for (row, values) in out.chunks_exact_mut(outputs).zip(part.chunks_exact(width)) {
            row[column..column + width].copy_from_slice(values);
        }
    }
}

dispatch! {
    fn product(
        x: Rows<'_>, weight: &PackedMatrix, panels: std::ops::Range<usize>, out: &mut [f32], stride: usize,
    ) = gemm
}
dispatch! {
    fn whole_rows(call: &LinearCall<'_>, first: usize, out: &mut [f32]) = whole_rows_body
}
dispatch! {
    fn finish_rows(call: &LinearCall<'_>, first: usize, out: &mut [f32]) = finish_rows_body
}

#[inline(always)]
fn whole_rows_body<I: Target>(call: &LinearCall<'_>, first: usize, out: &mut [f32]) {
    let (inputs, outputs) = (call.weight.inputs(), call.weight.outputs());
    let count = out.len() / outputs;
    let x = Rows { values: &call.x[first * inputs..][..count * inputs], stride: inputs, count };
    gemm::<I>(x, call.weight, 0..call.weight.panel_count(), out, outputs);
    finish_rows_body::<I>(call, first, out);
}

/// LoRA and the epilogue over rows `first..` of the product.
#[inline(always)]
fn finish_rows_body<I: Target>(call: &LinearCall<'_>, first: usize, out: &mut [f32]) {
    let (inputs, outputs) = (call.weight.inputs(), call.weight.outputs());
    let mut segment = call.lora.partition_point(|s| s.rows.end <= first);
    let mut hidden = vec![0f32; largest_rank(call.lora)];
    for (i, row) in out.chunks_exact_mut(outputs).enumerate() {
        let index = first + i;
        while call.lora.get(segment).is_some_and(|s| s.rows.end <= index) {
            segment += 1;
        }
        let spans = match call.lora.get(segment) {
            Some(s) if s.rows.contains(&index) => s.spans.as_slice(),
            _ => &[],
        };
        for span in spans {
            apply_span::<I>(span, &call.x[index * inputs..][..inputs], row, &mut hidden);
        }
        add_bias(call.bias, spans, row);
        activate::<I>(call.activation, row);
        if let Some(residual) = call.residual {
            add(row, &residual[index * outputs..][..outputs]);
        }
        if let Some(norm) = call.norm {
            layer_norm::<I>(row, norm);
        }
    }
}

/// The base's bias, but an adapter's where it brings one.
#[inline(always)]
fn add_bias(bias: Option<&[f32]>, spans: &[crate::LoraSpan<'_>], row: &mut [f32]) {
    let mut at = 0;
    for span in spans {
        if let Some(own) = span.bias {
            if let Some(bias) = bias {
                add(&mut row[at..span.columns.start], &bias[at..span.columns.start]);
            }
            add(&mut row[span.columns.clone()], own);
            at = span.columns.end;
        }
    }
    if let Some(bias) = bias {
        add(&mut row[at..], &bias[at..]);
    }
}

fn largest_rank(segments: &[LoraSegment<'_>]) -> usize {
    segments.iter().flat_map(|s| &s.spans).map(|s| s.rank).max().unwrap_or(0)
}
