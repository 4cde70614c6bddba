//! The shapes in which LoRA's kernels are measured.

use std::fmt;

use clap::Args;

use crate::{Floor, LayerSize, LoraWork, Popularity, Row};

/// What a batch is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// One row a sequence.
    Decode,
    /// Segments of 64 to 1000 rows.
    Prefill,
}

/// A square layer and the rows and adapters that go through it.
#[derive(Clone, Debug)]
pub struct KernelShape {
    /// Kind of batch.
    pub phase: Phase,
    /// How rows choose adapters.
    pub popularity: Popularity,
    /// Width of input and output.
    pub width: usize,
    /// Rank of every adapter.
    pub rank: usize,
    /// Rows of each segment; each has an adapter of its own.
    pub segments: Vec<usize>,
}

/// Which shapes to take.
#[derive(Args, Clone, Debug)]
pub struct ShapeOptions {
    /// Rows of decode batches.
    #[arg(long, value_delimiter = ',', default_values_t = [13, 32, 128, 512])]
    pub decode: Vec<usize>,
    /// Rows of prefill batches.
    #[arg(long, value_delimiter = ',', default_values_t = [1600, 12_800])]
    pub prefill: Vec<usize>,
    /// Widths of input and output.
    #[arg(long, value_delimiter = ',', default_values_t = [384, 1536, 4096])]
    pub widths: Vec<usize>,
    /// Ranks.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 16, 64])]
    pub ranks: Vec<usize>,
    /// How rows choose adapters.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [
        Popularity::Distinct, Popularity::One, Popularity::Uniform, Popularity::Zipf,
    ])]
    pub popularity: Vec<Popularity>,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Decode => "decode",
            Phase::Prefill => "prefill",
        })
    }
}

impl ShapeOptions {
    /// Shapes so small that any device is done with them soon: a trial of the program, not of the device.
    pub fn quick() -> Self {
        Self {
            decode: vec![13],
            prefill: vec![128],
            widths: vec![64],
            ranks: vec![8],
            popularity: vec![Popularity::Distinct, Popularity::Zipf],
        }
    }

    /// All shapes.
    pub fn shapes(&self) -> Vec<KernelShape> {
        let decode = self.decode.iter().map(|rows| (Phase::Decode, *rows, 1..=1));
        let prefill = self.prefill.iter().map(|rows| (Phase::Prefill, *rows, 64..=1000));
        let mut shapes = vec![];
        for (phase, rows, each) in decode.chain(prefill) {
            for width in &self.widths {
                for rank in &self.ranks {
                    shapes.extend(self.popularity.iter().map(|popularity| KernelShape {
                        phase,
                        popularity: *popularity,
                        width: *width,
                        rank: *rank,
                        segments: popularity.segments(rows, each.clone()),
                    }));
                }
            }
        }
        shapes
    }
}

impl KernelShape {
    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.segments.iter().sum()
    }

    /// The layer, in values of so many bytes.
    pub fn layer(&self, value: usize) -> LayerSize {
        LayerSize { rows: self.rows(), inputs: self.width, outputs: self.width, value }
    }

    /// LoRA's part.
    pub fn lora(&self, value: usize) -> LoraWork {
        LoraWork { layer: self.layer(value), rank: self.rank, adapters: self.segments.len() }
    }

    /// The columns that name it, and its floor's bytes and operations.
    pub fn row(&self, op: &str, dtype: &str, floor: Floor) -> Row {
        Row::default()
            .text("op", op)
            .text("phase", self.phase)
            .number("rows", self.rows() as f64, 0)
            .number("width", self.width as f64, 0)
            .number("rank", self.rank as f64, 0)
            .text("popularity", self.popularity)
            .number("adapters", self.segments.len() as f64, 0)
            .text("dtype", dtype)
            .number("MB", floor.bytes / 1e6, 3)
            .number("MFLOP", floor.flops / 1e6, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_for_each_choice() {
        let options = ShapeOptions { prefill: vec![1600], ..ShapeOptions::quick() };
        let shapes = options.shapes();
        assert_eq!(shapes.len(), 4);
        assert_eq!(shapes[0].segments, [1; 13]);
        assert_eq!(shapes[0].lora(2).adapters, 13);
        assert!(shapes.iter().all(|s| s.rows() == if s.phase == Phase::Decode { 13 } else { 1600 }));
    }
}
