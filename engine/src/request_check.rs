//! What can be said of a request before any work is done for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{EmbedError, EmbedInput, EmbedRequest};

/// What requests are judged against.
#[derive(Debug)]
pub(crate) struct RequestCheck {
    /// Inputs in one request.
    pub(crate) max_inputs: usize,
    /// Characters in one text.
    pub(crate) max_chars: usize,
    /// Width of the model's embeddings.
    pub(crate) dimensions: usize,
    /// The model's prompts.
    pub(crate) prompts: BTreeMap<String, Arc<str>>,
    /// What goes in front of a text when no prompt is named.
    pub(crate) default_prompt: Option<Arc<str>>,
}

impl RequestCheck {
    /// Checks number, emptiness and length of the inputs, then `dimensions`, then the prompt's name; gives the prompt.
    pub(crate) fn check(&self, request: &EmbedRequest) -> Result<Option<Arc<str>>, EmbedError> {
        let found = request.inputs.len();
        if found == 0 {
            return Err(EmbedError::NoInputs);
        }
        if found > self.max_inputs {
            return Err(EmbedError::TooManyInputs { found, max: self.max_inputs });
        }
        if let Some(index) = request.inputs.iter().position(is_empty) {
            return Err(EmbedError::EmptyInput { index });
        }
        for (index, input) in request.inputs.iter().enumerate() {
            if let EmbedInput::Text(text) = input {
                self.check_length(index, text)?;
            }
        }
        if let Some(found) = request.dimensions.filter(|&found| found == 0 || found > self.dimensions) {
            return Err(EmbedError::DimensionsOutOfRange { found, max: self.dimensions });
        }
        self.prompt_for(request.prompt_name.as_deref())
    }

    /// What goes in front of texts under that name, or under none.
    pub(crate) fn prompt_for(&self, name: Option<&str>) -> Result<Option<Arc<str>>, EmbedError> {
        match name {
            Some(name) => self.prompt(name).map(Some),
            None => Ok(self.default_prompt.clone()),
        }
    }

    /// Whether a text is short enough to be tokenised.
    pub(crate) fn check_length(&self, index: usize, text: &str) -> Result<(), EmbedError> {
        // No text has more characters than bytes.
        if text.len() <= self.max_chars {
            return Ok(());
        }
        match text.chars().count() {
            found if found > self.max_chars => {
                Err(EmbedError::TooManyCharacters { index, found, max: self.max_chars })
            }
            _ => Ok(()),
        }
    }

    fn prompt(&self, name: &str) -> Result<Arc<str>, EmbedError> {
        let known = || match self.prompts.is_empty() {
            true => "none".to_owned(),
            false => self.prompts.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        };
        let found = self.prompts.get(name).cloned();
        found.ok_or_else(|| EmbedError::UnknownPrompt { name: name.to_owned(), known: known() })
    }
}

fn is_empty(input: &EmbedInput) -> bool {
    match input {
        EmbedInput::Text(text) => text.is_empty(),
        EmbedInput::Tokens(ids) => ids.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> RequestCheck {
        let prompts = [("passage", "passage: "), ("query", "query: ")];
        let prompts = prompts.map(|(name, text)| (name.to_owned(), Arc::from(text)));
        RequestCheck {
            max_inputs: 2,
            max_chars: 5,
            dimensions: 8,
            prompts: BTreeMap::from(prompts),
            default_prompt: None,
        }
    }

    fn request(inputs: &[&str]) -> EmbedRequest {
        EmbedRequest {
            inputs: inputs.iter().map(|text| EmbedInput::Text((*text).to_owned())).collect(),
            ..EmbedRequest::default()
        }
    }

    #[test]
    fn the_first_fault_in_the_stated_order_is_the_one_that_is_told() {
        let mut bad = request(&["", "a", "b"]);
        bad.dimensions = Some(9);
        bad.prompt_name = Some("no".to_owned());
        assert_eq!(check().check(&request(&[])), Err(EmbedError::NoInputs));
        assert_eq!(check().check(&bad), Err(EmbedError::TooManyInputs { found: 3, max: 2 }));
        bad.inputs.pop();
        assert_eq!(check().check(&bad), Err(EmbedError::EmptyInput { index: 0 }));
        bad.inputs[0] = EmbedInput::Tokens(vec![1]);
        assert_eq!(check().check(&bad), Err(EmbedError::DimensionsOutOfRange { found: 9, max: 8 }));
        bad.dimensions = Some(0);
        assert_eq!(check().check(&bad), Err(EmbedError::DimensionsOutOfRange { found: 0, max: 8 }));
        bad.dimensions = Some(8);
        let unknown = EmbedError::UnknownPrompt { name: "no".to_owned(), known: "passage, query".to_owned() };
        assert_eq!(check().check(&bad), Err(unknown));
        bad.prompt_name = Some("query".to_owned());
        assert_eq!(check().check(&bad), Ok(Some(Arc::from("query: "))));
    }

    #[test]
    fn an_empty_list_of_token_ids_is_empty() {
        let mut bad = request(&["a", "b"]);
        bad.inputs[1] = EmbedInput::Tokens(vec![]);
        assert_eq!(check().check(&bad), Err(EmbedError::EmptyInput { index: 1 }));
    }

    #[test]
    fn a_text_is_measured_in_characters_and_before_anything_else_is_done_with_it() {
        assert_eq!(check().check(&request(&["ééééé", "a"])), Ok(None));
        let long = EmbedError::TooManyCharacters { index: 1, found: 6, max: 5 };
        assert_eq!(check().check(&request(&["a", "éééééé"])), Err(long));
        let mut tokens = request(&["a"]);
        tokens.inputs[0] = EmbedInput::Tokens(vec![1; 6]);
        assert_eq!(check().check(&tokens), Ok(None));
    }
}
