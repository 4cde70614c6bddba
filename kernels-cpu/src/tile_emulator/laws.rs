//! Configuration, memory and addresses: what tile instructions move, proved by running them.

use std::arch::asm;
use std::sync::Barrier;

use super::decode::{Address, Base, Operation, decode};
use super::program::{Config, Numbers, load, run, store, tiles_are_ready};
use super::state::Tile;

#[test]
fn a_stored_tile_is_the_tile_that_was_loaded_and_nothing_else_is_written() {
    if !tiles_are_ready() {
        return;
    }
    let mut numbers = Numbers(1);
    for case in 0..300 {
        let (rows, column_bytes) = (numbers.up_to(16), 4 * numbers.up_to(16));
        let source: [u8; 2048] = numbers.bytes();
        let mut target = [0xa5u8; 2048];
        let mut expected = target;
        // Strides down to 0 on the way in, wide and sometimes backwards on the way out; none is a round number.
        let from = if case % 3 == 0 { 64 - numbers.up_to(64) } else { column_bytes + numbers.up_to(60) };
        let to = column_bytes + numbers.up_to(60);
        let backwards = case % 2 == 1;
        let (first, stride) =
            if backwards { ((rows - 1) * to, (to as isize).wrapping_neg()) } else { (0, to as isize) };
        for row in 0..rows {
            let at = if backwards { first - row * to } else { row * to };
            expected[at..at + column_bytes].copy_from_slice(&source[row * from..][..column_bytes]);
        }
        Config::of(&[(0, 0), (16, 64), (rows, column_bytes)]).load();
        if case % 5 == 0 {
            // SAFETY: as in `load!`.
            unsafe {
                asm!("tileloaddt1 tmm2, [{}+{}*1]", in(reg) source.as_ptr(), in(reg) from, options(nostack, readonly))
            }
        } else {
            load!("tmm2", source.as_ptr(), from);
        }
        store!("tmm2", target[first..].as_mut_ptr(), stride);
        assert_eq!(target, expected, "{rows} rows of {column_bytes} bytes, strides {from} and {stride}");
    }
}

#[test]
fn a_zeroed_tile_stores_zeros_and_its_neighbour_is_untouched() {
    if !tiles_are_ready() {
        return;
    }
    let source: [u8; 1024] = Numbers(2).bytes();
    let (mut zeroed, mut kept) = ([1u8; 1024], [1u8; 1024]);
    Config::of(&[(16, 64); 8]).load();
    load!("tmm6", source.as_ptr(), 64);
    load!("tmm7", source.as_ptr(), 64);
    run!("tilezero tmm6");
    store!("tmm6", zeroed.as_mut_ptr(), 64);
    store!("tmm7", kept.as_mut_ptr(), 64);
    assert_eq!((zeroed, kept), ([0; 1024], source));
}

#[test]
fn configuring_clears_tiles_and_the_configuration_reads_back() {
    if !tiles_are_ready() {
        return;
    }
    let source: [u8; 1024] = Numbers(3).bytes();
    let mut stored = [1u8; 1024];
    let config = Config::of(&[(16, 64), (3, 20), (0, 0), (16, 4)]);
    config.load();
    load!("tmm0", source.as_ptr(), 64);
    config.load();
    store!("tmm0", stored.as_mut_ptr(), 64);
    assert_eq!(stored, [0; 1024]);
    assert_eq!(Config::stored(), config);
    run!("tilerelease");
    assert_eq!(Config::stored(), Config { palette: 0, ..Config::of(&[]) });
}

#[test]
fn a_start_row_keeps_the_rows_before_it_for_one_instruction() {
    if !tiles_are_ready() {
        return;
    }
    let source: [u8; 1024] = Numbers(4).bytes();
    let mut stored = [1u8; 1024];
    Config { start_row: 5, ..Config::of(&[(16, 64)]) }.load();
    assert_eq!(Config::stored().start_row, 5);
    load!("tmm0", source.as_ptr(), 64);
    assert_eq!(Config::stored().start_row, 0);
    store!("tmm0", stored.as_mut_ptr(), 64);
    assert_eq!((&stored[..320], &stored[320..]), (&[0; 320][..], &source[320..]));
}

