//! The innermost products: a few rows by one panel, over all inputs, in registers.
//!
//! Every form sums a row's products from the first input to the last, one accumulator an output, however many rows there
//! are: rows are independent of their batch mates to the bit.

#[cfg(target_arch = "x86_64")]
mod amx;
mod baseline;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod integer_laws;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod register_laws;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::mem::MaybeUninit;

use crate::isa::Isa;
use crate::packed_matrix::{PANEL, WeightFormat};

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::has_tiles;

/// Most rows of any form.
pub(crate) const MAX_ROWS: usize = 32;

/// [`TileCall::ahead`] within a matrix: more than memory gives while the first of it is on its way.
pub(crate) const AHEAD: usize = 2048;

/// One product: rows `a`, `stride` bytes apart, by a panel of `steps` steps, written to `[rows, PANEL]` 32-bit values.
#[derive(Clone, Copy)]
pub(crate) struct TileCall<'n> {
    /// The operand's first row.
    pub a: *const u8,
    /// Bytes from row to row.
    pub stride: usize,
    /// The panel's first step: four bytes for each of its columns.
    pub panel: *const u8,
    /// Bytes from step to step: [`STEP_BYTES`](crate::packed_matrix::STEP_BYTES) in a packed matrix, more in a matrix that is
    /// read where it lies. Less where the panel has fewer columns: then the last ones of a step's sums are of what lies beyond
    /// it, and mean nothing.
    pub panel_stride: usize,
    /// Steps, one at least.
    pub steps: usize,
    /// Columns that are there. Sums of others mean nothing; with half of a panel's or fewer, the other half of the sums is left as it
    /// is.
    pub columns: usize,
    /// Bytes between what is loaded and what is asked for, where memory must be asked early; there need be nothing.
    pub ahead: usize,
    /// Whether the panel meets more rows than a tile has: then it is in a cache, and computing is what takes time.
    pub many_rows: bool,
    /// What is to be read after this. Forms in registers ask for it meanwhile; tiles leave it.
    pub coming: &'n [u8],
    /// Whether what lies in `out` is added to: never for bytes and not in tiles, and always for 16-bit integers.
    pub accumulate: bool,
    /// What makes f32 of integers' sums.
    pub scaling: Scaling,
    /// Sums, `[rows, PANEL]`: f32, or i32 of bytes without factors.
    pub out: *mut u32,
    /// What is added to the same sums before they are written: only rows, panel and steps of it count. Not in tiles, and to bytes' only
    /// where the form [settles](TileKernel::settles) them, and they have factors.
    pub next: Option<&'n TileCall<'n>>,
}

impl TileCall<'_> {
    /// Whether there is no more than half of a panel.
    pub fn is_half(&self) -> bool {
        self.columns <= PANEL / 2
    }

    /// The same from row `row` on, alone.
    pub fn rows_from(&self, row: usize) -> Self {
        let (a, out) = (self.a.wrapping_add(row * self.stride), self.out.wrapping_add(row * PANEL));
        let scaling = self.scaling.rows_from(row, self.stride);
        Self { a, out, scaling, next: None, coming: &[], ..*self }
    }
}

/// What makes f32 of a product's sums.
#[derive(Clone, Copy)]
pub(crate) enum Scaling {
    /// Nothing: they are f32, or are left as they are.
    None,
    /// Those of 16-bit integers are multiplied, and added to what lies in the call's `out`.
    Int16(RowFactors),
    /// Those of bytes are multiplied and shifted.
    Bytes(ByteFactors),
}

impl Scaling {
    /// The same from row `row` on, of rows `stride` bytes apart.
    fn rows_from(self, row: usize, stride: usize) -> Self {
        match self {
            Scaling::None => Scaling::None,
            Scaling::Int16(factors) => Scaling::Int16(factors.rows_from(row * stride)),
            Scaling::Bytes(factors) => {
                Scaling::Bytes(ByteFactors { of_rows: factors.of_rows.wrapping_add(row), ..factors })
            }
        }
    }

    /// The factors of 16-bit integers, which a product of such must have.
    #[inline(always)]
    fn of_int16(&self) -> RowFactors {
        match self {
            Scaling::Int16(factors) => *factors,
            _ => unreachable!("sums of 16-bit integers without factors"),
        }
    }
}

