//! A weight matrix in the order in which the products read it.

use half::bf16;

use crate::int8_row::quantize_row;
use crate::weight_memory::WeightMemory;

/// Columns of one panel.
pub(crate) const PANEL: usize = 32;
/// Bytes of one step of a panel: four bytes for each of its columns.
pub(crate) const STEP_BYTES: usize = 4 * PANEL;
/// Inputs are padded to whole steps of a tile: sixteen four-byte groups.
const STEPS_ALIGN: usize = 16;

/// Most inputs of a matrix of 8-bit integers: sums of more products might not fit 32 bits.
pub const INT8_MOST_INPUTS: usize = i32::MAX as usize / (255 * 127);

/// The format of a weight's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// 32-bit floats.
    F32,
    /// bfloat16, the products summed in f32.
    Bf16,
    /// 8-bit integers with one scale a row (an output), symmetric; inputs are quantised row by row as they come.
    Int8,
    /// The same on a scale at which those of one sign among certain eights of inputs come to 128 at most: then eight products with
    /// bytes fit 16 bits, in which AVX2 adds them. [`Isa::int8_format`](crate::isa::Isa::int8_format) says where it is the faster one.
    Int8InEights,
}

impl WeightFormat {
    /// All there are.
    pub const ALL: [WeightFormat; 4] =
        [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int8InEights];

    /// Inputs of one four-byte group.
    pub(crate) fn group(self) -> usize {
        match self {
            WeightFormat::F32 => 1,
            WeightFormat::Bf16 => 2,
            WeightFormat::Int8 | WeightFormat::Int8InEights => 4,
        }
    }

    /// Whether values are 8-bit integers.
    pub(crate) fn is_int8(self) -> bool {
        matches!(self, WeightFormat::Int8 | WeightFormat::Int8InEights)
    }
}

/// A weight `[out, in]`, stored as panels of 32 outputs. A panel is a sequence of steps; step `s` holds, for each of the
/// panel's outputs, the weights of the inputs `s * group ..`, four bytes of them (one f32, two bf16, four int8). What is
/// missing to whole panels and steps is zero. AMX's tiles and the dot products of AVX read this order as it is.
#[derive(Debug)]
pub struct PackedMatrix {
    panels: WeightMemory,
    format: WeightFormat,
    inputs: usize,
    outputs: usize,
    /// For int8, by output, padded to whole panels: the scale, and the scale times the sum of the row's integers.
    scales: Vec<f32>,
    sums: Vec<f32>,
}

impl PackedMatrix {
    /// Packs `weight`, `[outputs, inputs]` row-major.
    ///
    /// # Panics
    /// When the length is not `outputs * inputs`, or int8 has more inputs than [`INT8_MOST_INPUTS`].
    pub fn pack(weight: &[f32], outputs: usize, inputs: usize, format: WeightFormat) -> Self {
        assert_eq!(weight.len(), outputs * inputs, "weight is not [{outputs}, {inputs}]");
        assert!(!format.is_int8() || inputs <= INT8_MOST_INPUTS, "{inputs} inputs are too many for int8");
        let steps = steps(inputs, format);
        let padded = outputs.next_multiple_of(PANEL);
        let mut packed = Self {
            panels: WeightMemory::zeroed(outputs.div_ceil(PANEL) * steps * STEP_BYTES),
            format,
            inputs,
            outputs,
            scales: vec![],
            sums: vec![],
        };
        let place = |row: usize, input: usize| value_at(steps, format, row, input);
        let rows = weight.chunks_exact(inputs.max(1)).enumerate();
        match format {
            WeightFormat::F32 => {
                let values = packed.panels.values_mut::<f32>();
                rows.for_each(|(r, row)| row.iter().enumerate().for_each(|(i, w)| values[place(r, i)] = *w));
            }
            WeightFormat::Bf16 => {
                let values = packed.panels.values_mut::<bf16>();
                for (r, row) in rows {
                    row.iter().enumerate().for_each(|(i, w)| values[place(r, i)] = bf16::from_f32(*w));
                }
            }
            WeightFormat::Int8 | WeightFormat::Int8InEights => {
                (packed.scales, packed.sums) = (vec![0.0; padded], vec![0.0; padded]);
                let values = packed.panels.values_mut::<i8>();
                for (r, row) in rows {
                    let found = quantize_row(row, format, |i, q| values[place(r, i)] = q);
                    (packed.scales[r], packed.sums[r]) = (found.scale, found.total);
                }
            }
        }
        packed
    }

    /// The matrix `[outputs, inputs]` row-major, as its format rounded it.
    pub fn unpack(&self) -> Vec<f32> {
        let steps = self.steps();
        let mut weight = Vec::with_capacity(self.outputs * self.inputs);
        for row in 0..self.outputs {
            for input in 0..self.inputs {
                let at = value_at(steps, self.format, row, input);
                weight.push(match self.format {
                    WeightFormat::F32 => self.panels.values::<f32>()[at],
                    WeightFormat::Bf16 => self.panels.values::<bf16>()[at].to_f32(),
                    WeightFormat::Int8 | WeightFormat::Int8InEights => {
                        self.panels.values::<i8>()[at] as f32 * self.scales[row]
                    }
                });
            }
        }
        weight
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Format of the values.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.panels.bytes() + (self.scales.len() + self.sums.len()) * size_of::<f32>()
    }

    pub(crate) fn panel_count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Steps of a panel, a multiple of 16.
    pub(crate) fn steps(&self) -> usize {
        steps(self.inputs, self.format)
    }

    /// Panel `index`, `steps` steps.
    #[inline(always)]
    pub(crate) fn panel(&self, index: usize) -> &[u8] {
        let bytes = self.steps() * STEP_BYTES;
        &self.panels.values::<u8>()[index * bytes..][..bytes]
    }

    /// Scales of panel `index`'s outputs and scales times sums, 32 each.
    #[inline(always)]
    pub(crate) fn panel_scales(&self, index: usize) -> (&[f32], &[f32]) {
        (&self.scales[index * PANEL..][..PANEL], &self.sums[index * PANEL..][..PANEL])
    }
}

/// Steps over so many inputs, a multiple of 16.
pub(crate) fn steps(inputs: usize, format: WeightFormat) -> usize {
    inputs.div_ceil(format.group()).next_multiple_of(STEPS_ALIGN)
}

/// Index of a weight among values of its format.
fn value_at(steps: usize, format: WeightFormat, row: usize, input: usize) -> usize {
    let group = format.group();
    (((row / PANEL) * steps + input / group) * PANEL + row % PANEL) * group + input % group
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unpacking_gives_the_matrix_back_as_its_format_rounds_it(outputs in 1usize..100, inputs in 1usize..50) {
            let weight: Vec<f32> = (0..outputs * inputs).map(|i| (i as f32 * 0.37).sin()).collect();
            for format in WeightFormat::ALL {
                let back = PackedMatrix::pack(&weight, outputs, inputs, format).unpack();
                for (row, (got, want)) in back.chunks(inputs).zip(weight.chunks(inputs)).enumerate() {
                    let largest = want.iter().fold(0f32, |m, w| m.max(w.abs()));
                    for (g, w) in got.iter().zip(want) {
                        let allowed = match format {
                            WeightFormat::F32 => 0.0,
                            WeightFormat::Bf16 => w.abs() / 256.0,
                            WeightFormat::Int8 => largest / 253.0,
                            WeightFormat::Int8InEights => largest / 30.9,
                        };
                        prop_assert!((g - w).abs() <= allowed, "{format:?} row {row}: {g} for {w}");
                    }
                }
            }
        }
    }
}
