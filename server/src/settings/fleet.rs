//! The kinds of value that say how adapters are kept and who may change them.

use std::path::PathBuf;

use polylora_engine::OnAdapterError;

use super::value::Setting;

/// Where the registry is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateDir(pub Option<PathBuf>);

impl Setting for StateDir {
    const EXPECTED: &'static str = "a folder, or none for a registry that ends with the process";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "" => None,
            "none" => Some(Self(None)),
            path => Some(Self(Some(path.into()))),
        }
    }
}

/// Which adapters are loaded before the server is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterWarmup {
    /// None: each is loaded by its first request.
    #[default]
    None,
    /// All of them, as far as there is room.
    All,
    /// Those that were asked for most.
    Top(usize),
}

impl AdapterWarmup {
    /// So many at most.
    pub fn most(self) -> usize {
        match self {
            Self::None => 0,
            Self::All => usize::MAX,
            Self::Top(most) => most,
        }
    }
}

impl Setting for AdapterWarmup {
    const EXPECTED: &'static str = "none, all, or top:N for the N that were asked for most";

    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "none" => Some(Self::None),
            "all" => Some(Self::All),
            text => text.strip_prefix("top:")?.parse().ok().map(Self::Top),
        }
    }
}

/// What a request gets whose adapter cannot be loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterErrorChoice(pub OnAdapterError);

impl Setting for AdapterErrorChoice {
    const EXPECTED: &'static str = "error or base";

    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "error" => Some(Self(OnAdapterError::Error)),
            "base" => Some(Self(OnAdapterError::Base)),
            _ => None,
        }
    }
}

/// How many times worse a candidate may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor(pub f64);

impl Setting for Factor {
    const EXPECTED: &'static str = "a number from 1 to 1000";

    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok().filter(|factor| (1.0..=1000.0).contains(factor)).map(Self)
    }
}

/// The name of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField(pub axum::http::HeaderName);

impl Default for HeaderField {
    fn default() -> Self {
        Self(axum::http::HeaderName::from_static("x-polylora-user"))
    }
}

impl Setting for HeaderField {
    const EXPECTED: &'static str = "the name of a header";

    fn parse(text: &str) -> Option<Self> {
        text.trim().to_ascii_lowercase().parse().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_dir_may_be_none_and_a_warm_up_has_three_forms() {
        assert_eq!(StateDir::parse("none"), Some(StateDir(None)));
        assert_eq!(StateDir::parse("/var/lib/p"), Some(StateDir(Some("/var/lib/p".into()))));
        assert_eq!(StateDir::parse(""), None);
        let warm_ups = ["none", "all", "top:7", "top:", "top:-1", "some"].map(AdapterWarmup::parse);
        let (none, all, top) = (AdapterWarmup::None, AdapterWarmup::All, AdapterWarmup::Top(7));
        assert_eq!(warm_ups, [Some(none), Some(all), Some(top), None, None, None]);
    }

    #[test]
    fn what_is_no_factor_or_header_is_refused() {
        for wrong in ["0.9", "NaN", "inf", "1001", ""] {
            assert_eq!(Factor::parse(wrong), None, "{wrong}");
        }
        assert_eq!(HeaderField::parse("X-User"), HeaderField::parse("x-user"));
        assert_eq!(HeaderField::parse("x user"), None);
    }
}
