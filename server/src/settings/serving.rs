//! The kinds of value that say how requests become batches.

use std::fmt;
use std::time::Duration;

use polylora_engine::{Batching, Mode};

use super::ByteSize;
use super::value::Setting;

/// Which of the ways to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeChoice {
    /// One text at a time.
    Serial,
    /// One text at a time on each of several instances.
    Pooled,
    /// The texts of many requests together.
    Batched,
}

impl Setting for ModeChoice {
    const EXPECTED: &'static str = "serial, pooled or batched";

    fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "serial" => Some(Self::Serial),
            "pooled" => Some(Self::Pooled),
            "batched" => Some(Self::Batched),
            _ => None,
        }
    }
}

impl ModeChoice {
    /// The engine's way, with `batching` where there are batches.
    pub fn with(self, batching: BatchingChoice) -> Mode {
        match self {
            Self::Serial => Mode::Serial,
            Self::Pooled => Mode::Pooled,
            Self::Batched => Mode::Batched(batching.0),
        }
    }
}

/// Whose texts share a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchingChoice(pub Batching);

impl Setting for BatchingChoice {
    const EXPECTED: &'static str = "mixed or per-domain";

    fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "mixed" => Some(Self(Batching::Mixed)),
            "per-domain" | "per_domain" => Some(Self(Batching::PerDomain)),
            _ => None,
        }
    }
}

/// A part of something, above nothing and up to all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

impl Setting for Share {
    const EXPECTED: &'static str = "a number above 0 and up to 1";

    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok().filter(|share: &f64| *share > 0.0 && *share <= 1.0).map(Self)
    }
}

/// A time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Milliseconds(pub u64);

impl Milliseconds {
    /// More is a slip of the pen: nobody wants to wait so long.
    const MOST: u64 = 60_000;

    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl Setting for Milliseconds {
    const EXPECTED: &'static str = "a whole number of milliseconds from 0 to 60000";

    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok().filter(|&millis| millis <= Self::MOST).map(Self)
    }
}

/// Bytes of a cache that may be off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheBytes(pub u64);

impl Setting for CacheBytes {
    const EXPECTED: &'static str = "0 for no cache, or a number of bytes, with a unit or without";

    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "0" => Some(Self(0)),
            text => ByteSize::parse(text).map(|size| Self(size.0)),
        }
    }
}

impl fmt::Display for CacheBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_has_its_batching_only_where_there_are_batches() {
        let per_domain = BatchingChoice::parse("Per-Domain").expect("a batching");
        let mode = |text| ModeChoice::parse(text).map(|mode| mode.with(per_domain));
        assert_eq!(mode("serial"), Some(Mode::Serial));
        assert_eq!(mode("pooled"), Some(Mode::Pooled));
        assert_eq!(mode("batched"), Some(Mode::Batched(Batching::PerDomain)));
        assert_eq!(mode("parallel"), None);
        assert_eq!(BatchingChoice::parse("none"), None);
    }

    #[test]
    fn a_tick_and_a_cache_may_be_nothing() {
        assert_eq!(Milliseconds::parse("0"), Some(Milliseconds(0)));
        assert_eq!(Milliseconds::parse("60001"), None);
        assert_eq!(Milliseconds::parse("1.5"), None);
        assert_eq!(CacheBytes::parse("0"), Some(CacheBytes(0)));
        assert_eq!(CacheBytes::parse("64MiB"), Some(CacheBytes(64 << 20)));
        assert_eq!(CacheBytes::parse("-1"), None);
    }
}
