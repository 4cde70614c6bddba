//! The field `input` of an embeddings request, in OpenAI's four shapes.

use std::fmt;

use polylora_engine::EmbedInput;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};

use super::fields::whole;

/// One or many inputs: a string, a list of strings, a list of token ids, or a list of lists of token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs(pub Vec<EmbedInput>);

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids or a list of lists of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Inputs, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Inputs, E> {
        Ok(Inputs(vec![EmbedInput::Text(text)]))
    }

    /// The first element says what the others must be.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Inputs, A::Error> {
        let inputs = match seq.next_element()? {
            None => Vec::new(),
            Some(Element::Text(first)) => {
                let mut inputs = vec![EmbedInput::Text(first)];
                while let Some(text) = seq.next_element()? {
                    inputs.push(EmbedInput::Text(text));
                }
                inputs
            }
            Some(Element::Token(first)) => {
                let mut tokens = vec![first];
                while let Some(TokenId(token)) = seq.next_element()? {
                    tokens.push(token);
                }
                vec![EmbedInput::Tokens(tokens)]
            }
            Some(Element::Tokens(first)) => {
                let mut inputs = vec![EmbedInput::Tokens(first)];
                while let Some(TokenIds(tokens)) = seq.next_element()? {
                    inputs.push(EmbedInput::Tokens(tokens));
                }
                inputs
            }
        };
        Ok(Inputs(inputs))
    }
}

enum Element {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or a list of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
        TokenIdVisitor.visit_u64(id).map(|TokenId(id)| Element::Token(id))
    }

    fn visit_f64<E: Error>(self, id: f64) -> Result<Element, E> {
        match whole(id) {
            Some(number) => self.visit_i64(number),
            None => Err(E::invalid_value(Unexpected::Float(id), &self)),
        }
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<Element, E> {
        TokenIdVisitor.visit_i64(id).map(|TokenId(id)| Element::Token(id))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Element, A::Error> {
        TokenIdsVisitor.visit_seq(seq).map(|TokenIds(ids)| Element::Tokens(ids))
    }
}

struct TokenId(u32);

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokenIdVisitor)
    }
}

struct TokenIdVisitor;

impl Visitor<'_> for TokenIdVisitor {
    type Value = TokenId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token id, which is a whole number from 0 to 4294967295")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<TokenId, E> {
        u32::try_from(id).map(TokenId).map_err(|_| E::invalid_value(Unexpected::Unsigned(id), &self))
    }

    fn visit_f64<E: Error>(self, id: f64) -> Result<TokenId, E> {
        match whole(id) {
            Some(number) => self.visit_i64(number),
            None => Err(E::invalid_value(Unexpected::Float(id), &self)),
        }
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<TokenId, E> {
        u32::try_from(id).map(TokenId).map_err(|_| E::invalid_value(Unexpected::Signed(id), &self))
    }
}

/// A list of token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds(pub Vec<u32>);

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokenIdsVisitor)
    }
}

struct TokenIdsVisitor;

impl<'de> Visitor<'de> for TokenIdsVisitor {
    type Value = TokenIds;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of token ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TokenIds, A::Error> {
        let mut ids = Vec::new();
        while let Some(TokenId(id)) = seq.next_element()? {
            ids.push(id);
        }
        Ok(TokenIds(ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Vec<EmbedInput>, String> {
        serde_json::from_str::<Inputs>(json).map(|inputs| inputs.0).map_err(|error| error.to_string())
    }

    fn texts(texts: &[&str]) -> Result<Vec<EmbedInput>, String> {
        Ok(texts.iter().map(|&text| EmbedInput::Text(text.into())).collect())
    }

    fn tokens(lists: &[&[u32]]) -> Result<Vec<EmbedInput>, String> {
        Ok(lists.iter().map(|&list| EmbedInput::Tokens(list.into())).collect())
    }

    #[test]
    fn the_four_shapes_are_read() {
        assert_eq!(parsed(r#""a \"b\" \u00e9""#), texts(&["a \"b\" é"]));
        assert_eq!(parsed(r#"["a", ""]"#), texts(&["a", ""]));
        assert_eq!(parsed("[1, 4294967295]"), tokens(&[&[1, u32::MAX]]));
        assert_eq!(parsed("[[1], [], [2, 3]]"), tokens(&[&[1], &[], &[2, 3]]));
        assert_eq!(parsed("[]"), Ok(vec![]));
        // As JSON Schema has it, a whole number is one however it is written.
        assert_eq!(parsed("[1.0, 2, 3e2]"), tokens(&[&[1, 2, 300]]));
        assert_eq!(parsed("[[1], [2.0]]"), tokens(&[&[1], &[2]]));
    }

    #[test]
    fn mixed_and_foreign_shapes_are_refused_with_what_was_expected() {
        for (json, said) in [
            (r#"["a", 1]"#, "expected a string"),
            (r#"[1, "a"]"#, "expected a token id"),
            ("[[1], 2]", "expected a list of token ids"),
            ("[1, [2]]", "expected a token id"),
            ("[-1]", "integer `-1`, expected a token id"),
            ("[4294967296]", "expected a token id"),
            ("[1.5]", "expected a string, a token id or a list"),
            ("[-1.0]", "expected a token id"),
            ("[1, 2.5]", "expected a token id"),
            ("[1e300]", "expected a string, a token id or a list"),
            ("[[[1]]]", "expected a token id"),
            ("{}", "expected a string, a list of strings"),
            ("7", "expected a string, a list of strings"),
            ("[null]", "expected a string, a token id or a list"),
        ] {
            let error = parsed(json).expect_err(json);
            assert!(error.contains(said), "{json}: {error}");
        }
    }
}
