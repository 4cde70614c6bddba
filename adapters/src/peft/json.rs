//! JSON as an adapter's files need it: the order of keys kept, doubled keys refused.
//!
//! Order matters because the first key of a pattern map that matches wins; a key that stands twice means one thing
//! to one reader and another to the next.

use std::{collections::HashSet, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// How many characters of a string an error message shows.
const SHOWN_CHARACTERS: usize = 80;
/// How many elements of a list an error message shows.
const SHOWN_ELEMENTS: usize = 8;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Whether the value switches something on: everything but null, false and emptiness.
    pub(super) fn is_set(&self) -> bool {
        match self {
            Json::Null | Json::Bool(false) => false,
            Json::Text(text) => !text.is_empty(),
            Json::List(list) => !list.is_empty(),
            Json::Object(fields) => !fields.is_empty(),
            Json::Bool(true) | Json::Integer(_) | Json::Float(_) => true,
        }
    }
}

/// The value as an error message shows it: short, strings quoted.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Integer(value) => write!(f, "{value}"),
            Json::Float(value) => write!(f, "{value:?}"),
            Json::Text(text) => match text.char_indices().nth(SHOWN_CHARACTERS) {
                Some((cut, _)) => write!(f, "{:?} (and more)", &text[..cut]),
                None => write!(f, "{text:?}"),
            },
            Json::List(list) => {
                f.write_str("[")?;
                for (i, value) in list.iter().take(SHOWN_ELEMENTS).enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    match value {
                        Json::List(_) => write!(f, "{comma}a list")?,
                        other => write!(f, "{comma}{other}")?,
                    }
                }
                f.write_str(if list.len() > SHOWN_ELEMENTS { ", and more]" } else { "]" })
            }
            Json::Object(fields) => write!(f, "an object of {} fields", fields.len()),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = vec![];
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let (mut fields, mut seen) = (vec![], HashSet::new());
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("the key {} stands twice", Json::Text(key))));
            }
            fields.push((key, map.next_value()?));
        }
        Ok(Json::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_keep_the_order_of_the_file_and_refuse_a_key_twice() {
        let keys = |text: &str| match serde_json::from_str::<Json>(text) {
            Ok(Json::Object(fields)) => Ok(fields.into_iter().map(|f| f.0).collect::<Vec<_>>()),
            Ok(other) => panic!("{other}"),
            Err(e) => Err(e.to_string()),
        };
        assert_eq!(keys(r#"{"z": 1, "a": {"x": null}, "m": [1.5, true]}"#).unwrap(), ["z", "a", "m"]);
        assert!(keys(r#"{"z": 1, "a": 2, "z": 3}"#).unwrap_err().contains("\"z\" stands twice"));
        assert!(keys(r#"{"q": {"a": 2, "a": 3}}"#).unwrap_err().contains("\"a\" stands twice"));
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_stack_overflow() {
        let text = "[".repeat(100_000);
        assert!(serde_json::from_str::<Json>(&text).unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn a_shown_value_is_short_and_on_one_line() {
        let long = Json::List(vec![Json::Text("a\nb".repeat(1000)); 50]);
        let shown = long.to_string();
        assert!(!shown.contains('\n') && shown.len() < 2000, "{}", shown.len());
    }
}
