//! What came of an action: JSON as the API has it, and typed where it is shown to people.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{AdaptersCommandError, Entry, HealthList, display};

/// What came of an action.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What was asked, for errors.
    asked: String,
    value: Value,
    /// Versions that were checked, and those of them that are not well.
    tally: Option<(usize, usize)>,
}

impl Answer {
    /// An answer to `asked`.
    pub fn new(asked: impl Into<String>, value: Value) -> Self {
        Self { asked: asked.into(), value, tally: None }
    }

    /// Versions as the API lists them.
    pub fn list(asked: &str, entries: &[impl Serialize]) -> Self {
        Self::new(asked, json!({ "adapters": entries, "total": entries.len() }))
    }

    /// The health of versions, each as the API tells it.
    ///
    /// # Errors
    /// [`AdaptersCommandError::Unexpected`] when it is not as the API has it.
    pub fn of_health(asked: &str, reports: Vec<Value>) -> Result<Self, AdaptersCommandError> {
        let list = json!({ "healthy": true, "adapters": reports });
        let mut answer = Self::new(asked, list);
        let adapters = answer.health()?.adapters;
        let ill = adapters.iter().filter(|health| !health.healthy).count();
        answer.value["healthy"] = (ill == 0).into();
        answer.tally = Some((adapters.len(), ill));
        Ok(answer)
    }

    /// The JSON.
    pub fn into_value(self) -> Value {
        self.value
    }

    /// The JSON, indented.
    pub fn to_json(&self) -> String {
        display::json(&self.value)
    }

    /// Whether what was checked is well.
    ///
    /// # Errors
    /// [`AdaptersCommandError::Unhealthy`] when it is not.
    pub fn verdict(&self) -> Result<(), AdaptersCommandError> {
        match self.tally {
            Some((checked, ill)) if ill > 0 => Err(AdaptersCommandError::Unhealthy { ill, checked }),
            _ => Ok(()),
        }
    }

    /// The answer as one version.
    ///
    /// # Errors
    /// [`AdaptersCommandError::Unexpected`] when it is none.
    pub fn entry(&self) -> Result<Entry, AdaptersCommandError> {
        self.typed(&self.value, "")
    }

    /// The answer as the health of versions.
    ///
    /// # Errors
    /// [`AdaptersCommandError::Unexpected`] when it is not.
    pub fn health(&self) -> Result<HealthList, AdaptersCommandError> {
        self.typed(&self.value, "")
    }

    /// The versions that the answer has under `key`.
    ///
    /// # Errors
    /// [`AdaptersCommandError::Unexpected`] when it has none.
    pub fn entries(&self, key: &str) -> Result<Vec<Entry>, AdaptersCommandError> {
        match self.value.get(key) {
            Some(value) => self.typed(value, key),
            None => Err(self.unexpected(format!("`{key}` is missing"))),
        }
    }

    fn typed<T: DeserializeOwned>(&self, value: &Value, key: &str) -> Result<T, AdaptersCommandError> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = match (key, error.path().to_string()) {
                (key, path) if path == "." => key.to_owned(),
                ("", path) => path,
                (key, path) if path.starts_with('[') => format!("{key}{path}"),
                (key, path) => format!("{key}.{path}"),
            };
            let place = if path.is_empty() { String::new() } else { format!("`{path}`: ") };
            self.unexpected(format!("{place}{}", error.inner()))
        })
    }

    fn unexpected(&self, reason: String) -> AdaptersCommandError {
        AdaptersCommandError::Unexpected { request: self.asked.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters_command::fakes::entry;

    fn said<T: std::fmt::Debug>(result: Result<T, AdaptersCommandError>) -> String {
        result.expect_err("an error").to_string()
    }

    #[test]
    fn what_a_reply_lacks_is_said_with_its_place() {
        let mut value = json!({ "adapters": [entry("law", 1)], "total": 1 });
        value["adapters"][0]["id"] = "seven".into();
        let answer = Answer::new("GET /x", value);
        let start = "the reply to GET /x is unexpected: ";
        assert!(
            said(answer.entries("adapters")).starts_with(&format!("{start}`adapters[0].id`: invalid type")),
            "{}",
            said(answer.entries("adapters"))
        );
        assert_eq!(said(answer.entries("deleted")), format!("{start}`deleted` is missing"));
        assert_eq!(said(answer.entry()), format!("{start}missing field `adapter_id`"));
        for odd in [json!(null), json!([]), json!("x\u{1b}"), json!(7), json!({ "adapters": 3 })] {
            let answer = Answer::new("GET /x", odd);
            let texts = [said(answer.entry()), said(answer.health()), said(answer.entries("adapters"))];
            assert!(texts.iter().all(|text| !text.contains('\u{1b}')), "{texts:?}");
        }
    }

    #[test]
    fn a_newer_server_may_say_more() {
        let mut value = serde_json::to_value(entry("law", 1)).expect("JSON");
        value["new_field"] = json!({ "a": 1 });
        value["metrics"]["new_figure"] = 1.into();
        assert_eq!(Answer::new("GET /x", value).entry().expect("an entry"), entry("law", 1));
    }

    #[test]
    fn one_that_is_ill_makes_the_verdict() {
        let report =
            |healthy| json!({ "adapter_id": "a", "tag": "t", "healthy": healthy, "checks": [], "more": 1 });
        let well = Answer::of_health("x", vec![report(true)]).expect("health");
        assert!(well.verdict().is_ok() && well.to_json().contains("\"more\": 1"));
        let ill = Answer::of_health("x", vec![report(true), report(false)]).expect("health");
        assert!(matches!(ill.verdict(), Err(AdaptersCommandError::Unhealthy { ill: 1, checked: 2 })));
        assert!(!ill.health().expect("health").healthy);
        assert!(Answer::of_health("x", vec![json!({ "healthy": "yes" })]).is_err());
        assert!(Answer::of_health("x", vec![]).is_ok_and(|none| none.verdict().is_ok()));
    }
}
