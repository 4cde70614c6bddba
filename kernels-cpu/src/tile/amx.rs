//! The products in AMX's tiles, by inline assembly: 32 rows by a panel in four tiles of sums, two of rows and two of
//! weights (Intel SDM volume 1, chapter 18).

use std::arch::asm;
use std::sync::OnceLock;

use super::{TileCall, TileFn};
use crate::packed_matrix::{STEP_BYTES, WeightFormat};

/// Whether this machine has tiles for bf16 and int8 and the system lets this process use them.
pub(crate) fn has_tiles() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    #[cfg(all(test, target_os = "linux"))]
    if crate::tile_emulator::stands_in() {
        return true;
    }
    *HAS.get_or_init(|| cpu_has_tiles() && system_permits_tiles())
}

/// The forms for up to 16 and up to 32 rows, where tiles have the format.
pub(super) fn functions(format: WeightFormat) -> Option<&'static [TileFn]> {
    match format {
        WeightFormat::F32 => None,
        WeightFormat::Bf16 => Some(&[bf16_16 as TileFn, bf16_32]),
        WeightFormat::Int8 | WeightFormat::Int8InEights => Some(&[int8_16 as TileFn, int8_32]),
    }
}

/// All eight tiles at their full size: 16 rows of 64 bytes.
pub(super) fn configure() {
    let config = Config::FULL;
    // SAFETY: callers have AMX; the operand is a valid configuration of 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
}

/// Gives the tiles' state up: a thread with tiles costs more to switch.
pub(super) fn release() {
    // SAFETY: callers have AMX.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    const FULL: Config = {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        let mut tile = 0;
        while tile < 8 {
            row_bytes[tile] = 64;
            rows[tile] = 16;
            tile += 1;
        }
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    };
}

/// Up to 32 rows: two tiles of rows by two of weights, sixteen steps an iteration. SAFETY: the caller of a `TileFn` promises
/// configured tiles, whole tiles of rows and steps, and room for 32 rows of sums.
macro_rules! rows_32 {
    ($name:ident, $half:ident, $dot:literal) => {
        unsafe fn $name(call: &TileCall<'_>) {
            check(call);
            if call.is_half() {
                // SAFETY: see above.
                return unsafe { $half(call) };
            }
            // SAFETY: see above.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{b} + {panel}]",
                    "tileloadd tmm6, [{a} + {stride}]",
                    concat!($dot, " tmm0, tmm6, tmm4"),
                    "tileloadd tmm5, [{b} + {panel} + 64]",
                    concat!($dot, " tmm1, tmm6, tmm5"),
                    "tileloadd tmm7, [{a2} + {stride}]",
                    concat!($dot, " tmm2, tmm7, tmm4"),
                    concat!($dot, " tmm3, tmm7, tmm5"),
                    "add {a}, 64", "add {a2}, 64", "add {b}, {panels}",
                    "dec {k}", "jnz 2b",
                    "tilestored [{out} + {step}], tmm0",
                    "tilestored [{out} + {step} + 64], tmm1",
                    "tilestored [{out} + {step} + 2048], tmm2",
                    "tilestored [{out} + {step} + 2112], tmm3",
                    a = inout(reg) call.a => _,
                    a2 = inout(reg) call.a.add(16 * call.stride) => _,
                    b = inout(reg) call.panel => _,
                    k = inout(reg) call.steps / 16 => _,
                    step = in(reg) STEP_BYTES,
                    panel = in(reg) call.panel_stride,
                    panels = in(reg) call.panel_stride * 16,
                    stride = in(reg) call.stride,
                    out = in(reg) call.out,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}
rows_32!(bf16_32, bf16_32_half, "tdpbf16ps");
rows_32!(int8_32, int8_32_half, "tdpbusd");

/// Up to 16 rows: one tile of rows by two of weights. SAFETY: as above, with room for 16 rows of sums.
macro_rules! rows_16 {
    ($name:ident, $half:ident, $dot:literal) => {
        unsafe fn $name(call: &TileCall<'_>) {
            check(call);
            if call.is_half() {
                // SAFETY: see above.
                return unsafe { $half(call) };
            }
            // SAFETY: see above.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1",
                    "2:",
                    "tileloadd tmm6, [{a} + {stride}]",
                    "tileloadd tmm4, [{b} + {panel}]",
                    "tileloadd tmm5, [{b} + {panel} + 64]",
                    concat!($dot, " tmm0, tmm6, tmm4"),
                    concat!($dot, " tmm1, tmm6, tmm5"),
                    "add {a}, 64", "add {b}, {panels}",
                    "dec {k}", "jnz 2b",
                    "tilestored [{out} + {step}], tmm0",
                    "tilestored [{out} + {step} + 64], tmm1",
                    a = inout(reg) call.a => _,
                    b = inout(reg) call.panel => _,
                    k = inout(reg) call.steps / 16 => _,
                    step = in(reg) STEP_BYTES,
                    panel = in(reg) call.panel_stride,
                    panels = in(reg) call.panel_stride * 16,
                    stride = in(reg) call.stride,
                    out = in(reg) call.out,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
                    options(nostack),
                );
            }
        }
    };
}
rows_16!(bf16_16, bf16_16_half, "tdpbf16ps");
rows_16!(int8_16, int8_16_half, "tdpbusd");

