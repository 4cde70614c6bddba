//! The tiles of one thread and what the instructions do to them (Intel SDM volume 2, palette 1).
//!
//! Outside the configured rows and columns a tile holds zeros at all times: configuring clears all tiles, and every
//! instruction writes inside its shape only.

use std::ptr;

const TILES: usize = 8;
const MOST_ROWS: u8 = 16;
const MOST_COLUMN_BYTES: u16 = 64;

/// The number of a tile register, 0 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile(u8);

impl Tile {
    pub(super) fn new(number: u8) -> Option<Self> {
        (usize::from(number) < TILES).then_some(Self(number))
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How the dwords of two tiles are multiplied: left then right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    Bf16,
    SignedSigned,
    SignedUnsigned,
    UnsignedSigned,
    UnsignedUnsigned,
}

/// The hardware's answer to an instruction it cannot carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) fault: Fault,
    pub(super) reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    InvalidOpcode,
    GeneralProtection,
}

impl Refusal {
    pub(super) fn undefined(reason: &'static str) -> Self {
        Self { fault: Fault::InvalidOpcode, reason }
    }

    fn protection(reason: &'static str) -> Self {
        Self { fault: Fault::GeneralProtection, reason }
    }
}

/// Configuration and contents of all tiles.
pub(super) struct Tiles {
    config: Option<Config>,
    /// By tile, row and dword.
    data: [[[u32; 16]; 16]; TILES],
}

#[derive(Clone, Copy)]
struct Config {
    start_row: u8,
    shapes: [Option<Shape>; TILES],
}

#[derive(Clone, Copy)]
struct Shape {
    rows: u8,
    column_bytes: u16,
}

impl Tiles {
    /// State of a thread that has used no tile, and after TILERELEASE.
    pub(super) const INITIAL: Self = Self { config: None, data: [[[0; 16]; 16]; TILES] };

    /// LDTILECFG. Palette 0 is TILERELEASE by another name; its other bytes are not looked at.
    pub(super) fn configure(&mut self, bytes: &[u8; 64]) -> Result<(), Refusal> {
        let config = match bytes[0] {
            0 => None,
            1 => Some(Config::read(bytes)?),
            _ => return Err(Refusal::protection("only palettes 0 and 1 exist")),
        };
        *self = Self { config, ..Self::INITIAL };
        Ok(())
    }

    /// STTILECFG: the bytes that LDTILECFG took, or zeros.
    pub(super) fn configuration(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        if let Some(config) = &self.config {
            bytes[0] = 1;
            bytes[1] = config.start_row;
            for (i, shape) in config.shapes.iter().enumerate() {
                let Some(shape) = shape else { continue };
                bytes[16 + 2 * i..18 + 2 * i].copy_from_slice(&shape.column_bytes.to_le_bytes());
                bytes[48 + i] = shape.rows;
            }
        }
        bytes
    }

    /// TILERELEASE.
    pub(super) fn release(&mut self) {
        *self = Self::INITIAL;
    }

    /// TILEZERO.
    pub(super) fn zero(&mut self, tile: Tile) -> Result<(), Refusal> {
        self.shape(tile)?;
        self.data[tile.index()] = [[0; 16]; 16];
        self.finish();
        Ok(())
    }

    /// TILELOADD: row `r` from `start + r * stride`. A start row other than 0 keeps the rows before it. The zeroing of
    /// what lies outside the shape, part of the instruction, has nothing to do here.
    ///
    /// # Safety
    /// The rows of the tile's shape must be readable there.
    pub(super) unsafe fn load(&mut self, tile: Tile, start: u64, stride: u64) -> Result<(), Refusal> {
        let (first, shape) = self.rows_in_memory(tile)?;
        for row in first..shape.rows {
            let from = start.wrapping_add(u64::from(row).wrapping_mul(stride)) as *const u8;
            let to = &mut self.data[tile.index()][usize::from(row)];
            // SAFETY: the caller vouches for the source; a shape has at most 64 column bytes, the size of a row.
            unsafe {
                ptr::copy_nonoverlapping(from, to.as_mut_ptr().cast(), usize::from(shape.column_bytes))
            };
        }
        self.finish();
        Ok(())
    }

