//! Typed access to the fields of adapter_config.json, with errors that name the field.

use std::path::Path;

use super::json::Json;
use crate::{AdapterError, error::excerpt};

/// The fields of one configuration. A field that is null counts as absent, as for PEFT's dataclasses.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    file: &'a Path,
    fields: Vec<(String, Json)>,
}

impl<'a> Fields<'a> {
    /// Parses the configuration that `bytes` of `file` hold.
    pub(super) fn parse(file: &'a Path, bytes: &[u8]) -> Result<Self, AdapterError> {
        let not_json = |reason: String| AdapterError::ConfigNotJson { file: file.to_owned(), reason };
        match serde_json::from_slice(bytes).map_err(|e| not_json(excerpt(&e.to_string())))? {
            Json::Object(fields) => Ok(Self { file, fields }),
            other => Err(not_json(format!("found {other}"))),
        }
    }

    /// All fields in the order of the file.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The value of `field` unless it is absent or null.
    pub(super) fn get(&self, field: &str) -> Option<&Json> {
        self.iter().find(|(name, _)| *name == field).map(|(_, value)| value).filter(|v| **v != Json::Null)
    }

    /// A field that must be there.
    pub(super) fn required(&self, field: &str, expected: &'static str) -> Result<&Json, AdapterError> {
        self.get(field).ok_or_else(|| AdapterError::FieldMissing {
            file: self.file.to_owned(),
            field: field.to_owned(),
            expected,
        })
    }

    /// A switch; absent is off.
    pub(super) fn switch(&self, field: &str) -> Result<bool, AdapterError> {
        match self.get(field) {
            None => Ok(false),
            Some(Json::Bool(value)) => Ok(*value),
            Some(other) => Err(self.invalid(field, other, "true or false")),
        }
    }

    /// A text.
    pub(super) fn text(&self, field: &str) -> Result<Option<&str>, AdapterError> {
        match self.get(field) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.invalid(field, other, "a string")),
        }
    }

    /// A map; absent is empty.
    pub(super) fn map(&self, field: &str) -> Result<&[(String, Json)], AdapterError> {
        match self.get(field) {
            None => Ok(&[]),
            Some(Json::Object(fields)) => Ok(fields),
            Some(other) => Err(self.invalid(field, other, "an object from module patterns to numbers")),
        }
    }

    /// `value`, of `field`, as a rank of at most `max`.
    pub(super) fn rank(&self, field: &str, value: &Json, max: usize) -> Result<usize, AdapterError> {
        let Json::Integer(rank) = value else {
            return Err(self.invalid(field, value, format!("an integer from 1 to {max}")));
        };
        match usize::try_from(*rank) {
            Ok(rank) if (1..=max).contains(&rank) => Ok(rank),
            _ => Err(AdapterError::RankOutOfRange {
                file: self.file.to_owned(),
                field: field.to_owned(),
                found: rank.to_string(),
                max,
            }),
        }
    }

    /// `value`, of `field`, as a number.
    pub(super) fn number(&self, field: &str, value: &Json) -> Result<f64, AdapterError> {
        match value {
            Json::Integer(value) => Ok(*value as f64),
            Json::Float(value) => Ok(*value),
            other => Err(self.invalid(field, other, "a number")),
        }
    }

    /// `value`, of `field`, as texts; `expected` says what else it may be.
    pub(super) fn texts(
        &self,
        field: &str,
        value: &Json,
        expected: &str,
    ) -> Result<Vec<String>, AdapterError> {
        let Json::List(list) = value else { return Err(self.invalid(field, value, expected)) };
        let texts = list.iter().map(|element| match element {
            Json::Text(text) => Ok(text.clone()),
            _ => Err(self.invalid(field, value, expected)),
        });
        texts.collect()
    }

    /// The refusal of `found` in `field`.
    pub(super) fn invalid(&self, field: &str, found: &Json, expected: impl Into<String>) -> AdapterError {
        AdapterError::FieldInvalid {
            file: self.file.to_owned(),
            field: field.to_owned(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// The refusal of `found` in `field`, which is known but not computed.
    pub(super) fn unsupported(&self, field: &str, found: &Json, reason: &'static str) -> AdapterError {
        AdapterError::FieldUnsupported {
            file: self.file.to_owned(),
            field: field.to_owned(),
            found: found.to_string(),
            reason,
        }
    }
}
