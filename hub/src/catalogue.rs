//! The catalogue: known models by name, with their files, hashes and sources.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::contents::{Digest, Pin, WantedFile};
use crate::names::{self, FilePath};

/// The catalogue that is compiled in.
const BUILTIN: &str = include_str!("../catalogue.toml");

/// Largest catalogue text, in bytes.
const MAX_TEXT_BYTES: usize = 4 << 20;

/// Largest size that an unpinned file may ask for: such files are configuration.
const MAX_UNPINNED_BYTES: u64 = 16 << 20;

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
    /// Its repository on the Hugging Face Hub.
    pub hub: Option<HubRepo>,
    /// A Python package that carries the same files.
    pub wheel: Option<WheelPackage>,
    /// Its files.
    pub files: Vec<WantedFile>,
}

/// A repository on the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubRepo {
    /// `owner/name`.
    pub repo: String,
    /// Commit (preferred), tag or branch.
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
        let file: CatalogueFile = toml::from_str(text).map_err(|e| {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueFile {
    #[serde(default)]
    model: Vec<EntryTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryTable {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    hub: Option<HubRepo>,
    wheel: Option<WheelPackage>,
    files: Vec<FileTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTable {
    path: FilePath,
    #[serde(default)]
    accept: Vec<PinTable>,
    max_size: Option<u64>,
    #[serde(default)]
    optional: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PinTable {
    size: u64,
    sha256: String,
}

impl EntryTable {
    fn validated(self) -> Result<CatalogueEntry, CatalogueError> {
        let bad = |field: &str, reason: String| invalid(&self.name, field, reason);
        names::check_model_name(&self.name).map_err(|e| bad("name", e.to_string()))?;
        for alias in &self.aliases {
            let ok =
                if alias.contains('/') { names::check_repo(alias) } else { names::check_model_name(alias) };
            ok.map_err(|e| bad("aliases", e.to_string()))?;
        }
        if let Some(hub) = &self.hub {
            names::check_repo(&hub.repo).map_err(|e| bad("hub.repo", e.to_string()))?;
            names::check_revision(&hub.revision).map_err(|e| bad("hub.revision", e.to_string()))?;
        }
        if let Some(wheel) = &self.wheel {
            names::check_package_word("package", &wheel.package)
                .map_err(|e| bad("wheel.package", e.to_string()))?;
            names::check_package_word("version", &wheel.version)
                .map_err(|e| bad("wheel.version", e.to_string()))?;
        }
        if self.hub.is_none() && self.wheel.is_none() {
            return Err(bad("hub", "it has no source: give `hub`, `wheel` or both".to_owned()));
        }
        let mut files: Vec<WantedFile> = Vec::with_capacity(self.files.len());
        for table in &self.files {
            let path = &table.path;
            let wanted = table.validated().map_err(|reason| bad(&format!("file `{path}`"), reason))?;
            if files.iter().any(|file| file.path == wanted.path) {
                return Err(bad("files", format!("`{path}` is listed twice")));
            }
            files.push(wanted);
        }
        if !files.iter().any(|file| file.path.as_str() == "config.json" && !file.optional) {
            return Err(bad("files", "`config.json` is missing; every model has one".to_owned()));
        }
        Ok(CatalogueEntry { name: self.name, aliases: self.aliases, hub: self.hub, wheel: self.wheel, files })
    }
}

impl FileTable {
    fn validated(&self) -> Result<WantedFile, String> {
        let mut accept = Vec::with_capacity(self.accept.len());
        for pin in &self.accept {
            let digest = match Digest::from_hex(&pin.sha256) {
                Some(digest @ Digest::Sha256(_)) => digest,
                _ => return Err(format!("sha256 `{}` is not 64 hexadecimal digits", pin.sha256)),
            };
            accept.push(Pin { size: pin.size, digest });
        }
        let name = self.path.file_name();
        let max_size = match (accept.iter().map(|pin| pin.size).max(), self.max_size) {
            (Some(largest), None) => largest,
            (None, Some(_)) if name.ends_with(".safetensors") || name == "tokenizer.json" => {
                return Err("weights and tokenizers must be pinned with `accept`".to_owned());
            }
            (None, Some(max_size)) if max_size > MAX_UNPINNED_BYTES => {
                return Err(format!(
                    "max_size is {max_size}, an unpinned file may have at most {MAX_UNPINNED_BYTES} bytes"
                ));
            }
            (None, Some(max_size)) => max_size,
            (None, None) => return Err("give `accept` (pinned) or `max_size` (not pinned)".to_owned()),
            (Some(_), Some(_)) => return Err("`max_size` has no meaning beside `accept`".to_owned()),
        };
        Ok(WantedFile { path: self.path.clone(), accept, max_size, optional: self.optional })
    }
}

fn invalid(model: &str, field: &str, reason: String) -> CatalogueError {
    CatalogueError::Invalid { model: model.to_owned(), field: field.to_owned(), reason }
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
        assert!(entry.files.iter().all(|file| !file.accept.is_empty()));
        let weights = entry.files.iter().find(|file| file.path.as_str() == "model.safetensors").unwrap();
        assert_eq!(
            weights.accept[0].digest.to_string(),
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        );
        assert_eq!(weights.known_size(), Some(90_868_376));
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
