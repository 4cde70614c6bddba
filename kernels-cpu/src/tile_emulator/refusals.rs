//! What the emulator will not do: each fault of the hardware ends a child process the same way, and signals that are
//! not ours go where they went before.

use std::arch::asm;
use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, mem, ptr};

use super::decode::{Unread, decode};
use super::program::{Config, load, run, tiles_are_emulated};
use super::{install, instructions, processor_has_tiles};

/// How a child process that does `action` ends: the signal that killed it (0: it came to its end), and its stderr.
///
/// The child is forked from a process with threads, so `action` may neither allocate nor lock.
fn fate(action: impl Fn()) -> (i32, String) {
    let mut ends = [0; 2];
    let mut status = 0;
    let mut text = String::new();
    // SAFETY: `ends` has room for two descriptors, of which this process keeps one and closes the other; the child
    // makes system calls and runs `action`, nothing else.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        let child = libc::fork();
        assert!(child >= 0, "fork");
        if child == 0 {
            libc::prctl(libc::PR_SET_DUMPABLE, 0); // No core file for a death that is wanted.
            libc::dup2(ends[1], libc::STDERR_FILENO);
            action();
            libc::_exit(0);
        }
        libc::close(ends[1]);
        File::from_raw_fd(ends[0]).read_to_string(&mut text).expect("the child's stderr");
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
    }
    (if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 }, text)
}

#[track_caller]
fn dies(signal: i32, reason: &str, action: impl Fn()) {
    let (killed_by, text) = fate(action);
    assert!(
        text.starts_with("tile emulator: #") && text.contains(reason),
        "{text:?} does not say `{reason}`"
    );
    assert_eq!(killed_by, signal, "{text}");
}

#[test]
fn a_tile_without_configuration_or_rows_is_undefined() {
    if !tiles_are_emulated() {
        return;
    }
    let nowhere = ptr::null::<u8>();
    run!("tilerelease"); // Under --test-threads=1 this thread has run other tests.
    dies(libc::SIGILL, "no tile is configured", || run!("tilezero tmm0"));
    dies(libc::SIGILL, "no tile is configured", || load!("tmm0", nowhere, 64));
    dies(libc::SIGILL, "no tile is configured", || run!("tdpbssd tmm0, tmm1, tmm2"));
    dies(libc::SIGILL, "no tile is configured", || {
        Config::of(&[(16, 64); 8]).load();
        run!("tilerelease");
        run!("tilezero tmm0");
    });
    dies(libc::SIGILL, "gives this tile no rows", || {
        Config::of(&[(16, 64)]).load();
        run!("tilezero tmm1");
    });
}

#[test]
fn shapes_that_do_not_fit_are_undefined() {
    if !tiles_are_emulated() {
        return;
    }
    let dot = |sum, left, right| {
        move || {
            Config::of(&[sum, left, right]).load();
            run!("tdpbf16ps tmm0, tmm1, tmm2");
        }
    };
    assert_eq!(fate(dot((3, 20), (3, 28), (7, 20))), (0, String::new()));
    dies(libc::SIGILL, "for each row of the right", dot((3, 20), (3, 28), (8, 20)));
    dies(libc::SIGILL, "the same rows", dot((3, 20), (4, 28), (7, 20)));
    dies(libc::SIGILL, "the same column bytes", dot((3, 20), (3, 28), (7, 24)));
    dies(libc::SIGILL, "multiple of 4", dot((3, 20), (3, 30), (7, 20)));
    dies(libc::SIGILL, "must differ", || {
        Config::of(&[(16, 64); 8]).load();
        run!(".byte 0xc4, 0xe2, 0x73, 0x5e, 0xc1"); // tdpbssd tmm0, tmm1, tmm1
    });
    dies(libc::SIGILL, "multiple of 4", || {
        Config::of(&[(1, 3)]).load();
        load!("tmm0", [0u8; 4].as_ptr(), 4);
    });
    dies(libc::SIGILL, "start row", || {
        Config { start_row: 2, ..Config::of(&[(2, 4)]) }.load();
        load!("tmm0", [0u8; 64].as_ptr(), 4);
    });
}

#[test]
fn operands_that_no_assembler_writes_are_undefined() {
    if !tiles_are_emulated() {
        return;
    }
    // tilezero with VEX.R, with VEX.vvvv = 1; tileloadd tmm0, [rax] without an SIB byte
    dies(libc::SIGILL, "tiles 0 to 7", || run!(".byte 0xc4, 0x62, 0x7b, 0x49, 0xc0"));
    dies(libc::SIGILL, "VEX.vvvv", || run!(".byte 0xc4, 0xe2, 0x73, 0x49, 0xc0"));
    dies(libc::SIGILL, "SIB", || run!(".byte 0xc4, 0xe2, 0x7b, 0x4b, 0x00"));
}

