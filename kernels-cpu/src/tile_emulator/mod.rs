//! Intel AMX in software, for tests: lets matrix kernels written with tile instructions run on any x86-64 Linux.
//!
//! A processor without AMX raises an invalid-opcode fault at each tile instruction, which Linux delivers as SIGILL to
//! the thread that ran it. The handler installed here decodes the instruction, carries it out on tiles of that thread,
//! moves the instruction pointer past it and returns. Kernels run unchanged, at some microseconds per instruction:
//! their addressing, layout and loops are proved, their speed is not.
//!
//! What is emulated: palette 1 (8 tiles of 16 rows of 64 bytes), LDTILECFG, STTILECFG, TILERELEASE, TILEZERO,
//! TILELOADD, TILELOADDT1, TILESTORED, TDPBF16PS, TDPBSSD, TDPBSUD, TDPBUSD and TDPBUUD, as volume 2 of the Intel SDM
//! describes them, with the #UD and #GP checks of their exception classes AMX-E1 to AMX-E6 (section 2.10 there).
//! An instruction that the hardware would refuse ends the process by the signal the hardware would cause (#UD: SIGILL,
//! #GP: SIGSEGV), after a line on stderr that says why.
//!
//! What is not: segment and address-size prefixes (such an instruction counts as foreign), restart after a page fault
//! in the middle of a load or store, XSAVE of tile state, and the permission that Linux wants before the first use of
//! real tiles (`arch_prctl`), which a test has to skip.
//!
//! Where the processor has tiles ([`processor_has_tiles`]) nothing must be installed: some instructions would trap for
//! want of permission and others not. The laws of memory and arithmetic run on the processor's own tiles there.

mod decode;
mod dot_laws;
mod laws;
mod program;
mod refusals;
mod state;

use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::cell::{Cell, UnsafeCell};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Once, OnceLock};
use std::{mem, ptr};

use decode::{Decoded, Operation, Unread, decode};
pub(crate) use dot_laws::bf16_dot;
pub(crate) use program::Numbers;
use state::{Fault, Refusal, Tiles};

static INSTALLED: Once = Once::new();
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTRUCTIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Initialised at compile time and without a destructor, so that access from the handler neither allocates nor runs
    // an initialiser.
    static TILES: UnsafeCell<Tiles> = const { UnsafeCell::new(Tiles::INITIAL) };
    static OWN_INSTRUCTIONS: Cell<u64> = const { Cell::new(0) };
    static STANDS_IN: Cell<bool> = const { Cell::new(false) };
}

/// Whether processor and operating system have AMX tiles, so that tile instructions do not trap once permitted.
pub(crate) fn processor_has_tiles() -> bool {
    let osxsave = __cpuid(1).ecx >> 27 & 1 == 1;
    let amx_tile = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx >> 24 & 1 == 1;
    // SAFETY: XGETBV exists where OSXSAVE is set. Bits 17 and 18 are tile configuration and tile data.
    osxsave && amx_tile && unsafe { _xgetbv(0) } >> 17 & 3 == 3
}

/// Makes tile instructions work in every thread of this process from now on. Further calls do nothing.
///
/// For processors without tiles only.
///
/// A SIGILL that no tile instruction caused goes to the handler that was there before.
pub(crate) fn install() {
    INSTALLED.call_once(|| {
        // SAFETY: all-zero is a valid `sigaction`; the pointers are to live locals. The previous handler is stored
        // before ours can run, and ours is an `extern "C"` function of the signature SA_SIGINFO asks for.
        unsafe {
            let mut previous: libc::sigaction = mem::zeroed();
            assert_eq!(
                libc::sigaction(libc::SIGILL, ptr::null(), &mut previous),
                0,
                "reading the SIGILL handler"
            );
            PREVIOUS.get_or_init(|| previous);
            let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_illegal_instruction;
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = handler as usize;
            // No SA_ONSTACK: std sizes the alternative stack for its own overflow report, and the kernel steps over
            // the red zone of the interrupted function.
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigemptyset(&mut action.sa_mask);
            assert_eq!(
                libc::sigaction(libc::SIGILL, &action, ptr::null_mut()),
                0,
                "setting the SIGILL handler"
            );
        }
    });
}

/// Runs `law` with the emulator installed and standing in for the processor's tiles: this thread is told that there are
/// some, the others, whose tests run at the same time, are not.
pub(crate) fn standing_in<T>(law: impl FnOnce() -> T) -> T {
    install();
    let restore = Restore(STANDS_IN.replace(true));
    let result = law();
    drop(restore);
    result
}

/// Whether emulated tiles count as the machine's on this thread.
pub(crate) fn stands_in() -> bool {
    STANDS_IN.get()
}

struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        STANDS_IN.set(self.0);
    }
}

/// Number of tile instructions carried out in software so far for this thread.
pub(crate) fn own_instructions() -> u64 {
    OWN_INSTRUCTIONS.get()
}

/// Number of tile instructions carried out in software so far, over all threads of the process.
pub(crate) fn instructions() -> u64 {
    INSTRUCTIONS.load(Ordering::Relaxed)
}

