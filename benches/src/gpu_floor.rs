//! What an op cannot do without on a GPU: the bytes that must cross the device's memory, and the floating-point operations.
//!
//! Every input is read once and every output written once, whatever the implementation; a multiply-add counts two
//! operations, nothing else counts. No time can be below both bytes over bandwidth and operations over the peak, as long as
//! what is read does not already lie in a cache.

use std::ops::Add;

/// Bytes and operations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Floor {
    /// Bytes read and written.
    pub bytes: f64,
    /// Floating-point operations.
    pub flops: f64,
}

impl Floor {
    /// Least seconds on a device of `bandwidth` bytes and `flops` operations a second.
    pub fn seconds(self, bandwidth: f64, flops: f64) -> f64 {
        (self.bytes / bandwidth).max(self.flops / flops)
    }
}

impl Add for Floor {
    type Output = Floor;

    fn add(self, other: Floor) -> Floor {
        Floor { bytes: self.bytes + other.bytes, flops: self.flops + other.flops }
    }
}

/// A linear layer over some rows.
#[derive(Clone, Copy, Debug)]
pub struct LayerSize {
    /// Rows of the input.
    pub rows: usize,
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
    /// Bytes of a value.
    pub value: usize,
}

impl LayerSize {
    /// `y = W x`: x and W read, y written.
    pub fn product(self) -> Floor {
        let LayerSize { rows, inputs, outputs, value } = self;
        Floor {
            bytes: (value * (rows * inputs + inputs * outputs + rows * outputs)) as f64,
            flops: (2 * rows * inputs * outputs) as f64,
        }
    }

    /// What a bias adds to a fused layer.
    pub fn bias(self) -> Floor {
        Floor { bytes: (self.value * self.outputs) as f64, flops: 0.0 }
    }

    /// What residual and norm add to a fused layer: the residual, gamma and beta are read.
    pub fn add_norm(self) -> Floor {
        Floor { bytes: (self.value * (self.rows * self.outputs + 2 * self.outputs)) as f64, flops: 0.0 }
    }
}

/// LoRA on a layer whose every row has an adapter.
#[derive(Clone, Copy, Debug)]
pub struct LoraWork {
    /// The layer.
    pub layer: LayerSize,
    /// Rank of every adapter.
    pub rank: usize,
    /// Distinct adapters.
    pub adapters: usize,
}

impl LoraWork {
    /// `y += B (A x)` after the product: x read, A and B of each adapter read once, y read and written.
    pub fn after_product(self) -> Floor {
        let LayerSize { rows, inputs, outputs, value } = self.layer;
        let own = self.within_layer();
        Floor { bytes: own.bytes + (value * (rows * inputs + 2 * rows * outputs)) as f64, ..own }
    }

    /// The same in one pass with the product: only A and B are read in addition.
    pub fn within_layer(self) -> Floor {
        let LayerSize { rows, inputs, outputs, value } = self.layer;
        Floor {
            bytes: (value * self.adapters * self.rank * (inputs + outputs)) as f64,
            flops: (2 * rows * self.rank * (inputs + outputs)) as f64,
        }
    }
}

/// Attention within sequences of `lengths` rows, `width` columns over all heads: q, k and v read, the context written;
/// each row with each of its own sequence, once for the scores and once for the values.
pub fn attention_floor(lengths: &[usize], width: usize, value: usize) -> Floor {
    let rows: usize = lengths.iter().sum();
    let pairs: usize = lengths.iter().map(|l| l * l).sum();
    Floor { bytes: (value * 4 * rows * width) as f64, flops: (4 * width * pairs) as f64 }
}

/// Lookup of `rows` tokens with positions below `positions`: a row of the word table read and one written for each, each
/// position read once, and two numbers of 4 bytes.
pub fn embedding_floor(rows: usize, positions: usize, width: usize, value: usize) -> Floor {
    Floor { bytes: (value * width * (2 * rows + positions) + 8 * rows) as f64, flops: 0.0 }
}

/// Pooling of `rows` rows to `sequences` vectors.
pub fn pooling_floor(rows: usize, sequences: usize, width: usize, value: usize) -> Floor {
    Floor { bytes: (value * width * (rows + sequences)) as f64, flops: 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: LayerSize = LayerSize { rows: 3, inputs: 5, outputs: 7, value: 2 };

    #[test]
    fn every_value_is_counted_once() {
        assert_eq!(LAYER.product(), Floor { bytes: 2.0 * (15.0 + 35.0 + 21.0), flops: 210.0 });
        let work = LoraWork { layer: LAYER, rank: 4, adapters: 2 };
        let values = 2.0 * 4.0 * (5.0 + 7.0);
        assert_eq!(work.within_layer(), Floor { bytes: 2.0 * values, flops: 2.0 * 3.0 * 4.0 * 12.0 });
        assert_eq!(work.after_product().bytes, 2.0 * (values + 15.0 + 2.0 * 21.0));
        assert_eq!(work.after_product().flops, work.within_layer().flops);
        assert_eq!(
            attention_floor(&[2, 3], 8, 4),
            Floor { bytes: 4.0 * 4.0 * 5.0 * 8.0, flops: 32.0 * 13.0 }
        );
        assert_eq!(embedding_floor(10, 4, 6, 2).bytes, 2.0 * 6.0 * 24.0 + 80.0);
        assert_eq!(pooling_floor(10, 2, 6, 2).bytes, 144.0);
    }

    #[test]
    fn more_rows_of_one_adapter_read_it_once_and_more_adapters_read_more() {
        let of = |rows, adapters| {
            LoraWork { layer: LayerSize { rows, ..LAYER }, rank: 8, adapters }.within_layer().bytes
        };
        assert_eq!(of(1, 1), of(500, 1));
        assert_eq!(of(500, 10), 10.0 * of(500, 1));
    }

    #[test]
    fn the_slower_of_memory_and_arithmetic_is_the_floor() {
        let floor = Floor { bytes: 100.0, flops: 1000.0 };
        assert_eq!(floor.seconds(10.0, 1e9), 10.0);
        assert_eq!(floor.seconds(1e9, 10.0), 100.0);
        let sum = floor + LAYER.bias() + LAYER.add_norm();
        assert_eq!(sum, Floor { bytes: 100.0 + 14.0 + 2.0 * (21.0 + 14.0), flops: 1000.0 });
    }

    #[test]
    fn a_decode_step_of_512_adapters_reads_half_a_gigabyte() {
        let layer = LayerSize { rows: 512, inputs: 4096, outputs: 4096, value: 2 };
        let floor = LoraWork { layer, rank: 64, adapters: 512 }.after_product();
        assert_eq!(floor.bytes, 2.0 * (512.0 * 64.0 * 8192.0 + 3.0 * 512.0 * 4096.0));
        // On 4.8 TB/s, bound by memory.
        let micros = floor.seconds(4.8e12, 989e12) * 1e6;
        assert!((114.0..115.0).contains(&micros), "{micros}");
    }
}
