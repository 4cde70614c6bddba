//! Reads one tile instruction from its bytes: `C4 | R X B map | W vvvv L pp | opcode | ModRM [SIB] [displacement]`.
//!
//! All of them are VEX.128.0F38.W0, in the four opcodes 49 (configuration), 4B (memory), 5C (bf16) and 5E (int8),
//! where the mandatory prefix `pp` tells the variants apart (Intel SDM volume 2, one page per instruction).

use super::state::{Product, Refusal, Tile};

/// One instruction and the number of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) operation: Operation,
    pub(super) length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    LoadConfig(Address),
    StoreConfig(Address),
    Release,
    Zero(Tile),
    /// TILELOADD and TILELOADDT1, which differ in a cache hint only.
    Load(Tile, Address),
    Store(Tile, Address),
    /// `sum += left * right`: ModRM.reg, ModRM.rm and VEX.vvvv, in this order.
    Dot {
        product: Product,
        sum: Tile,
        left: Tile,
        right: Tile,
    },
}

/// Why bytes are no instruction for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Another instruction: the SIGILL is someone else's.
    Foreign,
    /// A tile instruction with operands that the hardware refuses.
    Refused(Refusal),
}

/// A memory operand as encoded; registers are read when it is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) base: Base,
    pub(super) index: Option<u8>,
    /// Left shift of the index.
    pub(super) scale: u8,
    pub(super) displacement: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Absent,
    Register(u8),
    NextInstruction,
}

impl Address {
    /// Base plus displacement: where row 0 of a tile lies.
    pub(super) fn start(&self, registers: &[u64; 16], next: u64) -> u64 {
        let base = match self.base {
            Base::Absent => 0,
            Base::Register(number) => registers[usize::from(number)],
            Base::NextInstruction => next,
        };
        base.wrapping_add_signed(i64::from(self.displacement))
    }

    /// Scaled index: bytes from one row of a tile to the next, 0 where no index is encoded.
    pub(super) fn stride(&self, registers: &[u64; 16]) -> u64 {
        self.index.map_or(0, |number| registers[usize::from(number)] << self.scale)
    }

    /// The effective address of an instruction that takes all of it as one place.
    pub(super) fn whole(&self, registers: &[u64; 16], next: u64) -> u64 {
        self.start(registers, next).wrapping_add(self.stride(registers))
    }
}

/// Reads the instruction at the start of `code`, taking no byte beyond its end.
pub(super) fn decode(code: impl Iterator<Item = u8>) -> Result<Decoded, Unread> {
    let mut bytes = Bytes { code, taken: 0 };
    if bytes.next()? != 0xc4 {
        return Err(Unread::Foreign);
    }
    // The VEX prefix holds R, X, B and vvvv inverted.
    let first = bytes.next()? ^ 0b1110_0000;
    let second = bytes.next()? ^ 0b0111_1000;
    let vex = Vex {
        reg_high: first >> 4 & 8,
        index_high: first >> 3 & 8,
        base_high: first >> 2 & 8,
        vvvv: second >> 3 & 15,
        prefix: second & 3,
    };
    let opcode = bytes.next()?;
    let map_0f38 = first & 0b1_1111 == 2;
    let w_or_l = second & 0b1000_0100 != 0;
    if !map_0f38 || w_or_l || ![0x49, 0x4b, 0x5c, 0x5e].contains(&opcode) {
        return Err(Unread::Foreign);
    }
    let modrm = bytes.next()?;
    let modrm = ModRm { mode: modrm >> 6, reg: modrm >> 3 & 7, rm: modrm & 7 };
    let in_memory = modrm.mode != 3;
    let operation = match (opcode, vex.prefix, in_memory) {
        (0x49, NONE, true) if modrm.reg == 0 => Operation::LoadConfig(bytes.address(&vex, &modrm)?),
        (0x49, P66, true) if modrm.reg == 0 => Operation::StoreConfig(bytes.address(&vex, &modrm)?),
        (0x49, NONE, false) if modrm.reg == 0 && modrm.rm == 0 => Operation::Release,
        (0x49, F2, false) if modrm.rm == 0 => Operation::Zero(tile(modrm.reg | vex.reg_high)?),
        (0x4b, F2 | P66 | F3, true) => {
            if modrm.rm != 4 {
                return Err(Refusal::undefined("a tile in memory needs an address with an SIB byte").into());
            }
            let register = tile(modrm.reg | vex.reg_high)?;
            let address = bytes.address(&vex, &modrm)?;
            match vex.prefix {
                F3 => Operation::Store(register, address),
                _ => Operation::Load(register, address),
            }
        }
        (0x5c, F3, false) => dot(Product::Bf16, &vex, &modrm)?,
        (0x5e, F2, false) => dot(Product::SignedSigned, &vex, &modrm)?,
        (0x5e, F3, false) => dot(Product::SignedUnsigned, &vex, &modrm)?,
        (0x5e, P66, false) => dot(Product::UnsignedSigned, &vex, &modrm)?,
        (0x5e, NONE, false) => dot(Product::UnsignedUnsigned, &vex, &modrm)?,
        _ => return Err(Unread::Foreign),
    };
    if !matches!(operation, Operation::Dot { .. }) && vex.vvvv != 0 {
        return Err(Refusal::undefined("VEX.vvvv must be 1111b in this instruction").into());
    }
    Ok(Decoded { operation, length: bytes.taken })
}

