//! Content digests: the identity of weights, whatever they are called.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Lower-case hex, 64 characters.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// First field of every digest: another layout of fields gets another string, so that digests of different layouts
/// never meet in one cache.
const ADAPTER_DOMAIN: &str = "polylora adapter content, layout 1";

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

/// The digest of an adapter over `base`: add each site in the order of its name, each tensor in the order of its
/// kind.
#[derive(Debug)]
pub(crate) struct AdapterDigest(DigestBuilder);

impl AdapterDigest {
    pub(crate) fn new(base: Digest, sites: usize) -> Self {
        Self(DigestBuilder::new(ADAPTER_DOMAIN).field(&base.0).number(sites as u64))
    }

    /// Begins the site `name`, whose effective scale is `scale` and which brings `tensors` tensors.
    pub(crate) fn site(&mut self, name: &str, scale: f32, tensors: usize) {
        self.update(|d| {
            d.field(name.as_bytes()).field(&scale.to_bits().to_le_bytes()).number(tensors as u64)
        });
    }

    /// Adds a tensor of the site that was begun last: its bytes as the file has them.
    pub(crate) fn tensor(&mut self, kind: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        self.update(|d| {
            let d = d.field(kind.as_bytes()).field(dtype.as_bytes()).number(shape.len() as u64);
            shape.iter().fold(d, |d, &width| d.number(width as u64)).field(bytes)
        });
    }

    pub(crate) fn finish(self) -> Digest {
        self.0.finish()
    }

    fn update(&mut self, add: impl FnOnce(DigestBuilder) -> DigestBuilder) {
        let builder = std::mem::replace(&mut self.0, DigestBuilder(Sha256::new()));
        self.0 = add(builder);
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
}
