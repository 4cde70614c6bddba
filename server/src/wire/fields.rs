//! Fields of a request whose wrong values are told in words that a client's author knows.

use std::fmt;
use std::marker::PhantomData;

use polylora_engine::TruncationSide;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use utoipa::ToSchema;

use crate::api_doc::ModelName;

/// How embeddings are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian f32 in base64, which openai-python asks for.
    Base64,
}

impl<'de> Deserialize<'de> for EncodingFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EncodingFormatVisitor)
    }
}

struct EncodingFormatVisitor;

impl Visitor<'_> for EncodingFormatVisitor {
    type Value = EncodingFormat;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#""float" or "base64""#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<EncodingFormat, E> {
        match text {
            "float" => Ok(EncodingFormat::Float),
            "base64" => Ok(EncodingFormat::Base64),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

/// A width to cut embeddings to; whether the model can give it, the engine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions(pub usize);

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DimensionsVisitor)
    }
}

struct DimensionsVisitor;

impl Visitor<'_> for DimensionsVisitor {
    type Value = Dimensions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number above 0")
    }

    fn visit_u64<E: Error>(self, found: u64) -> Result<Dimensions, E> {
        usize::try_from(found)
            .map(Dimensions)
            .map_err(|_| E::invalid_value(Unexpected::Unsigned(found), &self))
    }

    fn visit_f64<E: Error>(self, found: f64) -> Result<Dimensions, E> {
        match whole(found) {
            Some(number) => self.visit_i64(number),
            None => Err(E::invalid_value(Unexpected::Float(found), &self)),
        }
    }

    fn visit_i64<E: Error>(self, found: i64) -> Result<Dimensions, E> {
        usize::try_from(found).map(Dimensions).map_err(|_| E::invalid_value(Unexpected::Signed(found), &self))
    }
}

/// A limit of tokens, or -1 for the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLimit(pub i64);

impl<'de> Deserialize<'de> for TokenLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokenLimitVisitor)
    }
}

struct TokenLimitVisitor;

impl Visitor<'_> for TokenLimitVisitor {
    type Value = TokenLimit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of tokens, or -1")
    }

    fn visit_u64<E: Error>(self, found: u64) -> Result<TokenLimit, E> {
        i64::try_from(found).map(TokenLimit).map_err(|_| E::invalid_value(Unexpected::Unsigned(found), &self))
    }

    fn visit_f64<E: Error>(self, found: f64) -> Result<TokenLimit, E> {
        match whole(found) {
            Some(number) => self.visit_i64(number),
            None => Err(E::invalid_value(Unexpected::Float(found), &self)),
        }
    }

    fn visit_i64<E: Error>(self, found: i64) -> Result<TokenLimit, E> {
        Ok(TokenLimit(found))
    }
}

/// A whole number that was written with a fraction of zero, as JSON Schema's integers may be.
pub(super) fn whole(number: f64) -> Option<i64> {
    /// Above it f64 does not know every whole number.
    const LARGEST: f64 = (1_u64 << 53) as f64;
    (number.fract() == 0.0 && number.abs() <= LARGEST).then_some(number as i64)
}

/// The end of a text that is cut off, as text-embeddings-inference names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction(pub TruncationSide);

impl<'de> Deserialize<'de> for Direction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DirectionVisitor)
    }
}

struct DirectionVisitor;

impl Visitor<'_> for DirectionVisitor {
    type Value = Direction;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#""left" or "right""#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Direction, E> {
        match text {
            "left" | "Left" => Ok(Direction(TruncationSide::Left)),
            "right" | "Right" => Ok(Direction(TruncationSide::Right)),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

/// A JSON object within a body: a derived struct alone would take a list for one, field by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// vLLM's object for an adapter; its number is the server's to give, so what a client says of it is ignored.
#[derive(Clone, Debug, PartialEq, Eq, ToSchema)]
pub struct LoraRequest {
    /// The adapter.
    #[schema(value_type = ModelName)]
    pub lora_name: String,
    /// Its folder, to be loaded when the name is not known; only where adapters may be loaded at run time.
    pub lora_path: Option<String>,
}

impl<'de> Deserialize<'de> for LoraRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LoraRequestVisitor)
    }
}

struct LoraRequestVisitor;

/// A derived struct would take a list for an object, field by field; behind the visitor it only meets objects.
#[derive(Deserialize)]
struct LoraRequestFields {
    lora_name: String,
    #[serde(alias = "lora_local_path")]
    lora_path: Option<String>,
}

impl<'de> Visitor<'de> for LoraRequestVisitor {
    type Value = LoraRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with lora_name")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LoraRequest, A::Error> {
        let LoraRequestFields { lora_name, lora_path } =
            Deserialize::deserialize(MapAccessDeserializer::new(map))?;
        Ok(LoraRequest { lora_name, lora_path })
    }
}