#[test]
fn every_thread_has_its_own_tiles() {
    if !tiles_are_ready() {
        return;
    }
    let together = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let together = &together;
            scope.spawn(move || {
                let (rows, column_bytes) = (3 + thread, 16 + 4 * thread);
                let source: [u8; 1024] = Numbers(20 + thread as u64).bytes();
                let mut stored = [0u8; 1024];
                let mut expected = stored;
                for row in 0..rows {
                    expected[64 * row..][..column_bytes].copy_from_slice(&source[64 * row..][..column_bytes]);
                }
                let config = Config::of(&[(rows, column_bytes)]);
                assert_eq!(Config::stored().palette, 0, "a new thread has no configuration");
                config.load();
                together.wait();
                load!("tmm0", source.as_ptr(), 64);
                together.wait();
                store!("tmm0", stored.as_mut_ptr(), 64);
                assert_eq!((Config::stored(), stored), (config, expected));
                run!("tilerelease");
            });
        }
    });
}

/// Loads 5 rows of one dword from `table` by the given address and returns the indices of the dwords that came.
macro_rules! dwords_at {
    ($address:literal, $base:tt = $at:expr, $index:tt = $stride:expr) => {{
        let mut found = [0u32; 5];
        // SAFETY: each caller keeps the five dwords inside its table.
        unsafe {
            asm!(concat!("tileloadd tmm0, [", $base, "+", $index, $address, "]"), in($base) $at, in($index) $stride,
                 options(nostack, readonly))
        }
        store!("tmm0", found.as_mut_ptr(), 4);
        found
    }};
}

#[test]
fn every_register_scale_and_displacement_addresses_what_it_says() {
    if !tiles_are_ready() {
        return;
    }
    Config::of(&[(5, 4)]).load();
    let table: [u32; 1024] = std::array::from_fn(|i| i as u32);
    let at = table[500..].as_ptr();
    let rows =
        |first: i32, step: i32| std::array::from_fn::<u32, 5, _>(|row| (first + step * row as i32) as u32);
    let by = |dwords: isize| 4 * dwords;
    assert_eq!(dwords_at!("*1", "rax" = at, "rcx" = by(7)), rows(500, 7));
    assert_eq!(dwords_at!("*2", "rcx" = at, "rdx" = by(7)), rows(500, 14));
    assert_eq!(dwords_at!("*4", "rdx" = at, "rsi" = by(7)), rows(500, 28));
    assert_eq!(dwords_at!("*8", "rsi" = at, "rdi" = by(7)), rows(500, 56));
    assert_eq!(dwords_at!("*1+8", "rdi" = at, "rax" = by(-9)), rows(502, -9));
    assert_eq!(dwords_at!("*1-128", "r8" = at, "r9" = by(3)), rows(468, 3));
    assert_eq!(dwords_at!("*1+128", "r9" = at, "r10" = by(3)), rows(532, 3));
    assert_eq!(dwords_at!("*1+1024", "r10" = at, "r11" = by(3)), rows(756, 3));
    assert_eq!(dwords_at!("*2-1024", "r11" = at, "r12" = by(3)), rows(244, 6));
    assert_eq!(dwords_at!("*4", "r12" = at, "r13" = by(3)), rows(500, 12));
    assert_eq!(dwords_at!("*8", "r13" = at, "r14" = by(-3)), rows(500, -24));
    assert_eq!(dwords_at!("*1+4", "r14" = at, "r15" = by(0)), rows(501, 0));
    assert_eq!(dwords_at!("*1", "r15" = at, "r8" = by(100)), rows(500, 100));
    let mut found = [0u32; 5];
    // SAFETY: rbx and rbp, which the compiler keeps for itself, are exchanged and exchanged back.
    unsafe {
        asm!("xchg rbx, rax", "xchg rbp, rcx", "tileloadd tmm0, [rbp+rbx*2]", "xchg rbx, rax", "xchg rbp, rcx",
             inout("rax") by(7) => _, inout("rcx") at => _, options(nostack, readonly))
    }
    store!("tmm0", found.as_mut_ptr(), 4);
    assert_eq!(found, rows(500, 14));
    // SAFETY: reads one dword of the table. Without an index the stride is 0: all rows are the same.
    unsafe { asm!("tileloadd tmm0, [{}+8]", in(reg) at, options(nostack, readonly)) }
    store!("tmm0", found.as_mut_ptr(), 4);
    assert_eq!(found, rows(502, 0));
    // SAFETY: what is pushed is popped.
    unsafe {
        asm!("push {v}", "tileloadd tmm0, [rsp+{s}*1]", "pop {v}", v = inout(reg) 77u64 => _, s = in(reg) 0usize)
    }
    store!("tmm0", found.as_mut_ptr(), 4);
    assert_eq!(found, [77; 5]);
}