    /// TILESTORED: the mirror of [`Tiles::load`].
    ///
    /// # Safety
    /// The rows of the tile's shape must be writable there.
    pub(super) unsafe fn store(&mut self, tile: Tile, start: u64, stride: u64) -> Result<(), Refusal> {
        let (first, shape) = self.rows_in_memory(tile)?;
        for row in first..shape.rows {
            let to = start.wrapping_add(u64::from(row).wrapping_mul(stride)) as *mut u8;
            let from = &self.data[tile.index()][usize::from(row)];
            // SAFETY: the caller vouches for the destination; the source is as in `load`.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr().cast(), to, usize::from(shape.column_bytes)) };
        }
        self.finish();
        Ok(())
    }

    /// The dot products, `sum[m][n] += left[m][k] * right[k][n]` over dwords that hold 2 bf16 or 4 bytes each.
    pub(super) fn dot(
        &mut self,
        product: Product,
        sum: Tile,
        left: Tile,
        right: Tile,
    ) -> Result<(), Refusal> {
        if sum == left || sum == right || left == right {
            return Err(Refusal::undefined("the three tiles must differ"));
        }
        let (s, l, r) = (self.shape(sum)?, self.shape(left)?, self.shape(right)?);
        if [s, l, r].iter().any(|shape| shape.column_bytes % 4 != 0) {
            return Err(Refusal::undefined("column bytes must be a multiple of 4"));
        }
        if s.rows != l.rows {
            return Err(Refusal::undefined("the sum and the left tile must have the same rows"));
        }
        if s.column_bytes != r.column_bytes {
            return Err(Refusal::undefined("the sum and the right tile must have the same column bytes"));
        }
        if l.column_bytes / 4 != u16::from(r.rows) {
            return Err(Refusal::undefined(
                "the left tile must have 4 column bytes for each row of the right",
            ));
        }
        let (depth, columns) = (usize::from(r.rows), usize::from(s.column_bytes / 4));
        let right = self.data[right.index()];
        for row in 0..usize::from(s.rows) {
            let left = self.data[left.index()][row];
            let sum = &mut self.data[sum.index()][row];
            match product {
                Product::Bf16 => add_bf16_row(&mut sum[..columns], &left[..depth], &right),
                _ => add_int8_row(product, &mut sum[..columns], &left[..depth], &right),
            }
        }
        self.finish();
        Ok(())
    }

    fn shape(&self, tile: Tile) -> Result<Shape, Refusal> {
        let config =
            self.config.as_ref().ok_or(Refusal::undefined("no tile is configured in this thread"))?;
        config.shapes[tile.index()].ok_or(Refusal::undefined("the configuration gives this tile no rows"))
    }

    /// First row to transfer, and the shape.
    fn rows_in_memory(&self, tile: Tile) -> Result<(u8, Shape), Refusal> {
        let shape = self.shape(tile)?;
        let first = self.config.as_ref().map_or(0, |config| config.start_row);
        if shape.column_bytes % 4 != 0 {
            return Err(Refusal::undefined("column bytes must be a multiple of 4"));
        }
        if first >= shape.rows {
            return Err(Refusal::undefined("the start row lies beyond the rows of the tile"));
        }
        Ok((first, shape))
    }

    fn finish(&mut self) {
        if let Some(config) = &mut self.config {
            config.start_row = 0;
        }
    }
}

