//! Settings that have several values: a TOML array, or one text for a file or a variable.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::value::{Setting, parse_setting};

/// A setting of which there may be several.
pub trait Several: Setting {
    /// The values in one text, each to be parsed.
    fn split(text: &str) -> Vec<String>;
}

/// Reads several values from a TOML array, or from one text. A text without any is no list but a slip.
pub(super) fn several<'de, T: Several, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(SeveralVisitor(PhantomData))
}

struct SeveralVisitor<T>(PhantomData<T>);

impl<'de, T: Several> Visitor<'de> for SeveralVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list of such", T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
        let parts = T::split(text);
        if parts.is_empty() {
            return Err(E::custom(parse_setting::<T>("").err().map_or(String::new(), |e| e.to_string())));
        }
        parts.iter().map(|part| parse_setting(part).map_err(E::custom)).collect()
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Vec<T>, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(text) = seq.next_element::<String>()? {
            values.push(parse_setting(&text).map_err(A::Error::custom)?);
        }
        Ok(values)
    }
}
