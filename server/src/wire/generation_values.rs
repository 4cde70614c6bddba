//! Values of a generation request that are no plain numbers, flags or texts.

use std::collections::BTreeMap;
use std::fmt;

use polylora_engine::TemplateValue;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

use super::numbers::Number;

/// Texts that end a copy: one, or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopTexts(pub Vec<String>);

/// What is added to the logits of token ids: an object of ids, which JSON writes as texts, and numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitBias(pub Vec<(u32, f32)>);

/// Variables of a chat template, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateKwargs(pub BTreeMap<String, TemplateValue>);

/// Whether a field that nothing here can honour asks for something: `null`, `false`, 0 and what is empty do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsupported(pub bool);

impl<'de> Deserialize<'de> for StopTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StopTextsVisitor)
    }
}

struct StopTextsVisitor;

impl<'de> Visitor<'de> for StopTextsVisitor {
    type Value = StopTexts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<StopTexts, E> {
        Ok(StopTexts(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<StopTexts, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = seq.next_element()? {
            texts.push(text);
        }
        Ok(StopTexts(texts))
    }
}

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LogitBiasVisitor)
    }
}

struct LogitBiasVisitor;

impl<'de> Visitor<'de> for LogitBiasVisitor {
    type Value = LogitBias;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of token ids and numbers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
        let mut biases = Vec::new();
        while let Some((TokenKey(id), Number(bias))) = map.next_entry()? {
            biases.push((id, bias));
        }
        Ok(LogitBias(biases))
    }
}

/// A token id that is a name in an object.
struct TokenKey(u32);

impl<'de> Deserialize<'de> for TokenKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TokenKeyVisitor)
    }
}

struct TokenKeyVisitor;

impl Visitor<'_> for TokenKeyVisitor {
    type Value = TokenKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object whose names are token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TokenKey, E> {
        text.trim().parse().map(TokenKey).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for TemplateKwargs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TemplateKwargsVisitor)
    }
}

struct TemplateKwargsVisitor;

impl<'de> Visitor<'de> for TemplateKwargsVisitor {
    type Value = TemplateKwargs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TemplateKwargs, A::Error> {
        let mut kwargs = BTreeMap::new();
        while let Some((name, value)) = map.next_entry()? {
            kwargs.insert(name, value);
        }
        Ok(TemplateKwargs(kwargs))
    }
}

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TemplateValue::deserialize(deserializer).map(|value| Self(value.is_true()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_is_a_text_or_a_list_of_texts() {
        let read = |text| serde_json::from_str::<StopTexts>(text).map(|texts| texts.0);
        assert_eq!(read(r#""a""#).expect("a text"), ["a"]);
        assert_eq!(read(r#"["a", "b"]"#).expect("a list"), ["a", "b"]);
        assert!(read("[]").expect("none").is_empty());
        for wrong in ["7", "{}", "[1]", "[[]]", "true"] {
            let error = read(wrong).expect_err(wrong).to_string();
            assert!(error.contains("expected a string"), "{error}");
        }
    }

    #[test]
    fn biases_are_read_by_token_id() {
        let read = |text| serde_json::from_str::<LogitBias>(text).map(|biases| biases.0);
        assert_eq!(read(r#"{"7": -100, " 8": 0.5}"#).expect("biases"), [(7, -100.0), (8, 0.5)]);
        for wrong in [r#"{"a": 1}"#, r#"{"-1": 1}"#, r#"{"1": "x"}"#, "[[1, 2]]", "7", r#"{"4294967296": 1}"#]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_asks_for_nothing_is_not_unsupported() {
        let read = |text| serde_json::from_str::<Unsupported>(text).expect("any value").0;
        for nothing in ["null", "false", "0", "\"\"", "[]", "{}"] {
            assert!(!read(nothing), "{nothing}");
        }
        for something in ["true", "1", "\"a\"", "[null]", "{\"a\": null}"] {
            assert!(read(something), "{something}");
        }
    }
}
