//! Products of integers in registers: exact, in memory that ends where operands and sums end.

use super::{AHEAD, ByteFactors, OperandForm, RowFactors, Scaling, TileCall, TileKernel};
use crate::aligned::AlignedBuffer;
use crate::isa::Isa;
use crate::packed_lora::most_of;
use crate::packed_matrix::{PANEL, STEP_BYTES, WeightFormat};
use crate::tile_emulator::Numbers;

/// The weights of two inputs in each of four steps: the most that a format takes, of either sign, and others.
fn eight(format: WeightFormat, numbers: &mut Numbers) -> [i8; 8] {
    let draw = numbers.next() >> 33;
    let any = [0; 8].map(|_| (numbers.next() >> 40) as i8);
    match (format, draw % 6) {
        (WeightFormat::Int8InEights, 0) => [16; 8],
        (WeightFormat::Int8InEights, 1) => [-127, 0, 0, 0, -1, 0, 0, 0],
        (WeightFormat::Int8InEights, 2) => [64, -64, 0, -64, 0, 0, 63, 1],
        (WeightFormat::Int8InEights, _) => any.map(|q| q % 17),
        (_, 0) => [127; 8],
        (_, 1) => [-127; 8],
        (_, _) => any.map(|q| q.max(-127)),
    }
}

/// Columns and steps: whole panels, halves and narrower ones, over one turn and several.
const SHAPES: [(usize, usize); 10] = [
    (PANEL, 1),
    (PANEL, 70),
    (PANEL, 530),
    (PANEL / 2, 70),
    (22, 9),
    (22, 200),
    (6, 9),
    (6, 700),
    (8, 300),
    (24, 300),
];

#[test]
fn sums_of_bytes_are_exact_at_their_largest() {
    let int8 = [WeightFormat::Int8, WeightFormat::Int8InEights];
    let forms: Vec<(Isa, WeightFormat, TileKernel)> = Isa::available()
        .into_iter()
        .flat_map(|isa| int8.map(|format| (isa, format, TileKernel::choose(isa, format))))
        .filter(|(_, _, kernel)| !kernel.tiles)
        .collect();
    for ((isa, format, kernel), (columns, steps)) in
        forms.into_iter().flat_map(|form| SHAPES.map(|shape| (form, shape)))
    {
        assert_eq!(kernel.operand, OperandForm::Bytes);
        let most = kernel.max_rows();
        let mut operand = AlignedBuffer::zeroed(most * steps * 4);
        let bytes = operand.values_mut::<u8>();
        let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
        for byte in bytes {
            let draw = numbers.next() >> 33;
            *byte = if draw.is_multiple_of(3) { 255 } else { draw as u8 };
        }
        // The last step is read as wide as a whole panel, or half of one.
        let read = if columns <= PANEL / 2 { PANEL / 2 } else { PANEL };
        let mut panel = AlignedBuffer::zeroed((steps * columns + read - columns) * 4);
        let weights = panel.values_mut::<i8>();
        for four in (0..steps).step_by(4) {
            for pair in 0..columns * 2 {
                let eight = eight(format, &mut numbers);
                for (step, weights_of_two) in (four..steps.min(four + 4)).zip(eight.chunks_exact(2)) {
                    weights[(step * columns * 2 + pair) * 2..][..2].copy_from_slice(weights_of_two);
                }
            }
        }
        let (operand, panel) = (operand.values::<u8>(), panel.values::<i8>());
        for (rows, many_rows) in (1..=most).flat_map(|rows| [(rows, false), (rows, true)]) {
            let mut out = AlignedBuffer::zeroed(rows * PANEL * 4);
            let call = TileCall {
                a: operand.as_ptr(),
                stride: steps * 4,
                panel: panel.as_ptr().cast(),
                panel_stride: columns * 4,
                steps,
                columns,
                ahead: AHEAD,
                many_rows,
                coming: if many_rows { operand } else { &[] },
                accumulate: false,
                scaling: Scaling::None,
                out: out.values_mut::<u32>().as_mut_ptr(),
                next: None,
            };
            // SAFETY: the instruction set is available here; rows, panel and room for the sums were made above.
            unsafe { kernel.function(rows)(&call) };
            for (row, got) in out.values::<i32>().chunks(PANEL).take(rows).enumerate() {
                for (column, got) in got[..columns].iter().enumerate() {
                    let want: i32 = (0..steps * 4)
                        .map(|k| {
                            let weight = panel[(k / 4 * columns + column) * 4 + k % 4];
                            operand[row * steps * 4 + k] as i32 * weight as i32
                        })
                        .sum();
                    let what = format!("{} {format:?}, {columns} by {steps}, {rows} rows", isa.name());
                    assert_eq!(*got, want, "{what}, row {row}, column {column}");
                }
            }
        }
    }
}