/// What makes f32 of sums of bytes by 8-bit weights: `sum * scale * scales[c] - zero * totals[c]`.
#[derive(Clone, Copy)]
pub(crate) struct ByteFactors {
    /// By row: scale, and scale times the byte that means zero.
    pub of_rows: *const [f32; 2],
    /// A panel's scales of weights.
    pub scales: *const f32,
    /// Those scales times the sums of the weights.
    pub totals: *const f32,
}

/// What integers of a row are to be multiplied by.
#[derive(Clone, Copy)]
pub(crate) struct RowFactors {
    /// The first row's factor; the next row's lies as far away as its values do.
    pub of_rows: *const f32,
    /// The panel's.
    pub of_panel: f32,
}

impl RowFactors {
    /// The same from the row that lies `bytes` further on.
    fn rows_from(self, bytes: usize) -> Self {
        Self { of_rows: self.of_rows.wrapping_byte_add(bytes), ..self }
    }

    /// Both together, of the row that lies `bytes` further on than the first.
    ///
    /// # Safety
    /// It does.
    #[inline(always)]
    unsafe fn of_row(&self, bytes: usize) -> f32 {
        // SAFETY: as the caller promises.
        let factor = unsafe { *self.of_rows.byte_add(bytes) } * self.of_panel;
        // Beyond f32 not even zeros would stay zeros. NaN passes.
        if factor > f32::MAX { f32::MAX } else { factor }
    }
}

/// Place for sums of the most rows by a panel, on cache lines. Nothing lies there at first: zeros that are written over take as
/// long as a few steps of a product.
#[repr(align(64))]
pub(crate) struct SumsTile([MaybeUninit<u32>; MAX_ROWS * PANEL]);

impl Default for SumsTile {
    #[inline(always)]
    fn default() -> Self {
        Self([MaybeUninit::uninit(); MAX_ROWS * PANEL])
    }
}

impl SumsTile {
    /// Place where zeros lie.
    pub fn zeroed() -> Self {
        Self([MaybeUninit::new(0); MAX_ROWS * PANEL])
    }

    /// Where row `row` lies, as far as it was written.
    pub fn row(&self, row: usize) -> *const u32 {
        self.0[row * PANEL..].as_ptr().cast()
    }

    /// Where the first row is to be written.
    pub fn as_mut_ptr(&mut self) -> *mut u32 {
        self.0.as_mut_ptr().cast()
    }
}

/// A form of the product for a number of rows.
///
/// # Safety
/// The machine has the form's instructions; rows, panel and factors lie where the call says, and there is room for the sums, or
/// something that they are added to. From each
/// step on a whole panel's columns can be read, or half of one's where [`TileCall::is_half`] says so, however close steps lie.
pub(crate) type TileFn = unsafe fn(&TileCall<'_>);

/// How the rows must lie for a form to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperandForm {
    /// f32, one a step.
    F32,
    /// bf16, two a step.
    Bf16,
    /// bf16 widened to f32, two a step.
    Widened,
    /// Unsigned bytes, four a step.
    Bytes,
    /// 16-bit integers, two a step, by such weights.
    Int16,
}

impl OperandForm {
    /// Bytes of a row that one step reads.
    pub fn step_bytes(self) -> usize {
        if self == OperandForm::Widened { 8 } else { 4 }
    }
}

/// The form for an instruction set and a format.
#[derive(Clone, Copy)]
pub(crate) struct TileKernel {
    /// How it reads rows.
    pub operand: OperandForm,
    /// By number of rows: the function for 1, 2, .. rows; or, for tiles, for up to 16 and up to 32.
    functions: &'static [TileFn],
    /// Whether it computes in AMX's tiles: sixteen rows and sixteen steps at a time.
    pub tiles: bool,
    /// Rows of a tile, or of a part of those that registers take, so that multiples of so many are through the soonest; 1 where any
    /// number is as good, or is not known to be.
    pub rows_at_once: usize,
    /// Whether it makes f32 of the sums of bytes, with [`Scaling::Bytes`], and then adds products of bf16 in registers.
    pub settles: bool,
    /// What the instructions that multiply are called.
    pub path: &'static str,
}

