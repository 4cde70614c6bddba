//! One parser for a setting, whether it comes from a file, a variable or a flag.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// A value that a setting can have.
pub trait Setting: Sized {
    /// What is expected, to be read after "expected".
    const EXPECTED: &'static str;
    /// Whether messages may show what was found.
    const SECRET: bool = false;
    /// The value that the text stands for, or `None`.
    fn parse(text: &str) -> Option<Self>;
}

/// A text that is no value of its setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found `{found}`, expected {expected}")]
pub struct ValueError {
    /// What was found, hidden where it may be a secret.
    pub found: String,
    /// What was expected.
    pub expected: &'static str,
}

/// Parses a setting from text.
///
/// # Errors
/// [`ValueError`] with what was found and what was expected.
pub fn parse_setting<T: Setting>(text: &str) -> Result<T, ValueError> {
    T::parse(text).ok_or_else(|| ValueError {
        found: if T::SECRET { "…".into() } else { text.escape_debug().take(200).collect() },
        expected: T::EXPECTED,
    })
}

macro_rules! setting_from_str {
    ($($type:ty: $expected:literal),* $(,)?) => {$(
        impl Setting for $type {
            const EXPECTED: &'static str = $expected;
            fn parse(text: &str) -> Option<Self> {
                text.trim().parse().ok()
            }
        }
    )*};
}

setting_from_str! {
    bool: "true or false",
    u16: "a port number from 0 to 65535",
    u64: "a whole number of seconds",
    NonZeroUsize: "a whole number from 1",
}

impl Setting for String {
    const EXPECTED: &'static str = "a text that is not empty";
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }
}

/// Reads a setting from a TOML string, number or boolean.
pub(super) fn scalar<'de, T: Setting, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(ScalarVisitor(PhantomData))
}

/// Reads a setting that has no default.
pub(super) fn optional<'de, T: Setting, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    scalar(deserializer).map(Some)
}

/// Reads a list of names from a TOML array, or from one string with commas.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    deserializer.deserialize_any(ListVisitor)
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: Setting> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        parse_setting(text).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of names, or names with commas between them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<String>, E> {
        text.split(',').map(|name| parse_setting(name).map_err(E::custom)).collect()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = seq.next_element::<String>()? {
            names.push(parse_setting(&name).map_err(A::Error::custom)?);
        }
        Ok(names)
    }
}