#[test]
fn sums_of_16_bit_integers_are_exact_at_their_largest() {
    // Small ones, too: of the largest an f32 does not show every unit.
    let shapes =
        [1, 4, 33, 150].into_iter().flat_map(|steps| [(steps, most_of(2 * steps) as i32), (steps, 60)]);
    for (isa, (steps, most)) in
        Isa::available().into_iter().flat_map(|isa| shapes.clone().map(move |shape| (isa, shape)))
    {
        let kernel = TileKernel::int16(isa);
        assert_eq!(kernel.operand, OperandForm::Int16);
        let rows_at_most = kernel.max_rows();
        let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
        let mut draw = || match numbers.next() >> 33 {
            draw if draw.is_multiple_of(3) => most as i16,
            draw if draw.is_multiple_of(5) => -most as i16,
            draw => (draw as i32 % (2 * most + 1) - most) as i16,
        };
        // Behind each row lies its factor: a power of two, so that what is added is exact, too.
        let width = 2 * steps + 2;
        let factor = |row: usize| [1.0f32, 0.5, 0.25][row % 3];
        let mut operand = AlignedBuffer::zeroed(rows_at_most * width * 2);
        for (row, values) in
            operand.values_mut::<i16>().chunks_exact_mut(width).take(rows_at_most).enumerate()
        {
            values[..2 * steps].iter_mut().for_each(|v| *v = draw());
            let bits = factor(row).to_bits();
            values[2 * steps..].copy_from_slice(&[bits as i16, (bits >> 16) as i16]);
        }
        let mut panel = AlignedBuffer::zeroed(steps * PANEL * 4);
        panel.values_mut::<i16>().iter_mut().for_each(|v| *v = draw());
        // One row and one column of the largest there are.
        operand.values_mut::<i16>()[..2 * steps].fill(most as i16);
        panel.values_mut::<i16>().chunks_mut(2 * PANEL).for_each(|step| step[..2].fill(-most as i16));
        let (operand, panel) = (operand.values::<i16>(), panel.values::<i16>());
        for rows in 1..=rows_at_most {
            let mut out = AlignedBuffer::zeroed(rows * PANEL * 4);
            out.values_mut::<f32>().fill(3.0);
            let call = TileCall {
                a: operand.as_ptr().cast(),
                stride: width * 2,
                panel: panel.as_ptr().cast(),
                panel_stride: STEP_BYTES,
                steps,
                columns: PANEL,
                ahead: AHEAD,
                many_rows: false,
                coming: &[],
                accumulate: true,
                scaling: Scaling::Int16(RowFactors {
                    of_rows: operand[2 * steps..].as_ptr().cast(),
                    of_panel: 0.5,
                }),
                next: None,
                out: out.values_mut::<u32>().as_mut_ptr(),
            };
            // SAFETY: the instruction set is available here; rows, panel and room for the sums were made above.
            unsafe { kernel.function(rows)(&call) };
            for (row, got) in out.values::<f32>().chunks(PANEL).take(rows).enumerate() {
                for (column, got) in got.iter().enumerate() {
                    let product = |k: usize| {
                        let weight = panel[(k / 2 * PANEL + column) * 2 + k % 2];
                        operand[row * width + k] as i64 * weight as i64
                    };
                    let sum: i64 = (0..2 * steps).map(product).sum();
                    assert!(i32::try_from(sum).is_ok());
                    let want = 3.0 + sum as f32 * (factor(row) * 0.5);
                    assert_eq!(*got, want, "{}, {steps} steps to {most}, {rows} rows, row {row}", isa.name());
                }
            }
        }
    }
}

