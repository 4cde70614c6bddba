//! Content digests: the identity of weights, whatever they are called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// A text that is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found a text of {len} characters, expected a digest: 64 hexadecimal digits")]
pub struct DigestError {
    /// Its length in characters.
    pub len: usize,
}

impl Digest {
    /// Lower-case hex, 64 characters.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first eight digits, for people.
    pub fn short(self) -> String {
        self.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let error = || DigestError { len: text.chars().count() };
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", &self.to_hex()[..12])
    }
}

/// A SHA-256 over a sequence of fields, each preceded by its length as a little-endian u64: no two different
/// sequences feed the same bytes.
#[derive(Clone, Debug)]
pub struct DigestBuilder(Sha256);

impl DigestBuilder {
    /// Begins with `domain`, which says what the fields are.
    pub fn new(domain: &str) -> Self {
        Self(Sha256::new()).field(domain.as_bytes())
    }

    /// Adds a field.
    pub fn field(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a number as a field of eight bytes.
    pub fn number(self, number: u64) -> Self {
        self.field(&number.to_le_bytes())
    }

    /// The digest of all fields.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_one_field_ends_and_the_next_begins_matters() {
        let joined = DigestBuilder::new("t").field(b"ab").field(b"c").finish();
        let moved = DigestBuilder::new("t").field(b"a").field(b"bc").finish();
        let one = DigestBuilder::new("t").field(b"abc").finish();
        assert_ne!(joined, moved);
        assert_ne!(joined, one);
        assert_ne!(DigestBuilder::new("t").finish(), DigestBuilder::new("u").finish());
    }

    #[test]
    fn the_digest_is_sha256_of_length_prefixed_fields() {
        let bytes = [&1u64.to_le_bytes()[..], b"t", &2u64.to_le_bytes(), b"ab"].concat();
        let expected: [u8; 32] = Sha256::digest(bytes).into();
        assert_eq!(DigestBuilder::new("t").field(b"ab").finish(), Digest(expected));
    }

    #[test]
    fn a_digest_is_read_as_it_is_written_and_nothing_else_is_one() {
        let digest = DigestBuilder::new("t").finish();
        assert_eq!(digest.to_hex().parse(), Ok(digest));
        assert_eq!(digest.to_hex().to_uppercase().parse(), Ok(digest));
        assert!(digest.to_hex().starts_with(&digest.short()) && digest.short().len() == 8);
        for wrong in ["", "00", &"+1".repeat(32), &"é".repeat(32), &digest.to_hex()[..63]] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
