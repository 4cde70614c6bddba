//! The kinds of value that the flags of `polylora adapters` have.

use std::fmt;

use polylora_registry::{AdapterName, BasisPoints, Digest, Selector, VersionId};

use crate::settings::Setting;

/// An adapter, or one of its versions: `law`, `law@1.2.0`, or a version's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterRef(String);

impl AdapterRef {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name and version, where there is an `@` with a version behind it.
    pub fn split(&self) -> Option<(&str, Selector)> {
        Selector::split(&self.0)
    }

    /// The number, if it is one.
    pub fn number(&self) -> Option<VersionId> {
        match Selector::parse(&self.0)? {
            Selector::Id(id) => Some(id),
            Selector::Label(_) | Selector::Digest(_) => None,
        }
    }
}

impl fmt::Display for AdapterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Setting for AdapterRef {
    const EXPECTED: &'static str = "the name of an adapter, such as law or law@1.2.0, or a version's number";

    fn parse(text: &str) -> Option<Self> {
        let name = Selector::split(text).map_or(text, |(name, _)| name);
        AdapterName::new(name).ok().map(|_| Self(text.to_owned()))
    }
}

/// A part of a virtual adapter, as the user writes it: `law=0.5`.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// A name, perhaps with a version.
    pub adapter: AdapterRef,
    /// How much of its effect.
    pub weight: f32,
}

impl Setting for Part {
    const EXPECTED: &'static str = "an adapter and its weight, such as law=0.5 or law@1.2.0=-0.25";

    fn parse(text: &str) -> Option<Self> {
        let (adapter, weight) = text.rsplit_once('=')?;
        let weight = weight.trim().parse().ok().filter(|weight: &f32| weight.is_finite())?;
        Some(Self { adapter: AdapterRef::parse(adapter)?, weight })
    }
}

impl Setting for AdapterName {
    const EXPECTED: &'static str = "the name of an adapter: no separators of paths, no control characters";

    fn parse(text: &str) -> Option<Self> {
        Self::new(text).ok()
    }
}

impl Setting for Selector {
    const EXPECTED: &'static str = "a version such as 1.2.0, its number such as 7, or at least eight digits of its \
                                    digest such as #a7b1c2d3";

    fn parse(text: &str) -> Option<Self> {
        Self::parse(text.trim())
    }
}

impl Setting for semver::Version {
    const EXPECTED: &'static str = "a semantic version such as 1.2.0";

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        Self::parse(text.strip_prefix('v').unwrap_or(text)).ok()
    }
}

impl Setting for Digest {
    const EXPECTED: &'static str = "a digest of 64 hexadecimal digits, as `polylora adapters show` tells it";

    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }
}

impl Setting for BasisPoints {
    const EXPECTED: &'static str = "a percentage from 0 to 100";

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        Self::from_percent(text.strip_suffix('%').unwrap_or(text).trim_end().parse().ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_a_name_a_version_of_it_or_a_number() {
        let read = |text: &str| <AdapterRef as Setting>::parse(text);
        let law = read("law@1.2.0").expect("a version");
        assert_eq!(
            law.split().map(|(name, version)| (name, version.to_string())),
            Some(("law", "1.2.0".into()))
        );
        assert_eq!(read("7").and_then(|number| number.number()), Some(VersionId(7)));
        let whole = read("law").expect("a name");
        assert_eq!((whole.split(), whole.number()), (None, None));
        for wrong in ["", ".", "..", "a/b", "a\\b@1.0.0", "a\u{1b}b", "@7", "..@7"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_part_ends_with_its_weight() {
        let read =
            |text: &str| <Part as Setting>::parse(text).map(|part| (part.adapter.to_string(), part.weight));
        assert_eq!(read("law=0.5"), Some(("law".into(), 0.5)));
        assert_eq!(read("law@1.2.0=-1"), Some(("law@1.2.0".into(), -1.0)));
        assert_eq!(read("a=b=2"), Some(("a=b".into(), 2.0)));
        for wrong in ["law", "law=", "=1", "law=inf", "law=NaN", "law=1e99", "a/b=1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_share_may_have_its_sign() {
        let read = |text: &str| <BasisPoints as Setting>::parse(text).map(BasisPoints::percent);
        assert_eq!([read("10"), read("12.34 %"), read("100%")], [Some(10.0), Some(12.34), Some(100.0)]);
        assert_eq!([read("-1"), read("101"), read("%"), read("NaN")], [None; 4]);
    }
}
