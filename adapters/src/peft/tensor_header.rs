//! The JSON of a safetensors header, with bounds on how much of it is kept.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize,
    de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Most tensors in one file.
const MAX_TENSORS: usize = 65_536;
/// Longest name of a tensor, in bytes.
const MAX_NAME_BYTES: usize = 512;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;
/// The one key that is no tensor: free text of the writer's.
const METADATA_KEY: &str = "__metadata__";

/// The tensors of a header, as it states them.
#[derive(Debug)]
pub(super) struct RawHeader {
    pub(super) tensors: BTreeMap<String, RawEntry>,
}

/// One tensor as the header states it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEntry {
    pub(super) dtype: String,
    pub(super) shape: Dimensions,
    /// First byte and first byte after, counted from the start of the data.
    pub(super) data_offsets: [u64; 2],
}

/// Widths, at most [`MAX_DIMENSIONS`] of them.
#[derive(Debug)]
pub(super) struct Dimensions(pub(super) Vec<u64>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut tensors = BTreeMap::new();
                let mut described = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name.len() > MAX_NAME_BYTES {
                        return Err(A::Error::custom(format_args!(
                            "found a tensor name of {} bytes, expected at most {MAX_NAME_BYTES}",
                            name.len()
                        )));
                    }
                    let twice = if name == METADATA_KEY {
                        map.next_value::<IgnoredAny>()?;
                        std::mem::replace(&mut described, true)
                    } else {
                        let entry = map.next_value::<RawEntry>();
                        let entry =
                            entry.map_err(|e| A::Error::custom(format_args!("tensor {name:?}: {e}")))?;
                        tensors.insert(name.clone(), entry).is_some()
                    };
                    if twice {
                        return Err(A::Error::custom(format_args!("the key {name:?} stands twice")));
                    }
                    if tensors.len() > MAX_TENSORS {
                        return Err(A::Error::custom(format_args!("found more than {MAX_TENSORS} tensors")));
                    }
                }
                Ok(RawHeader { tensors })
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DimensionsVisitor;
        impl<'de> Visitor<'de> for DimensionsVisitor {
            type Value = Dimensions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_DIMENSIONS} widths")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dimensions, A::Error> {
                let mut widths = vec![];
                while let Some(width) = seq.next_element()? {
                    if widths.len() == MAX_DIMENSIONS {
                        return Err(A::Error::invalid_length(MAX_DIMENSIONS + 1, &self));
                    }
                    widths.push(width);
                }
                Ok(Dimensions(widths))
            }
        }
        deserializer.deserialize_seq(DimensionsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> String {
        serde_json::from_str::<RawHeader>(text).unwrap_err().to_string()
    }

    #[test]
    fn a_malformed_entry_is_named() {
        let good = r#"{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}"#;
        assert!(serde_json::from_str::<RawHeader>(&format!("{{\"a\": {good}}}")).is_ok());
        assert!(reason(&format!("{{\"a\": {good}, \"a\": {good}}}")).contains("\"a\" stands twice"));
        let short = reason(r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}"#);
        assert!(short.contains("tensor \"a\"") && short.contains("length 1"), "{short}");
        let negative = reason(r#"{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}"#);
        assert!(negative.contains("tensor \"a\"") && negative.contains("-1"), "{negative}");
        let deep = reason(r#"{"a": {"dtype": "F32", "shape": [1,1,1,1,1,1,1,1,1], "data_offsets": [0, 4]}}"#);
        assert!(deep.contains("at most 8 widths"), "{deep}");
        let other = reason(r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": 1}}"#);
        assert!(other.contains("unknown field `more`"), "{other}");
        assert!(reason(&format!("{{\"{}\": {good}}}", "n".repeat(513))).contains("513 bytes"));
    }
}