/// Values of `pp`, the mandatory prefix folded into VEX.
const NONE: u8 = 0;
const P66: u8 = 1;
const F3: u8 = 2;
const F2: u8 = 3;

struct Vex {
    /// The fourth bit of three register numbers, in place: 0 or 8.
    reg_high: u8,
    index_high: u8,
    base_high: u8,
    vvvv: u8,
    prefix: u8,
}

struct ModRm {
    mode: u8,
    reg: u8,
    rm: u8,
}

fn dot(product: Product, vex: &Vex, modrm: &ModRm) -> Result<Operation, Unread> {
    Ok(Operation::Dot {
        product,
        sum: tile(modrm.reg | vex.reg_high)?,
        left: tile(modrm.rm | vex.base_high)?,
        right: tile(vex.vvvv)?,
    })
}

fn tile(number: u8) -> Result<Tile, Unread> {
    Tile::new(number).ok_or_else(|| Refusal::undefined("palette 1 has tiles 0 to 7").into())
}

struct Bytes<I> {
    code: I,
    taken: u64,
}

impl<I: Iterator<Item = u8>> Bytes<I> {
    fn next(&mut self) -> Result<u8, Unread> {
        self.taken += 1;
        self.code.next().ok_or(Unread::Foreign)
    }

    fn address(&mut self, vex: &Vex, modrm: &ModRm) -> Result<Address, Unread> {
        let mut address = Address {
            base: Base::Register(modrm.rm | vex.base_high),
            index: None,
            scale: 0,
            displacement: 0,
        };
        let mut base_low = modrm.rm;
        if modrm.rm == 4 {
            let sib = self.next()?;
            base_low = sib & 7;
            let index = (sib >> 3 & 7) | vex.index_high;
            address.base = Base::Register(base_low | vex.base_high);
            // Number 4 is rsp, which cannot be an index; r12 can.
            address.index = (index != 4).then_some(index);
            address.scale = sib >> 6;
        }
        // Without a displacement rbp and r13 cannot be a base: their place in the table means no base after an SIB
        // byte, and the next instruction without one.
        if modrm.mode == 0 && base_low == 5 {
            address.base = if modrm.rm == 4 { Base::Absent } else { Base::NextInstruction };
        }
        address.displacement = match (modrm.mode, address.base) {
            (1, _) => i32::from(self.next()? as i8),
            (2, _) | (0, Base::Absent | Base::NextInstruction) => {
                i32::from_le_bytes([self.next()?, self.next()?, self.next()?, self.next()?])
            }
            _ => 0,
        };
        Ok(address)
    }
}

impl From<Refusal> for Unread {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