#[test]
fn a_configuration_the_processor_does_not_have_is_a_protection_fault() {
    if !tiles_are_emulated() {
        return;
    }
    let full = Config::of(&[(16, 64); 8]);
    let gp = libc::SIGSEGV;
    dies(gp, "palettes", || Config { palette: 2, ..full }.load());
    dies(gp, "16 rows", || Config::of(&[(17, 64)]).load());
    dies(gp, "64 column bytes", || Config::of(&[(16, 68)]).load());
    dies(gp, "both be 0 or neither", || Config::of(&[(16, 0)]).load());
    dies(gp, "both be 0 or neither", || Config::of(&[(0, 64)]).load());
    let (mut column_bytes, mut rows) = (full.column_bytes, full.rows);
    column_bytes[8] = 64;
    rows[15] = 16;
    dies(gp, "reserved", || Config { column_bytes, ..full }.load());
    dies(gp, "reserved", || Config { rows, ..full }.load());
    dies(gp, "reserved", || {
        let mut reserved = [0; 14];
        reserved[13] = 1;
        Config { reserved, ..full }.load();
    });
}

#[test]
fn memory_that_is_not_there_is_a_segmentation_fault() {
    if !tiles_are_emulated() {
        return;
    }
    let (signal, _) = fate(|| {
        Config::of(&[(16, 64)]).load();
        load!("tmm0", ptr::without_provenance::<u8>(8), 64);
    });
    assert_eq!(signal, libc::SIGSEGV);
}

#[test]
fn other_illegal_instructions_and_sent_signals_kill_as_if_we_were_not_there() {
    if !tiles_are_emulated() {
        return;
    }
    assert_eq!(fate(|| run!("ud2")), (libc::SIGILL, String::new()));
    // tdpfp16ps, of an extension that is not emulated
    assert_eq!(fate(|| run!(".byte 0xc4, 0xe2, 0x6b, 0x5c, 0xc1")), (libc::SIGILL, String::new()));
    // SAFETY: raises a signal in the child.
    let raised = || unsafe { _ = libc::raise(libc::SIGILL) };
    assert_eq!(fate(raised), (libc::SIGILL, String::new()));
}

#[test]
fn neighbours_of_the_encodings_are_foreign() {
    let tilezero = [0xc4, 0xe2, 0x7b, 0x49, 0xc0];
    assert!(decode(tilezero.into_iter()).is_ok());
    // A prefix before VEX, another map, W1, L1, an opcode and a ModRM next to it, and a cut instruction.
    for (place, byte) in [(0, 0x66), (1, 0xe1), (2, 0xfb), (2, 0x7f), (3, 0x4a), (4, 0xc1)] {
        let mut bytes = tilezero;
        bytes[place] = byte;
        assert_eq!(decode(bytes.into_iter()), Err(Unread::Foreign), "{bytes:x?}");
    }
    assert_eq!(decode(tilezero.into_iter().take(4)), Err(Unread::Foreign));
}

/// Set in the process that the next test starts, which must be the first to install a handler.
const ALONE: &str = "POLYLORA_TILE_EMULATOR_ALONE";

static PASSED_ON: AtomicU32 = AtomicU32::new(0);

/// Counts, and steps over the two bytes of UD2.
extern "C" fn step_over_ud2(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    PASSED_ON.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the emulator passes the kernel's own arguments on.
    unsafe {
        if (*info).si_code > 0 {
            (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
        }
    }
}

#[test]
fn the_handler_before_ours_gets_what_is_not_ours_and_ours_are_counted_exactly() {
    if processor_has_tiles() {
        eprintln!("NOT RUN: this processor has tiles of its own, so nothing is emulated");
        return;
    }
    if env::var_os(ALONE).is_none() {
        let path = module_path!().split_once("::").expect("a module below the crate").1;
        let name =
            format!("{path}::the_handler_before_ours_gets_what_is_not_ours_and_ours_are_counted_exactly");
        let output = Command::new(env::current_exe().expect("the test program"))
            .args(["--exact", &name, "--nocapture", "--test-threads=1"])
            .env(ALONE, "1")
            .output()
            .expect("the test program once more");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}{output:?}");
        return;
    }
    // SAFETY: registers a handler of the signature SA_SIGINFO asks for.
    unsafe {
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = step_over_ud2;
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGILL, &action, ptr::null_mut()), 0);
    }
    install();
    install();
    assert_eq!(instructions(), 0);
    let source = [7u8; 1024];
    Config::of(&[(16, 64); 8]).load();
    load!("tmm0", source.as_ptr(), 64);
    // SAFETY: UD2 is stepped over by the handler above; the rest touches tiles only.
    unsafe { asm!("tilezero tmm1", "ud2", "tilezero tmm2", "tilerelease", options(nostack)) }
    // SAFETY: a signal to this thread, which the handler counts.
    unsafe { assert_eq!(libc::raise(libc::SIGILL), 0) };
    assert_eq!((instructions(), PASSED_ON.load(Ordering::Relaxed)), (5, 2));
}