#[test]
fn sums_of_bytes_settled_in_registers_are_those_settled_later_to_the_bit() {
    let kernels: Vec<(Isa, TileKernel)> = Isa::available()
        .into_iter()
        .map(|isa| (isa, TileKernel::choose(isa, WeightFormat::Int8)))
        .filter(|(_, kernel)| kernel.settles)
        .collect();
    if kernels.is_empty() {
        eprintln!(
            "NOT RUN: this machine has no AVX-512 VNNI with BF16: sums settled in registers were not tested on it"
        );
    }
    let (steps, then_steps) = (37, 5);
    let mut numbers = Numbers(0x1234_5678_9ABC_DEF1);
    for (isa, kernel) in kernels {
        let expand = TileKernel::choose(isa, WeightFormat::Bf16);
        assert_eq!(expand.operand, OperandForm::Bf16);
        let most = kernel.max_rows();
        let mut bytes = |count: usize| {
            let mut buffer = AlignedBuffer::zeroed(count);
            buffer.values_mut::<u8>().iter_mut().for_each(|b| *b = (numbers.next() >> 40) as u8);
            buffer
        };
        let (operand, panel) = (bytes(most * steps * 4), bytes(steps * STEP_BYTES));
        // bf16 of moderate size: the exponent's upper bits are set.
        let mut pairs = |count: usize| {
            let mut buffer = bytes(count);
            buffer.values_mut::<u16>().iter_mut().for_each(|v| *v = *v & 0x80ff | 0x3f00);
            buffer
        };
        let (hidden, b) = (pairs(most * then_steps * 4), pairs(then_steps * STEP_BYTES));
        let of_rows: Vec<[f32; 2]> = (0..most).map(|r| [0.01 + r as f32 * 1e-3, r as f32 * 0.37]).collect();
        let scales: Vec<f32> = (0..PANEL).map(|c| 0.003 + c as f32 * 1e-4).collect();
        let totals: Vec<f32> = (0..PANEL).map(|c| 1.5 - c as f32 * 0.2).collect();
        let call = |out: &mut AlignedBuffer| TileCall {
            a: operand.values::<u8>().as_ptr(),
            stride: steps * 4,
            panel: panel.values::<u8>().as_ptr(),
            panel_stride: STEP_BYTES,
            steps,
            columns: PANEL,
            ahead: AHEAD,
            many_rows: true,
            coming: panel.values(),
            accumulate: false,
            scaling: Scaling::None,
            out: out.values_mut::<u32>().as_mut_ptr(),
            next: None,
        };
        for (rows, follows) in (1..=most).flat_map(|rows| [(rows, false), (rows, true)]) {
            let (mut later, mut at_once) =
                (AlignedBuffer::zeroed(rows * PANEL * 4), AlignedBuffer::zeroed(rows * PANEL * 4));
            let expansion = |out: &mut AlignedBuffer| TileCall {
                a: hidden.values::<u8>().as_ptr(),
                stride: then_steps * 4,
                panel: b.values::<u8>().as_ptr(),
                steps: then_steps,
                accumulate: true,
                coming: &[],
                ..call(out)
            };
            // SAFETY: the instruction set is available here; rows, panels, factors and room for the sums were made above.
            unsafe { kernel.function(rows)(&call(&mut later)) };
            for (at, sum) in later.values_mut::<u32>()[..rows * PANEL].iter_mut().enumerate() {
                let ([scale, zero], column) = (of_rows[at / PANEL], at % PANEL);
                let offset = -zero * totals[column];
                *sum = (*sum as i32 as f32).mul_add(scale * scales[column], offset).to_bits();
            }
            if follows {
                let expansion = expansion(&mut later);
                // SAFETY: as above.
                unsafe { expand.function(rows)(&expansion) };
            }
            let next = expansion(&mut at_once);
            let factors =
                ByteFactors { of_rows: of_rows.as_ptr(), scales: scales.as_ptr(), totals: totals.as_ptr() };
            let scaled = TileCall {
                scaling: Scaling::Bytes(factors),
                next: follows.then_some(&next),
                ..call(&mut at_once)
            };
            // SAFETY: as above.
            unsafe { kernel.function(rows)(&scaled) };
            let what = format!("{}, {rows} rows, followed: {follows}", isa.name());
            assert_eq!(at_once.values::<u32>(), later.values::<u32>(), "{what}");
        }
    }
}
