//! Which version of a name is meant.

use std::fmt;

use crate::{Digest, VersionId};

/// A version, as people and clients write it behind a name's `@`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// By number: `7`.
    Id(VersionId),
    /// By semantic version: `1.2.0` or `v1.2.0`.
    Label(semver::Version),
    /// By the beginning of its digest, at least eight digits: `#a7b1c2d3` or `sha256:a7b1…`.
    Digest(String),
}

/// Fewest digits of a digest that mean a version.
const FEWEST_DIGITS: usize = 8;

impl Selector {
    /// Reads a selector; `None` for a text that is none.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(digits) = text.strip_prefix('#').or_else(|| text.strip_prefix("sha256:")) {
            let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            let fits = (FEWEST_DIGITS..=64).contains(&digits.len());
            return (is_hex && fits).then(|| Self::Digest(digits.to_ascii_lowercase()));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().map(|id| Self::Id(VersionId(id)));
        }
        semver::Version::parse(text.strip_prefix('v').unwrap_or(text)).ok().map(Self::Label)
    }

    /// Cuts a selector off the end of a model's name: `law@1.2.0` is version 1.2.0 of `law`.
    pub fn split(name: &str) -> Option<(&str, Self)> {
        let (name, selector) = name.rsplit_once('@')?;
        Some((name, Self::parse(selector)?))
    }

    /// Whether a digest is meant.
    pub fn begins(&self, digest: Digest) -> bool {
        matches!(self, Self::Digest(digits) if digest.to_hex().starts_with(digits.as_str()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Label(label) => label.fmt(f),
            Self::Digest(digits) => write!(f, "#{digits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_a_number_a_version_or_a_digest_and_reads_back() {
        for (text, shown) in [
            ("7", "7"),
            ("1.2.0", "1.2.0"),
            ("v1.2.0-rc.1", "1.2.0-rc.1"),
            ("#A7B1C2D3", "#a7b1c2d3"),
            ("sha256:a7b1c2d3e4", "#a7b1c2d3e4"),
        ] {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(selector.to_string(), shown);
            assert_eq!(Selector::parse(shown), Some(selector));
        }
        for wrong in ["", "v", "v7", "1.2", "-1", "+1", "#a7b1c2d", "#xyzxyzxyz", "a7b1c2d3"] {
            assert_eq!(Selector::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_the_last_at_sign_begins_a_selector() {
        assert_eq!(Selector::split("a@b@3"), Some(("a@b", Selector::Id(VersionId(3)))));
        for whole in ["law", "law@", "law@home", "@"] {
            assert_eq!(Selector::split(whole), None, "{whole}");
        }
    }
}
