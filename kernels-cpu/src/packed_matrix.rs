//! A weight matrix in the order in which the GEMM reads it.

/// Columns of one panel.
pub(crate) const PANEL: usize = 32;

/// A weight `[out, in]`, stored as panels of 32 outputs: panel `p` holds, for each input, the 32 weights that
/// lead from it to outputs `32 p ..`; the last panel is padded with zeros.
#[derive(Debug)]
pub struct PackedMatrix {
    panels: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

impl PackedMatrix {
    /// Packs `weight`, `[outputs, inputs]` row-major.
    ///
    /// # Panics
    /// When the length is not `outputs * inputs`.
    pub fn pack(weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(weight.len(), outputs * inputs, "weight is not [{outputs}, {inputs}]");
        let mut panels = vec![0f32; outputs.div_ceil(PANEL) * inputs * PANEL];
        if inputs > 0 {
            for (row, values) in weight.chunks_exact(inputs).enumerate() {
                let start = (row / PANEL) * inputs * PANEL + row % PANEL;
                for (i, value) in values.iter().enumerate() {
                    panels[start + i * PANEL] = *value;
                }
            }
        }
        Self { panels, inputs, outputs }
    }

    /// The matrix as it was given to [`PackedMatrix::pack`].
    pub fn unpack(&self) -> Vec<f32> {
        let mut weight = Vec::with_capacity(self.outputs * self.inputs);
        for row in 0..self.outputs {
            let panel = self.panel(row / PANEL);
            weight.extend(panel.iter().skip(row % PANEL).step_by(PANEL));
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

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.panels.len() * size_of::<f32>()
    }

    pub(crate) fn panel_count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Panel `index`, `[inputs, PANEL]`.
    #[inline(always)]
    pub(crate) fn panel(&self, index: usize) -> &[f32] {
        &self.panels[index * self.inputs * PANEL..][..self.inputs * PANEL]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unpacking_gives_the_matrix_back(outputs in 1usize..100, inputs in 1usize..50) {
            let weight: Vec<f32> = (0..outputs * inputs).map(|i| i as f32).collect();
            prop_assert_eq!(PackedMatrix::pack(&weight, outputs, inputs).unpack(), weight);
        }
    }
}
