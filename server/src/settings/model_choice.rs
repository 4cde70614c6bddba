//! Which model makes embeddings, or that none does.

use std::fmt;

use super::value::Setting;

/// What stands for no model. A folder of that name is `./none`.
const NONE: &str = "none";

/// A catalogue name or folder of the model that makes embeddings; `None` for a process that only generates text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingModelChoice(pub Option<String>);

/// A model that makes embeddings is needed, and the settings say that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--embedding-model is none, expected a name of the catalogue or a folder")]
pub struct NoEmbeddingModel;

impl EmbeddingModelChoice {
    /// The model's name or folder.
    ///
    /// # Errors
    /// [`NoEmbeddingModel`].
    pub fn needed(&self) -> Result<&str, NoEmbeddingModel> {
        self.0.as_deref().ok_or(NoEmbeddingModel)
    }
}

impl Setting for EmbeddingModelChoice {
    const EXPECTED: &'static str =
        "a name of the catalogue, a folder, or none for a server that only generates text";

    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "" => None,
            NONE => Some(Self(None)),
            name => Some(Self(Some(name.to_owned()))),
        }
    }
}

impl fmt::Display for EmbeddingModelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or(NONE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_no_model_and_a_folder_of_that_name_has_a_dot() {
        let read = |text| EmbeddingModelChoice::parse(text);
        assert_eq!(read("none"), Some(EmbeddingModelChoice(None)));
        assert_eq!(read("./none"), Some(EmbeddingModelChoice(Some("./none".into()))));
        assert_eq!(read(" "), None);
        assert_eq!(
            read("none").map(|choice| choice.needed().map(str::to_owned)),
            Some(Err(NoEmbeddingModel))
        );
    }
}
