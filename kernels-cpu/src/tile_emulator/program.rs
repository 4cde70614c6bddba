//! Tile programs of the tests: the instructions through the assembler, a configuration, and numbers to feed them.

use std::arch::asm;

use super::{install, processor_has_tiles};

/// Makes tiles usable in this process: emulated, or the processor's own where it has some. False where the operating
/// system does not permit those.
pub(super) fn tiles_are_ready() -> bool {
    const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
    const TILE_DATA: i32 = 18;
    if !processor_has_tiles() {
        install();
        return true;
    }
    // SAFETY: asks for permission, for the whole process; touches no memory.
    let permitted = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } == 0;
    if !permitted {
        eprintln!("NOT RUN: the operating system does not permit the processor's tiles");
    }
    permitted
}

/// As [`tiles_are_ready`], for laws about the emulator itself: false, and said, where the processor has tiles.
pub(super) fn tiles_are_emulated() -> bool {
    if processor_has_tiles() {
        eprintln!("NOT RUN: this processor has tiles of its own, so nothing is emulated");
        return false;
    }
    install();
    true
}

/// The operand of LDTILECFG.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) palette: u8,
    pub(super) start_row: u8,
    pub(super) reserved: [u8; 14],
    pub(super) column_bytes: [u16; 16],
    pub(super) rows: [u8; 16],
}

impl Config {
    /// Tiles 0, 1, 2 .. with these (rows, column bytes).
    pub(super) fn of(shapes: &[(usize, usize)]) -> Self {
        let mut config =
            Self { palette: 1, start_row: 0, reserved: [0; 14], column_bytes: [0; 16], rows: [0; 16] };
        for (i, &(rows, column_bytes)) in shapes.iter().enumerate() {
            config.rows[i] = rows as u8;
            config.column_bytes[i] = column_bytes as u16;
        }
        config
    }

    pub(super) fn load(&self) {
        // SAFETY: the operand is 64 readable bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) std::ptr::from_ref(self), options(nostack, readonly)) }
    }

    pub(super) fn stored() -> Self {
        let mut config = Self::of(&[(9, 9); 16]);
        // SAFETY: the operand is 64 writable bytes.
        unsafe { asm!("sttilecfg [{}]", in(reg) &raw mut config, options(nostack)) }
        config
    }
}

/// TILELOADD of a tile given by name, from a pointer, rows a stride apart.
macro_rules! load {
    ($tile:literal, $start:expr, $stride:expr) => {
        // SAFETY: the rows of the tile lie in a live buffer of the test.
        unsafe {
            std::arch::asm!(concat!("tileloadd ", $tile, ", [{}+{}*1]"), in(reg) $start, in(reg) $stride as usize,
                 options(nostack, readonly))
        }
    };
}

/// TILESTORED, likewise.
macro_rules! store {
    ($tile:literal, $start:expr, $stride:expr) => {
        // SAFETY: the rows of the tile lie in a live buffer of the test that it may change.
        unsafe {
            std::arch::asm!(concat!("tilestored [{}+{}*1], ", $tile), in(reg) $start, in(reg) $stride as usize,
                 options(nostack))
        }
    };
}

/// An instruction between tiles.
macro_rules! run {
    ($instruction:literal) => {
        // SAFETY: touches no memory and no register that the compiler uses.
        unsafe { std::arch::asm!($instruction, options(nostack)) }
    };
}

pub(super) use {load, run, store};

/// Numbers without pattern, the same in every run (xorshift64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn up_to(&mut self, most: usize) -> usize {
        1 + (self.next() >> 16) as usize % most
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| (self.next() >> 24) as u8)
    }

    /// A finite bf16; some are denormal, and many products lie around the least normal f32.
    pub(crate) fn bf16(&mut self) -> u16 {
        let n = self.next();
        let exponent = match n >> 40 & 7 {
            0 => 0,
            1..4 => 60 + (n >> 32) % 8,
            _ => 120 + (n >> 32) % 16,
        };
        (n & 0x807f) as u16 | (exponent as u16) << 7
    }
}