#[test]
fn addresses_are_read_as_the_assembler_encodes_them() {
    let read = |bytes: &[u8]| {
        let decoded = decode(bytes.iter().copied()).expect("a tile instruction");
        assert_eq!(decoded.length, bytes.len() as u64, "{bytes:x?}");
        decoded.operation
    };
    let address = |base, index, scale, displacement| Address { base, index, scale, displacement };
    let tile = |number| Tile::new(number).expect("a tile");
    let register = Base::Register;
    let load = |number, address| Operation::Load(tile(number), address);
    // What LLVM's assembler makes of tileloadd tmm1, [rbx] and tileloadd tmm1, [rcx*8+16]
    assert_eq!(read(&[0xc4, 0xe2, 0x7b, 0x4b, 0x0c, 0x23]), load(1, address(register(3), None, 0, 0)));
    assert_eq!(
        read(&[0xc4, 0xe2, 0x7b, 0x4b, 0x0c, 0xcd, 0x10, 0, 0, 0]),
        load(1, address(Base::Absent, Some(1), 3, 16))
    );
    // tileloaddt1 tmm4, [rbp+r15-8] and tilestored [r12+rax*8+0x12345], tmm5
    assert_eq!(
        read(&[0xc4, 0xa2, 0x79, 0x4b, 0x64, 0x3d, 0xf8]),
        load(4, address(register(5), Some(15), 0, -8))
    );
    assert_eq!(
        read(&[0xc4, 0xc2, 0x7a, 0x4b, 0xac, 0xc4, 0x45, 0x23, 0x01, 0x00]),
        Operation::Store(tile(5), address(register(12), Some(0), 3, 0x12345))
    );
    // ldtilecfg of [rip+16], [rdi], [rsp+8], [r13], [r9+r10*8-128], [0x1000]; sttilecfg [r8-128]
    let config = |bytes: &[u8]| match read(&[&[0xc4], bytes].concat()) {
        Operation::LoadConfig(address) => address,
        other => panic!("{other:?}"),
    };
    assert_eq!(config(&[0xe2, 0x78, 0x49, 0x05, 16, 0, 0, 0]), address(Base::NextInstruction, None, 0, 16));
    assert_eq!(config(&[0xe2, 0x78, 0x49, 0x07]), address(register(7), None, 0, 0));
    assert_eq!(config(&[0xe2, 0x78, 0x49, 0x44, 0x24, 8]), address(register(4), None, 0, 8));
    assert_eq!(config(&[0xc2, 0x78, 0x49, 0x45, 0]), address(register(13), None, 0, 0));
    assert_eq!(config(&[0x82, 0x78, 0x49, 0x44, 0xd1, 0x80]), address(register(9), Some(10), 3, -128));
    assert_eq!(
        config(&[0xe2, 0x78, 0x49, 0x04, 0x25, 0, 0x10, 0, 0]),
        address(Base::Absent, None, 0, 0x1000)
    );
    assert_eq!(
        read(&[0xc4, 0xc2, 0x79, 0x49, 0x40, 0x80]),
        Operation::StoreConfig(address(register(8), None, 0, -128))
    );
}

#[test]
fn a_configuration_is_read_relative_to_the_instruction_pointer() {
    if !tiles_are_ready() {
        return;
    }
    // SAFETY: jumps over 64 bytes of data, which LDTILECFG reads.
    unsafe {
        asm!(
            "jmp 3f",
            "2:",
            ".byte 1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0, 8,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
            ".zero 16",
            ".byte 7,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
            "3:",
            "ldtilecfg [rip+2b]",
            options(nostack, readonly)
        )
    }
    assert_eq!(Config::stored(), Config::of(&[(7, 8)]));
}