/// Half a panel: one tile of weights, for one or two tiles of rows. SAFETY: as above.
macro_rules! half_panel {
    ($name:ident, $dot:literal, [$($zero:literal)*], [$($second:tt)*], [$($store:tt)*], $a2:expr) => {
        unsafe fn $name(call: &TileCall<'_>) {
            // SAFETY: see above.
            unsafe {
                asm!(
                    $($zero,)*
                    "2:",
                    "tileloadd tmm4, [{b} + {panel}]",
                    "tileloadd tmm6, [{a} + {stride}]",
                    concat!($dot, " tmm0, tmm6, tmm4"),
                    $($second)*
                    "add {a}, 64", "add {a2}, 64", "add {b}, {panels}",
                    "dec {k}", "jnz 2b",
                    "tilestored [{out} + {step}], tmm0",
                    $($store)*
                    a = inout(reg) call.a => _,
                    a2 = inout(reg) call.a.wrapping_add($a2 * call.stride) => _,
                    b = inout(reg) call.panel => _,
                    k = inout(reg) call.steps / 16 => _,
                    step = in(reg) STEP_BYTES,
                    panel = in(reg) call.panel_stride,
                    panels = in(reg) call.panel_stride * 16,
                    stride = in(reg) call.stride,
                    out = in(reg) call.out,
                    out("tmm0") _, out("tmm2") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}
macro_rules! half_panels {
    ($rows_16:ident, $rows_32:ident, $dot:literal) => {
        half_panel!($rows_16, $dot, ["tilezero tmm0"], [], [], 0);
        half_panel!(
            $rows_32,
            $dot,
            ["tilezero tmm0" "tilezero tmm2"],
            ["tileloadd tmm7, [{a2} + {stride}]", concat!($dot, " tmm2, tmm7, tmm4"),],
            ["tilestored [{out} + {step} + 2048], tmm2",],
            16
        );
    };
}
half_panels!(bf16_16_half, bf16_32_half, "tdpbf16ps");
half_panels!(int8_16_half, int8_32_half, "tdpbusd");

/// What tiles can be asked for.
fn check(call: &TileCall<'_>) {
    debug_assert!(call.steps.is_multiple_of(16) && call.steps > 0);
    debug_assert!(!call.accumulate && call.next.is_none());
}

/// CPUID leaf 7: tiles, their bf16 and int8 products; and whether the system saves their state (XCR0 bits 17 and 18).
fn cpu_has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    #[target_feature(enable = "xsave")]
    fn saved_state() -> u64 {
        // SAFETY: only called where the system has enabled `xgetbv`.
        unsafe { _xgetbv(0) }
    }
    const TILES: u32 = 1 << 24 | 1 << 25 | 1 << 22;
    const TILE_STATE: u64 = 3 << 17;
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 || __cpuid_count(7, 0).edx & TILES != TILES {
        return false;
    }
    // SAFETY: OSXSAVE is set.
    unsafe { saved_state() & TILE_STATE == TILE_STATE }
}

/// Linux gives a process the right to tiles on request (`arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`), for all threads that
/// it will have.
#[cfg(target_os = "linux")]
fn system_permits_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: a system call that touches no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn system_permits_tiles() -> bool {
    false
}