extern "C" fn on_illegal_instruction(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo and, by SA_SIGINFO, a ucontext that nothing else refers to.
    let (code, registers) =
        unsafe { ((*info).si_code, &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs) };
    // Codes up to 0 are signals sent by a process: the instruction pointer has nothing to do with them.
    if code <= 0 {
        return pass_on(signal, info, context);
    }
    let rip = registers[libc::REG_RIP as usize] as u64;
    // SAFETY: the processor has just fetched this instruction; the decoder asks for no byte beyond its end.
    let bytes = (0..).map(|i| unsafe { *(rip as *const u8).add(i) });
    let decoded = match decode(bytes) {
        Ok(decoded) => decoded,
        Err(Unread::Foreign) => return pass_on(signal, info, context),
        Err(Unread::Refused(refusal)) => return refuse(rip, None, refusal),
    };
    let numbered = GENERAL_REGISTERS.map(|r| registers[r as usize] as u64);
    let next = rip.wrapping_add(decoded.length);
    // SAFETY: the interrupted code has executed this instruction, and so vouched for the memory it names.
    match unsafe { execute(&decoded, &numbered, next) } {
        Ok(()) => {
            INSTRUCTIONS.fetch_add(1, Ordering::Relaxed);
            OWN_INSTRUCTIONS.set(OWN_INSTRUCTIONS.get() + 1);
            registers[libc::REG_RIP as usize] = next as i64;
        }
        Err(refusal) => refuse(rip, Some(&decoded), refusal),
    }
}

/// Places of the general registers in `gregs`, by their number in an instruction.
const GENERAL_REGISTERS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Carries out one instruction on the tiles of this thread; `next` is the address after it.
///
/// # Safety
/// The memory that the instruction reads or writes must be valid for that.
unsafe fn execute(decoded: &Decoded, registers: &[u64; 16], next: u64) -> Result<(), Refusal> {
    TILES.with(|tiles| {
        // SAFETY: only the handler borrows the tiles, it runs on the thread that owns them, and SIGILL is blocked
        // while it runs.
        let tiles = unsafe { &mut *tiles.get() };
        match decoded.operation {
            Operation::LoadConfig(at) => {
                // SAFETY: the caller vouches for 64 readable bytes.
                let bytes = unsafe { *(at.whole(registers, next) as *const [u8; 64]) };
                tiles.configure(&bytes)
            }
            Operation::StoreConfig(at) => {
                // SAFETY: the caller vouches for 64 writable bytes.
                unsafe { *(at.whole(registers, next) as *mut [u8; 64]) = tiles.configuration() };
                Ok(())
            }
            Operation::Release => {
                tiles.release();
                Ok(())
            }
            Operation::Zero(tile) => tiles.zero(tile),
            // SAFETY: the caller vouches for the rows in memory.
            Operation::Load(tile, at) => unsafe {
                tiles.load(tile, at.start(registers, next), at.stride(registers))
            },
            // SAFETY: as above.
            Operation::Store(tile, at) => unsafe {
                tiles.store(tile, at.start(registers, next), at.stride(registers))
            },
            Operation::Dot { product, sum, left, right } => tiles.dot(product, sum, left, right),
        }
    })
}

/// Gives a signal that is not ours to the handler before us. Its mask and stack flags are not honoured.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(previous) = PREVIOUS.get() else { return die_of(signal) };
    // SAFETY: `info` is the kernel's.
    let sent = unsafe { (*info).si_code } <= 0;
    match previous.sa_sigaction {
        // The kernel does not let a process ignore a fault of its own, only a signal that was sent.
        libc::SIG_IGN if sent => {}
        libc::SIG_IGN | libc::SIG_DFL => die_of(signal),
        // SAFETY: with SA_SIGINFO set, whoever registered this address registered a function of three arguments.
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => unsafe {
            let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                mem::transmute(handler);
            handler(signal, info, context)
        },
        // SAFETY: without SA_SIGINFO it is a function of one argument.
        handler => unsafe {
            let handler: extern "C" fn(i32) = mem::transmute(handler);
            handler(signal)
        },
    }
}

/// Says why an instruction is refused and ends the process as the hardware's fault would.
fn refuse(rip: u64, decoded: Option<&Decoded>, refusal: Refusal) {
    let (name, signal) = match refusal.fault {
        Fault::InvalidOpcode => ("#UD", libc::SIGILL),
        Fault::GeneralProtection => ("#GP", libc::SIGSEGV),
    };
    let mut line = Line { bytes: [0; 256], length: 0 };
    // A line too long is cut; there is nowhere to report it.
    let _ = write!(line, "tile emulator: {name} at {rip:#x}: {}", refusal.reason);
    if let Some(decoded) = decoded {
        let _ = write!(line, " [{:?}]", decoded.operation);
    }
    line.bytes[line.length] = b'\n';
    // SAFETY: the buffer is live and `length` < its size; write(2) may be called in a handler.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.length + 1) };
    die_of(signal)
}

/// Restores the default action of `signal` and raises it. SIGILL, blocked in our handler, takes effect on return.
fn die_of(signal: i32) {
    // SAFETY: both calls may be made in a handler and touch no memory of ours.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// A line of text on the stack, since a handler may not allocate. Keeps room for the newline.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = text.len().min(self.bytes.len() - 1 - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}
