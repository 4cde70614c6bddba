//! Where a model directory keeps its chat templates.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use crate::ModelError;
use crate::config_fields::ConfigFields;

/// No template is larger.
const LARGEST_BYTES: u64 = 1 << 20;

/// Most named templates of a directory.
const MOST_TEMPLATES: usize = 64;

/// The name of a template that has none.
pub(super) const DEFAULT: &str = "default";

/// The templates of a directory.
#[derive(Debug, Default)]
pub(super) struct TemplateFiles {
    /// Sources by name.
    pub(super) sources: BTreeMap<String, String>,
}

impl TemplateFiles {
    /// Reads `chat_template.jinja`, `chat_templates/*.jinja`, or without them `chat_template` of tokenizer_config.json (a
    /// string, or a list of named ones).
    pub(super) fn read(dir: &Path) -> Result<Self, ModelError> {
        let mut files = Self::default();
        if let Some(source) = read_source(&dir.join("chat_template.jinja"))? {
            files.sources.insert(DEFAULT.into(), source);
        }
        files.take_folder(&dir.join("chat_templates"))?;
        if files.sources.is_empty()
            && let Some(config) = ConfigFields::read(dir, "tokenizer_config.json")?
        {
            files.take_config(&config)?;
        }
        Ok(files)
    }

    /// One template without a name.
    pub(super) fn of_source(source: String) -> Self {
        Self { sources: BTreeMap::from([(DEFAULT.to_owned(), source)]) }
    }

    /// The templates in a tokenizer's settings, if any.
    pub(super) fn of_config(config: &ConfigFields) -> Result<Self, ModelError> {
        let mut files = Self::default();
        files.take_config(config)?;
        Ok(files)
    }

    fn take_folder(&mut self, folder: &Path) -> Result<(), ModelError> {
        let io = |source| ModelError::Io { path: folder.to_owned(), source };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io(error)),
        };
        for entry in entries.take(MOST_TEMPLATES) {
            let path = entry.map_err(io)?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
            if path.extension().is_some_and(|extension| extension == "jinja")
                && let (Some(name), Some(source)) = (name, read_source(&path)?)
            {
                self.sources.insert(name, source);
            }
        }
        Ok(())
    }

    fn take_config(&mut self, config: &ConfigFields) -> Result<(), ModelError> {
        match config.get("chat_template") {
            None => {}
            Some(Value::String(source)) => {
                self.sources.insert(DEFAULT.into(), source.clone());
            }
            Some(Value::Array(named)) if named.len() <= MOST_TEMPLATES => {
                for one in named {
                    let part = |name| one.get(name).and_then(Value::as_str).map(str::to_owned);
                    let (Some(name), Some(source)) = (part("name"), part("template")) else {
                        return config.refuse("chat_template", "objects with name and template");
                    };
                    self.sources.insert(name, source);
                }
            }
            Some(_) => return config.refuse("chat_template", "a template or a list of named ones"),
        }
        Ok(())
    }
}

fn read_source(path: &Path) -> Result<Option<String>, ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(file) if file.is_file() => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    }
    let mut source = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(LARGEST_BYTES + 1).read_to_string(&mut source))
        .map_err(io)?;
    if source.len() as u64 > LARGEST_BYTES {
        let reason = format!("is larger than {LARGEST_BYTES} bytes");
        return Err(ModelError::Json { path: path.to_owned(), reason });
    }
    Ok(Some(source))
}
