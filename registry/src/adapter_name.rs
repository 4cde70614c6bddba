//! The name of an adapter: what clients say, and one path component on disk.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest name, in bytes: what file systems allow for one path component.
pub const MAX_NAME_BYTES: usize = 255;

/// A name that is safe to show, to log and to compare: one path component without control characters.
///
/// It is only ever a key. No path is built from a client's words.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterName(Arc<str>);

/// Why a name is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or a name that means a folder's own place.
    #[error("name {found:?}: expected a name of its own")]
    NotAName {
        /// What was found.
        found: String,
    },
    /// Too long.
    #[error("a name of {bytes} bytes: expected at most {MAX_NAME_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A character that separates paths or controls a terminal.
    #[error("name {found:?}: has {character:?}, expected neither separators nor control characters")]
    Character {
        /// What was found.
        found: String,
        /// The first such character.
        character: char,
    },
    /// A folder's name that would be taken for a version of another adapter.
    #[error(
        "name {found:?}: ends like a version (`@…`), which requests put behind an adapter's name: rename the folder"
    )]
    LikeAVersion {
        /// What was found.
        found: String,
    },
    /// Bytes that are not UTF-8.
    #[error("name {found}: expected UTF-8")]
    NotUtf8 {
        /// What was found, with the bytes escaped.
        found: String,
    },
}

impl AdapterName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError`] with what was found.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong { bytes: name.len() });
        }
        if matches!(name, "" | "." | "..") {
            return Err(NameError::NotAName { found: name.to_owned() });
        }
        match name.chars().find(|c| c.is_control() || matches!(c, '/' | '\\')) {
            Some(character) => Err(NameError::Character { found: name.to_owned(), character }),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for AdapterName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for AdapterName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AdapterName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl fmt::Display for AdapterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AdapterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn names_of_every_script_pass_up_to_the_last_byte() {
        for name in ["qv_r8", "法律", "a b", "v1.2", "..x", &"é".repeat(127)] {
            assert_eq!(AdapterName::new(name).map(|n| n.to_string()), Ok(name.to_owned()));
        }
        let long = "é".repeat(128);
        assert_eq!(AdapterName::new(&long), Err(NameError::TooLong { bytes: 256 }));
    }

    proptest! {
        #[test]
        fn a_name_is_one_path_component_without_control_characters(text in "[\\PC./\\\\\n\u{1b}a]{0,6}") {
            let one_component = {
                let mut parts = Path::new(&text).components();
                matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == &*text)
            };
            let plain = one_component && !text.contains('\\') && !text.chars().any(char::is_control);
            prop_assert_eq!(AdapterName::new(&text).is_ok(), plain);
        }
    }
}