impl TileKernel {
    /// [`Self::path`] of loops that no instructions are named in.
    pub const PLAIN: &'static str = "plain loops";

    /// The fastest form that `isa` has for `format`.
    pub fn choose(isa: Isa, format: WeightFormat) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if isa == Isa::Amx
                && let Some(functions) = amx::functions(format)
            {
                let operand =
                    if format == WeightFormat::Bf16 { OperandForm::Bf16 } else { OperandForm::Bytes };
                let path = "AMX tiles";
                return Self {
                    operand,
                    functions,
                    tiles: true,
                    rows_at_once: MAX_ROWS,
                    settles: false,
                    path,
                };
            }
            if let Some(kernel) = x86::kernel(isa, format) {
                return kernel;
            }
        }
        let _ = isa;
        let (operand, functions) = baseline::functions(format);
        Self { operand, functions, tiles: false, rows_at_once: 1, settles: false, path: Self::PLAIN }
    }

    /// The form for 16-bit integers, all of whose sums fit 32 bits: by whole panels of a packed matrix, with [`TileCall::scaling`], added
    /// to what is there, and with nothing that follows.
    pub fn int16(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        if isa > Isa::Scalar {
            return x86::int16();
        }
        let _ = isa;
        let (operand, functions) = baseline::int16();
        Self { operand, functions, tiles: false, rows_at_once: 1, settles: false, path: Self::PLAIN }
    }

    /// Whether instructions of the machine's are named in it.
    pub fn has_instructions(&self) -> bool {
        self.path != Self::PLAIN
    }

    /// Steps of a product over `inputs` inputs of a format.
    pub fn steps(&self, format: WeightFormat, inputs: usize) -> usize {
        inputs.div_ceil(format.group()).next_multiple_of(self.steps_multiple())
    }

    /// Steps come in multiples of this.
    pub fn steps_multiple(&self) -> usize {
        if self.tiles { 16 } else { 1 }
    }

    /// A multiple of so many rows is read, so that there must be as many in memory.
    pub fn rows_multiple(&self) -> usize {
        if self.tiles { 16 } else { 1 }
    }

    /// Most rows of a call.
    pub fn max_rows(&self) -> usize {
        if self.tiles { MAX_ROWS } else { self.functions.len() }
    }

    /// Most rows of a block: with their operand they stay in the second-level cache while the panels go by. Tiles are through a panel
    /// before the next one could come from memory, unless it meets more rows.
    pub fn block_rows(&self) -> usize {
        if self.tiles { 384 } else { 112 }
    }

    /// Cuts `rows` rows: how many the tile that begins at row `at` takes. Registers share rows evenly, but for whole parts; tiles
    /// fill up.
    pub fn rows_of(&self, rows: usize, at: usize) -> usize {
        let most = self.max_rows();
        if self.tiles || rows - at <= most {
            return most.min(rows - at);
        }
        let tiles = (rows - at).div_ceil(most);
        (rows - at).div_ceil(tiles).next_multiple_of(self.rows_at_once).min(most)
    }

    /// The function for `rows` rows.
    pub fn function(&self, rows: usize) -> TileFn {
        self.functions[if self.tiles { (rows - 1) / 16 } else { rows - 1 }]
    }

    /// Readies this thread's tiles; until the guard falls they must not be used otherwise.
    pub fn begin(&self) -> TilesInUse {
        #[cfg(target_arch = "x86_64")]
        if self.tiles {
            amx::configure();
        }
        TilesInUse(self.tiles)
    }
}

/// This thread's tiles hold state; released when this falls.
pub(crate) struct TilesInUse(bool);

impl Drop for TilesInUse {
    fn drop(&mut self) {
        if self.0 {
            #[cfg(target_arch = "x86_64")]
            amx::release();
        }
    }
}

/// The functions `$name::<1>`, `$name::<2>`, ..
macro_rules! by_rows {
    ($name:ident: $($rows:literal)*) => {
        &[$($name::<$rows> as $crate::tile::TileFn),*]
    };
}
pub(crate) use by_rows;
