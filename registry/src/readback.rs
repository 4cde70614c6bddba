//! Whether what is to be stored reads back as it was: JSON has no infinities, and its reader a bound on depth. An event
//! that were written and not read would take the whole record with it at the next start.

use serde_json::Value;

use crate::{About, Change, ChangeError, Source};

/// Deepest value of what is said of a version. The reader gives up at 128, and a snapshot is some levels deep itself.
const MAX_DEPTH: usize = 64;

impl Change {
    pub(crate) fn reads_back(&self) -> Result<(), ChangeError> {
        match self {
            Self::Register(new) => {
                if let Source::Virtual { parts } = &new.source {
                    finite(parts.iter().map(|part| f64::from(part.weight)), || {
                        "the weight of a part".to_owned()
                    })?;
                }
                said(&new.about)
            }
            Self::Describe { about, .. } => said(about),
            Self::Probe { probe, .. } => finite(probe.iter().map(|value| f64::from(*value)), || {
                "the embedding of the probe".to_owned()
            }),
            Self::Promote { .. }
            | Self::Rollback { .. }
            | Self::Split { .. }
            | Self::EndSplit { .. }
            | Self::Retire { .. }
            | Self::Delete { .. }
            | Self::Pin { .. }
            | Self::Fault { .. } => Ok(()),
        }
    }
}

fn said(about: &About) -> Result<(), ChangeError> {
    for (key, threshold) in &about.thresholds {
        finite([*threshold].into_iter(), || format!("threshold {key:?}"))?;
    }
    match about.training.iter().chain(&about.custom).find(|(_, value)| !fits(value, MAX_DEPTH)) {
        Some((key, _)) => {
            let (what, expected) =
                (format!("the value of {key:?}"), "at most 64 lists and maps in one another");
            Err(ChangeError::Unstorable { what, expected })
        }
        None => Ok(()),
    }
}

fn finite(mut values: impl Iterator<Item = f64>, what: impl FnOnce() -> String) -> Result<(), ChangeError> {
    match values.all(f64::is_finite) {
        true => Ok(()),
        false => Err(ChangeError::Unstorable { what: what(), expected: "finite numbers" }),
    }
}

fn fits(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => depth > 0 && items.iter().all(|item| fits(item, depth - 1)),
        Value::Object(items) => depth > 0 && items.values().all(|item| fits(item, depth - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}
