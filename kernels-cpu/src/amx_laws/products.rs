//! The products alone, up to 32 rows by a panel: each sum to the bit, in memory that ends where operands and sums end.

use super::on_tiles_alone;
use crate::aligned::AlignedBuffer;
use crate::isa::Isa;
use crate::packed_matrix::{PANEL, WeightFormat};
use crate::tile::{AHEAD, OperandForm, Scaling, TileCall, TileKernel};
use crate::tile_emulator::{Numbers, bf16_dot};

/// Steps that a tile takes at once.
const TURN: usize = 16;

/// Rows and a panel as four-byte groups: `[rows, steps]` and `[steps, PANEL]`.
struct Factors {
    rows: usize,
    steps: usize,
    left: Vec<u32>,
    right: Vec<u32>,
}

impl Factors {
    fn new(rows: usize, turns: usize, mut group: impl FnMut() -> u32) -> Self {
        let steps = turns * TURN;
        let mut groups = |count| (0..count).map(|_| group()).collect();
        Self { rows, steps, left: groups(rows * steps), right: groups(steps * PANEL) }
    }

    /// What `oracle` makes of each row and column, `[rows, PANEL]`, given the groups of both along the steps.
    fn expected(&self, oracle: impl Fn(&[(u32, u32)]) -> u32) -> Vec<u32> {
        let places = (0..self.rows).flat_map(|row| (0..PANEL).map(move |column| (row, column)));
        let groups = |row: usize, column: usize| {
            (0..self.steps)
                .map(|s| (self.left[row * self.steps + s], self.right[s * PANEL + column]))
                .collect::<Vec<_>>()
        };
        places.map(|(row, column)| oracle(&groups(row, column))).collect()
    }

    /// What the form of an instruction set makes of them, rows `gap` bytes apart.
    fn product(&self, isa: Isa, format: WeightFormat, gap: usize) -> Vec<u32> {
        let whole = self.product_of(isa, format, gap, PANEL);
        // A narrower panel has the same sums, and up to half of one leaves the other half alone.
        for columns in [2, 8, PANEL / 2, 22] {
            let narrow = self.product_of(isa, format, gap, columns);
            for (narrow, whole) in narrow.chunks(PANEL).zip(whole.chunks(PANEL)) {
                assert_eq!(narrow[..columns], whole[..columns], "{columns} columns, {isa:?} {format:?}");
                if columns <= PANEL / 2 {
                    assert_eq!(narrow[PANEL / 2..], [0; PANEL / 2], "{columns} columns, {isa:?} {format:?}");
                }
            }
        }
        whole
    }

    /// The same with the first columns only.
    fn product_of(&self, isa: Isa, format: WeightFormat, gap: usize, columns: usize) -> Vec<u32> {
        let kernel = TileKernel::choose(isa, format);
        assert!(self.steps.is_multiple_of(kernel.steps_multiple()));
        // The last step is read as wide as the columns of a whole panel or of half of one.
        let read = if columns <= PANEL / 2 { PANEL / 2 } else { PANEL };
        let mut panel = AlignedBuffer::zeroed((self.steps * columns + read - columns) * size_of::<u32>());
        for (to, from) in panel.values_mut::<u32>().chunks_mut(columns).zip(self.right.chunks(PANEL)) {
            to.copy_from_slice(&from[..columns]);
        }
        let _tiles = kernel.begin();
        let mut sums = vec![];
        while sums.len() < self.rows * PANEL {
            let at = sums.len() / PANEL;
            let rows = kernel.rows_of(self.rows, at);
            let padded = rows.next_multiple_of(kernel.rows_multiple());
            let (operand, stride) = self.lay_out(at..at + rows, padded, kernel.operand, gap);
            let mut out = AlignedBuffer::zeroed(padded * PANEL * 4);
            let call = TileCall {
                a: operand.values::<u8>().as_ptr(),
                stride,
                panel: panel.values::<u8>().as_ptr(),
                panel_stride: columns * size_of::<u32>(),
                steps: self.steps,
                columns,
                ahead: AHEAD,
                many_rows: gap > 0,
                coming: &[],
                accumulate: false,
                scaling: Scaling::None,
                out: out.values_mut::<u32>().as_mut_ptr(),
                next: None,
            };
            // SAFETY: the instruction set is available here; rows in whole tiles, the panel and room for the sums were
            // made just above.
            unsafe { kernel.function(rows)(&call) };
            sums.extend_from_slice(&out.values::<u32>()[..rows * PANEL]);
        }
        sums
    }

