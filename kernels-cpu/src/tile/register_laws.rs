//! Products in registers: each sum to the bit, in memory that ends where operands and sums end.

use super::{AHEAD, OperandForm, Scaling, TileCall, TileKernel};
use crate::aligned::AlignedBuffer;
use crate::amx_laws::{bits, values};
use crate::isa::Isa;
use crate::packed_matrix::{PANEL, WeightFormat};

/// Rows and a panel of so many columns over so many steps.
struct Factors {
    columns: usize,
    steps: usize,
    /// Values of a row, and of a column.
    depth: usize,
    x: Vec<f32>,
    /// `[depth, columns]`.
    b: Vec<f32>,
    operand: AlignedBuffer,
    panel: AlignedBuffer,
}

impl Factors {
    fn new(seed: u64, rows: usize, (columns, steps): (usize, usize), form: OperandForm) -> Self {
        let group = form.step_bytes() / 4;
        let depth = steps * group;
        let (x, b) = (values(seed, rows * depth), values(seed + 1, depth * columns));
        let mut operand = AlignedBuffer::zeroed(x.len() * 4);
        operand.values_mut::<f32>()[..x.len()].copy_from_slice(&x);
        // The last step is read as wide as a whole panel, or half of one.
        let read = if columns <= PANEL / 2 { PANEL / 2 } else { PANEL };
        let mut panel = AlignedBuffer::zeroed((steps * columns + read - columns) * 4);
        let words = panel.values_mut::<u32>();
        for (step, values) in b.chunks(group * columns).enumerate() {
            for column in 0..columns {
                words[step * columns + column] = match values.get(columns + column) {
                    // Two in a word, as bf16.
                    Some(second) => second.to_bits() | values[column].to_bits() >> 16,
                    None => values[column].to_bits(),
                };
            }
        }
        Self { columns, steps, depth, x, b, operand, panel }
    }

    /// The sums of a row, added to those before them.
    fn sums(&self, row: usize, before: &[f32]) -> Vec<f32> {
        let x = &self.x[row * self.depth..][..self.depth];
        let column = |column: usize| {
            let b = self.b.iter().skip(column).step_by(self.columns);
            x.iter().zip(b).fold(before[column], |sum, (x, b)| x.mul_add(*b, sum))
        };
        (0..self.columns.min(before.len())).map(column).collect()
    }

    fn call<'n>(
        &'n self,
        out: &mut AlignedBuffer,
        many_rows: bool,
        next: Option<&'n TileCall<'n>>,
    ) -> TileCall<'n> {
        TileCall {
            a: self.operand.values::<u8>().as_ptr(),
            stride: self.depth * 4,
            panel: self.panel.values::<u8>().as_ptr(),
            panel_stride: self.columns * 4,
            steps: self.steps,
            columns: self.columns,
            ahead: AHEAD,
            many_rows,
            coming: if many_rows { self.panel.values() } else { &[] },
            accumulate: false,
            scaling: Scaling::None,
            next,
            out: out.values_mut::<u32>().as_mut_ptr(),
        }
    }
}

/// Columns and steps: whole panels, halves and narrower ones, over one turn and several.
const SHAPES: [(usize, usize); 9] =
    [(PANEL, 1), (PANEL, 70), (PANEL, 530), (PANEL / 2, 70), (22, 9), (6, 9), (8, 300), (24, 300), (2, 40)];

#[test]
fn products_in_registers_add_one_input_after_the_other_whatever_the_rows_and_turns() {
    let isas = Isa::available().into_iter().filter(|isa| ![Isa::Scalar, Isa::Amx].contains(isa));
    let forms: Vec<(Isa, TileKernel)> = isas
        .flat_map(|isa| [WeightFormat::F32, WeightFormat::Bf16].map(|f| (isa, TileKernel::choose(isa, f))))
        .filter(|(_, kernel)| [OperandForm::F32, OperandForm::Widened].contains(&kernel.operand))
        .collect();
    for (isa, kernel) in forms {
        for (shape, follows) in SHAPES.into_iter().flat_map(|shape| [(shape, false), (shape, true)]) {
            let most = kernel.max_rows();
            let factors = Factors::new(1, most, shape, kernel.operand);
            // As the expand of an adapter follows the product of its layer: as wide, over fewer steps.
            let then = Factors::new(3, most, (shape.0, 5), kernel.operand);
            let before = values(5, most * PANEL);
            for accumulate in [false, true] {
                let expected: Vec<Vec<f32>> = (0..most)
                    .map(|row| {
                        let zeros = [0.0; PANEL];
                        let before = if accumulate { &before[row * PANEL..][..PANEL] } else { &zeros[..] };
                        let sums = factors.sums(row, before);
                        if follows { then.sums(row, &sums) } else { sums }
                    })
                    .collect();
                for (rows, many_rows) in (1..=most).flat_map(|rows| [(rows, false), (rows, true)]) {
                    let mut out = AlignedBuffer::zeroed(rows * PANEL * 4);
                    out.values_mut::<f32>()[..rows * PANEL].copy_from_slice(&before[..rows * PANEL]);
                    let next = then.call(&mut out, false, None);
                    let call = factors.call(&mut out, many_rows, follows.then_some(&next));
                    let call = TileCall { accumulate, ..call };
                    // SAFETY: the instruction set is available here; rows, panels and room for the sums were made above.
                    unsafe { kernel.function(rows)(&call) };
                    let what = format!(
                        "{} {:?}, {shape:?}, {rows} rows, many: {many_rows}, onto others: {accumulate}, followed: {follows}",
                        isa.name(),
                        kernel.operand
                    );
                    for (row, (got, want)) in out.values::<f32>().chunks(PANEL).zip(&expected).enumerate() {
                        assert_eq!(bits(&got[..shape.0]), bits(want), "{what}, row {row}");
                        if shape.0 <= PANEL / 2 {
                            let left = &before[row * PANEL..][PANEL / 2..PANEL];
                            assert_eq!(&got[PANEL / 2..], left, "{what}: the other half of row {row}");
                        }
                    }
                }
            }
        }
    }
}
