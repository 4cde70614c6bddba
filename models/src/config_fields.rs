//! Fields of a model's JSON files, read one by one, so that each refusal names the field, its value and what would be served.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{ModelError, json_file};

/// Longest part of a value that an error shows.
const SHOWN_CHARACTERS: usize = 120;

/// Most token ids that one field may list.
const MOST_IDS: usize = 64;

/// The fields of a JSON object in a file of a model directory.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFields {
    path: PathBuf,
    /// What stands before the names of these fields in errors: `rope_scaling.`.
    prefix: String,
    fields: Map<String, Value>,
}

impl ConfigFields {
    /// Reads `dir/name`; `None` when there is no such file.
    pub(crate) fn read(dir: &Path, name: &str) -> Result<Option<Self>, ModelError> {
        let fields = json_file::read::<Map<String, Value>>(dir, name)?;
        Ok(fields.map(|fields| Self { path: dir.join(name), prefix: String::new(), fields }))
    }

    /// Reads `text`, which a file of that name holds.
    ///
    /// # Errors
    /// The parser's words.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let fields = serde_json::from_str(text).map_err(|error| format!("it is no JSON object: {error}"))?;
        Ok(Self { path: name.into(), prefix: String::new(), fields })
    }

    /// All of them.
    pub(crate) fn into_fields(self) -> Map<String, Value> {
        self.fields
    }

    /// The fields as given, for a file at `path`.
    #[cfg(test)]
    pub(crate) fn of(path: &str, fields: Value) -> Self {
        let Value::Object(fields) = fields else { panic!("an object") };
        Self { path: path.into(), prefix: String::new(), fields }
    }

    /// Whether the field is there, be it null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// The value of a field; null counts as none.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// The object that a field holds.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self {
                path: self.path.clone(),
                prefix: format!("{}{name}.", self.prefix),
                fields: fields.clone(),
            })),
            Some(_) => self.refuse(name, "an object"),
        }
    }

    /// A whole number within `range`.
    pub(crate) fn size(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        match size.filter(|size| range.contains(size)) {
            Some(size) => Ok(Some(size)),
            None => self.refuse(name, &format!("a whole number, {} to {}", range.start(), range.end())),
        }
    }

    /// As [`Self::size`] for a field that has to be there.
    pub(crate) fn needed_size(&self, name: &str, range: RangeInclusive<usize>) -> Result<usize, ModelError> {
        let expected = format!("a whole number, {} to {}", range.start(), range.end());
        match self.size(name, range)? {
            Some(size) => Ok(size),
            None => self.refuse(name, &expected),
        }
    }

    /// A number within `range`.
    pub(crate) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => self.refuse(name, &format!("a number, {} to {}", range.start(), range.end())),
        }
    }

    /// As [`Self::number`] for a field that has to be there.
    pub(crate) fn needed_number(&self, name: &str, range: RangeInclusive<f64>) -> Result<f64, ModelError> {
        let expected = format!("a number, {} to {}", range.start(), range.end());
        match self.number(name, range)? {
            Some(number) => Ok(number),
            None => self.refuse(name, &expected),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => self.refuse(name, "true or false"),
        }
    }

    /// A string.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => self.refuse(name, "a string"),
        }
    }

    /// A list of strings, or one alone.
    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<&str>>, ModelError> {
        let texts = match self.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) => Some(vec![text.as_str()]),
            Some(Value::Array(texts)) => texts.iter().map(Value::as_str).collect(),
            Some(_) => None,
        };
        match texts {
            Some(texts) => Ok(Some(texts)),
            None => self.refuse(name, "a list of strings"),
        }
    }

    /// A token id or a list of them.
    pub(crate) fn token_ids(&self, name: &str) -> Result<Option<Vec<u32>>, ModelError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(name) {
            None => return Ok(None),
            Some(Value::Array(ids)) if ids.len() <= MOST_IDS => ids.iter().map(id).collect(),
            Some(one) => id(one).map(|id| vec![id]),
        };
        match ids {
            Some(ids) => Ok(Some(ids)),
            None => self.refuse(name, &format!("a token id, or a list of at most {MOST_IDS}")),
        }
    }

    /// The error that says that `name` is not what is served.
    pub(crate) fn refusal(&self, name: &str, expected: &str) -> ModelError {
        let found = match self.fields.get(name) {
            None => "missing".to_owned(),
            Some(Value::String(text)) => format!("`{}`", shortened(text)),
            Some(value) => shortened(&value.to_string()),
        };
        ModelError::Unsupported {
            path: self.path.clone(),
            field: format!("{}{name}", self.prefix),
            found,
            expected: expected.to_owned(),
        }
    }

    /// [`Self::refusal`] as a result.
    pub(crate) fn refuse<T>(&self, name: &str, expected: &str) -> Result<T, ModelError> {
        Err(self.refusal(name, expected))
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_says_file_field_value_and_what_would_do() {
        let fields = ConfigFields::of(
            "m/config.json",
            json!({"a": {"b": [1, "x"]}, "n": -1, "long": "y".repeat(500), "null": null}),
        );
        let inner = fields.object("a").expect("an object").expect("there");
        let message = inner.flag("b").expect_err("no flag").to_string();
        assert_eq!(message, "m/config.json: `a.b` is [1,\"x\"], supported: true or false");
        let message = fields.size("n", 1..=8).expect_err("negative").to_string();
        assert_eq!(message, "m/config.json: `n` is -1, supported: a whole number, 1 to 8");
        assert!(fields.needed_size("absent", 1..=8).expect_err("absent").to_string().contains("is missing"));
        assert!(fields.flag("long").expect_err("long").to_string().len() < 250);
        assert!(fields.has("null") && fields.get("null").is_none());
    }

    #[test]
    fn token_ids_are_one_or_a_list() {
        let fields = ConfigFields::of("g", json!({"one": 2, "two": [3, 4], "text": "2", "below": [-1]}));
        assert_eq!(fields.token_ids("one").expect("ids"), Some(vec![2]));
        assert_eq!(fields.token_ids("two").expect("ids"), Some(vec![3, 4]));
        assert_eq!(fields.token_ids("none").expect("ids"), None);
        assert!(fields.token_ids("text").is_err() && fields.token_ids("below").is_err());
    }
}