    /// Some rows as a form reads them, `padded` in all, and bytes from row to row. The last row has no gap behind it.
    fn lay_out(
        &self,
        rows: std::ops::Range<usize>,
        padded: usize,
        form: OperandForm,
        gap: usize,
    ) -> (AlignedBuffer, usize) {
        let row_words = self.steps * form.step_bytes() / 4;
        let stride = row_words + gap / 4;
        let mut buffer = AlignedBuffer::zeroed(4 * (stride * (padded - 1) + row_words));
        let words = buffer.values_mut::<u32>();
        for (i, row) in rows.enumerate() {
            let groups = self.left[row * self.steps..][..self.steps].iter();
            let row: Vec<u32> = match form {
                OperandForm::Widened => groups.flat_map(|g| [g << 16, g & 0xffff_0000]).collect(),
                _ => groups.copied().collect(),
            };
            words[i * stride..][..row_words].copy_from_slice(&row);
        }
        (buffer, 4 * stride)
    }
}

/// Those of some instruction sets that this machine has.
fn others(wanted: &[Isa]) -> impl Iterator<Item = Isa> {
    let available = Isa::available();
    wanted.iter().copied().filter(move |isa| available.contains(isa))
}

fn halves(group: u32) -> [u16; 2] {
    [group as u16, (group >> 16) as u16]
}

#[test]
fn bf16_products_equal_the_instructions_definition_to_the_bit_for_any_rows_and_depth() {
    on_tiles_alone(|| {
        let mut numbers = Numbers(11);
        for (rows, turns) in (1..=32).flat_map(|rows| [(rows, 1), (rows, 2), (rows, 3)]) {
            let factors =
                Factors::new(rows, turns, || u32::from(numbers.bf16()) | u32::from(numbers.bf16()) << 16);
            let want = factors.expected(|groups| {
                let terms = |turn: &[(u32, u32)]| -> Vec<(u16, u16)> {
                    turn.iter().flat_map(|(l, r)| halves(*l).into_iter().zip(halves(*r))).collect()
                };
                groups.chunks(TURN).fold(0.0, |sum, turn| bf16_dot(sum, terms(turn).into_iter())).to_bits()
            });
            for gap in [0, 64] {
                let got = factors.product(Isa::Amx, WeightFormat::Bf16, gap);
                assert_eq!(got, want, "{rows} rows, depth {turns}, gap {gap}");
            }
        }
    });
}

#[test]
fn bf16_products_equal_those_of_the_other_instruction_sets_but_for_rounding() {
    on_tiles_alone(|| {
        let mut numbers = Numbers(12);
        for (rows, turns) in [(1, 1), (16, 2), (17, 1), (32, 3)] {
            let factors =
                Factors::new(rows, turns, || u32::from(numbers.bf16()) | u32::from(numbers.bf16()) << 16);
            // The size of what was summed, in which rounding is measured.
            let sizes = factors.expected(|groups| {
                let value = |half: u16| f32::from_bits(u32::from(half) << 16);
                let terms = groups.iter().flat_map(|(l, r)| halves(*l).into_iter().zip(halves(*r)));
                terms.map(|(l, r)| (value(l) * value(r)).abs()).sum::<f32>().to_bits()
            });
            let got = factors.product(Isa::Amx, WeightFormat::Bf16, 64);
            for isa in others(&[Isa::Scalar, Isa::Avx2, Isa::Avx512]) {
                let want = factors.product(isa, WeightFormat::Bf16, 64);
                for ((g, w), size) in got.iter().zip(&want).zip(&sizes) {
                    let [g, w, size] = [g, w, size].map(|b| f32::from_bits(*b));
                    assert!((g - w).abs() <= 4e-6 * size, "{}: {g} for {w}, of terms of {size}", isa.name());
                }
            }
        }
    });
}

#[test]
fn int8_products_are_exact_for_any_rows_and_depth() {
    on_tiles_alone(|| {
        let mut numbers = Numbers(13);
        for (rows, turns) in (1..=32).flat_map(|rows| [(rows, 1), (rows, 2), (rows, 3)]) {
            // Now and then the extremes: 255 by -128 and 127.
            let factors = Factors::new(rows, turns, || match numbers.next() >> 16 {
                n if n % 8 == 0 => [0xffff_ffff, 0x8080_8080, 0x7f7f_7f7f, 0][n as usize / 8 % 4],
                n => n as u32,
            });
            let want = factors.expected(|groups| {
                let terms = groups.iter().flat_map(|(l, r)| l.to_le_bytes().into_iter().zip(r.to_le_bytes()));
                terms.map(|(l, r)| i32::from(l) * i32::from(r as i8)).sum::<i32>() as u32
            });
            let others = others(&[Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512]).map(|isa| (isa, 0));
            for (isa, gap) in [(Isa::Amx, 0), (Isa::Amx, 64)].into_iter().chain(others) {
                let got = factors.product(isa, WeightFormat::Int8, gap);
                assert_eq!(got, want, "{}: {rows} rows, depth {turns}, gap {gap}", isa.name());
            }
        }
    });
}
