//! What the flags of `polylora bench` take.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::settings::{DtypeChoice, Setting};

/// A number format that the CPU's own kernels compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchDtype {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// 8-bit integers for the weights of linear layers.
    Int8,
}

impl From<BenchDtype> for DtypeChoice {
    fn from(dtype: BenchDtype) -> Self {
        match dtype {
            BenchDtype::F32 => Self::F32,
            BenchDtype::Bf16 => Self::Bf16,
            BenchDtype::Int8 => Self::Int8,
        }
    }
}

impl Setting for BenchDtype {
    const EXPECTED: &'static str = "f32, bf16 or int8";

    fn parse(text: &str) -> Option<Self> {
        let choice = DtypeChoice::parse(text)?;
        [Self::F32, Self::Bf16, Self::Int8].into_iter().find(|dtype| DtypeChoice::from(*dtype) == choice)
    }
}

impl fmt::Display for BenchDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        DtypeChoice::from(*self).fmt(f)
    }
}

impl Serialize for BenchDtype {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How long one figure is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl Setting for Seconds {
    const EXPECTED: &'static str = "a number of seconds from 0.01 to 60";

    fn parse(text: &str) -> Option<Self> {
        let seconds: f64 = text.trim().parse().ok()?;
        (0.01..=60.0).contains(&seconds).then(|| Self(Duration::from_secs_f64(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_a_fraction_within_bounds() {
        assert_eq!(Seconds::parse(" 0.25"), Some(Seconds(Duration::from_millis(250))));
        for wrong in ["0", "0.001", "61", "-1", "NaN", "inf", "1s", ""] {
            assert_eq!(Seconds::parse(wrong), None, "{wrong}");
        }
    }
}
