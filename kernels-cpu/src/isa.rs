//! Instruction sets and the choice among them at run time.

use std::sync::OnceLock;

use crate::packed_matrix::WeightFormat;
use crate::tile::{OperandForm, TileKernel};

/// Environment variable that forces an instruction set: `scalar`, `avx2`, `avxvnni`, `avx512` or `amx`.
pub const ISA_VARIABLE: &str = "POLYLORA_CPU_ISA";

/// An instruction set that the kernels are compiled for, the widest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Whatever the target's baseline is.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// AVX2 with the 256-bit dot products of bytes that laptops have (AVX-VNNI).
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL, with its dot products of bytes (VNNI) and of bf16 where the machine has them.
    Avx512,
    /// AVX-512 and AMX's tiles for bf16 and int8.
    Amx,
}

/// What [`ISA_VARIABLE`] asks for and this machine cannot do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// No instruction set of that name.
    #[error("{ISA_VARIABLE} is `{found}`, expected one of scalar, avx2, avxvnni, avx512, amx")]
    Unknown {
        /// What was found.
        found: String,
    },
    /// The machine lacks it.
    #[error("{ISA_VARIABLE} asks for {}, this machine has {}", asked.name(), names(&Isa::available()))]
    Missing {
        /// What was asked for.
        asked: Isa,
    },
}

impl Isa {
    /// All there are.
    pub const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Amx];

    /// The instruction sets of this machine, the widest last.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The one in use: what [`ISA_VARIABLE`] names, else the widest. Where the variable is in error, which
    /// [`Isa::from_environment`] tells, the widest too.
    pub fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| Isa::from_environment().unwrap_or_else(|_| Isa::widest()))
    }

    /// The instruction set that the environment asks for, or the widest where it asks for none.
    ///
    /// # Errors
    /// When the name is unknown, or the machine lacks the instruction set.
    pub fn from_environment() -> Result<Isa, IsaError> {
        Self::choose(std::env::var(ISA_VARIABLE).ok().as_deref())
    }

    /// Its name, as [`ISA_VARIABLE`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }

    /// Whether dot products of bf16 are instructions of it on this machine.
    pub fn has_bf16_products(self) -> bool {
        TileKernel::choose(self, WeightFormat::Bf16).operand == OperandForm::Bf16
    }

    /// The format of 8-bit weights that this machine multiplies fastest with it: in eights where it has AVX2 without dot products
    /// of bytes.
    pub fn int8_format(self) -> WeightFormat {
        // The form for all integers is the faster one wherever instructions have it.
        let has_instructions = |format| TileKernel::choose(self, format).has_instructions();
        let in_eights = has_instructions(WeightFormat::Int8InEights) && !has_instructions(WeightFormat::Int8);
        if in_eights { WeightFormat::Int8InEights } else { WeightFormat::Int8 }
    }

    /// What this machine multiplies by with it where weights have a format: `AMX tiles`, `AVX-512`, `AVX-512 BF16`,
    /// `AVX-512 VNNI`, `AVX-VNNI`, `AVX2`, for bf16 without instructions of its own `AVX2, widened to f32`, or
    /// `plain loops`.
    pub fn product_path(self, format: WeightFormat) -> &'static str {
        TileKernel::choose(self, format).path
    }

    /// About how many rows had better go through all of a model's layers together where weights have a format: more of them leave
    /// the cache between layers, fewer compute for less time than the weights take to come.
    pub fn rows_together(self, format: WeightFormat) -> usize {
        TileKernel::choose(self, format).block_rows()
    }

    fn choose(asked: Option<&str>) -> Result<Isa, IsaError> {
        let Some(name) = asked.filter(|name| !name.is_empty()) else {
            return Ok(Isa::widest());
        };
        let found = Self::ALL.into_iter().find(|isa| isa.name() == name);
        let asked = found.ok_or_else(|| IsaError::Unknown { found: name.to_owned() })?;
        if asked.is_available() { Ok(asked) } else { Err(IsaError::Missing { asked }) }
    }

    fn widest() -> Isa {
        Isa::available().pop().unwrap_or(Isa::Scalar)
    }

    /// Refuses an instruction set that this machine lacks: what makes the kernels' safe functions sound.
    pub(crate) fn require(self) {
        assert!(self.is_available(), "this machine has no {}", self.name());
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Isa::Amx => Isa::Avx512.is_available() && crate::tile::has_tiles(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Isa::Scalar
    }
}

fn names(isas: &[Isa]) -> String {
    isas.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_product_is_named_by_its_instructions() {
        assert_eq!(Isa::Scalar.product_path(WeightFormat::Int8), "plain loops");
        for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Scalar) {
            let named = |format| isa.product_path(format);
            let wide = isa >= Isa::Avx512;
            assert_eq!(named(WeightFormat::F32), if wide { "AVX-512" } else { "AVX2" });
            assert_eq!(!named(WeightFormat::Bf16).contains("widened"), isa.has_bf16_products());
            assert_eq!(named(WeightFormat::Int8) == "AVX-VNNI", isa == Isa::AvxVnni);
            assert_eq!(named(WeightFormat::Bf16) == "AMX tiles", isa == Isa::Amx);
            // Weights are in eights just where plain AVX2 multiplies them, which cannot take others.
            assert_eq!(isa.int8_format() == WeightFormat::Int8InEights, named(isa.int8_format()) == "AVX2");
            assert_ne!(named(isa.int8_format()), "plain loops");
        }
    }

    #[test]
    fn an_instruction_set_is_chosen_by_name_and_nonsense_is_an_error() {
        for isa in Isa::available() {
            assert_eq!(Isa::choose(Some(isa.name())), Ok(isa));
        }
        assert_eq!(Isa::choose(None), Ok(Isa::widest()));
        assert_eq!(Isa::choose(Some("")), Ok(Isa::widest()));
        assert_eq!(Isa::choose(Some("sse9")), Err(IsaError::Unknown { found: "sse9".into() }));
        for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
            assert_eq!(Isa::choose(Some(isa.name())), Err(IsaError::Missing { asked: isa }));
        }
    }
}