impl Config {
    fn read(bytes: &[u8; 64]) -> Result<Self, Refusal> {
        let mut reserved = bytes[2..16].iter().chain(&bytes[32..48]).chain(&bytes[56..64]);
        if reserved.any(|byte| *byte != 0) {
            return Err(Refusal::protection("reserved bytes of the configuration must be 0"));
        }
        let mut shapes = [None; TILES];
        for (i, shape) in shapes.iter_mut().enumerate() {
            let rows = bytes[48 + i];
            let column_bytes = u16::from_le_bytes([bytes[16 + 2 * i], bytes[17 + 2 * i]]);
            if rows > MOST_ROWS {
                return Err(Refusal::protection("a tile has at most 16 rows"));
            }
            if column_bytes > MOST_COLUMN_BYTES {
                return Err(Refusal::protection("a tile has at most 64 column bytes"));
            }
            if (rows == 0) != (column_bytes == 0) {
                return Err(Refusal::protection("rows and column bytes of a tile must both be 0 or neither"));
            }
            *shape = (rows != 0).then_some(Shape { rows, column_bytes });
        }
        Ok(Self { start_row: bytes[1], shapes })
    }
}

/// One row of TDPBF16PS: even and odd elements are summed apart over the whole depth by fused multiply-adds from 0;
/// then the two sums are added, and that to the destination (operation section of TDPBF16PS, Intel SDM volume 2).
/// Every step rounds to nearest even, takes denormals as 0 and flushes denormal results; MXCSR plays no part.
/// Which NaN comes of a NaN is not described there and not promised here.
fn add_bf16_row(sum: &mut [u32], left: &[u32], right: &[[u32; 16]; 16]) {
    let mut even = [0f32; 16];
    let mut odd = [0f32; 16];
    for (left, right) in left.iter().zip(right) {
        for n in 0..sum.len() {
            even[n] = multiply_add(left << 16, right[n] << 16, even[n]);
            odd[n] = multiply_add(left & 0xffff_0000, right[n] & 0xffff_0000, odd[n]);
        }
    }
    for (n, sum) in sum.iter_mut().enumerate() {
        let products = narrow(f64::from(even[n]) + f64::from(odd[n]));
        *sum = narrow(widen(*sum) + f64::from(products)).to_bits();
    }
}

/// The fused multiply-add of that sum: `left * right + sum` for bf16 in the upper halves, `sum` no denormal.
pub(super) fn multiply_add(left: u32, right: u32, sum: f32) -> f32 {
    narrow(widen(left) * widen(right) + f64::from(sum))
}

/// The value of an f32 given by its bits, denormals as zero of the same sign.
fn widen(bits: u32) -> f64 {
    let denormal_or_zero = bits & 0x7f80_0000 == 0;
    f64::from(f32::from_bits(if denormal_or_zero { bits & 0x8000_0000 } else { bits }))
}

/// Rounds to f32 as the fused operation would, denormal results flushed to zero of the same sign.
///
/// A product of two bf16 has 16 significant bits and is exact in f64. Where adding an f32 to it rounds in f64 at all,
/// the smaller term is below 2^-28 of the larger, which itself fits in f32: rounding a second time, to f32, gives that
/// larger term back, as one rounding would. A sum of two f32 survives the second rounding since 53 >= 2 * 24 + 2.
/// So f64 stands for the infinitely precise sum.
fn narrow(exact: f64) -> f32 {
    // Tiny is what stays below the least normal number when rounded to 24 bits with no bound on the exponent.
    const TINY: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / (1u64 << 25) as f64);
    if exact.abs() < TINY { (exact * 0.0) as f32 } else { exact as f32 }
}

/// One row of TDPB[SU][SU]D: four byte products into each dword, wrapping around.
fn add_int8_row(product: Product, sum: &mut [u32], left: &[u32], right: &[[u32; 16]; 16]) {
    let left_signed = matches!(product, Product::SignedSigned | Product::SignedUnsigned);
    let right_signed = matches!(product, Product::SignedSigned | Product::UnsignedSigned);
    for (left, right) in left.iter().zip(right) {
        let left = bytes_of(*left, left_signed);
        for (sum, right) in sum.iter_mut().zip(right) {
            for (l, r) in left.iter().zip(bytes_of(*right, right_signed)) {
                *sum = sum.wrapping_add_signed(l * r);
            }
        }
    }
}

fn bytes_of(dword: u32, signed: bool) -> [i32; 4] {
    dword.to_le_bytes().map(|byte| if signed { i32::from(byte as i8) } else { i32::from(byte) })
}
