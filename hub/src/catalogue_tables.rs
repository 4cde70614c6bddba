//! The catalogue as it is written in TOML, and its conversion into checked entries.

use serde::Deserialize;

use crate::catalogue::{CatalogueEntry, CatalogueError, HubRepo, WheelPackage};
use crate::contents::{Digest, Pin, WantedFile};
use crate::model_use::ModelUse;
use crate::names::{self, FilePath};

/// Largest size that an unpinned file may ask for: such files are configuration.
const MAX_UNPINNED_BYTES: u64 = 16 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogueTable {
    #[serde(default)]
    pub(crate) model: Vec<EntryTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EntryTable {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default, rename = "use")]
    model_use: ModelUse,
    #[serde(default)]
    gated: bool,
    hub: Option<HubRepo>,
    wheel: Option<WheelPackage>,
    files: Option<Vec<FileTable>>,
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
    pub(crate) fn validated(self) -> Result<CatalogueEntry, CatalogueError> {
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
        let files = match &self.files {
            Some(tables) => Some(self.validated_files(tables)?),
            None if self.wheel.is_none() => None,
            // Nobody lists what a wheel should hold, or vouches for it.
            None => return Err(bad("files", "they must be listed where there is a wheel".to_owned())),
        };
        let Self { name, aliases, model_use, gated, hub, wheel, .. } = self;
        Ok(CatalogueEntry { name, aliases, model_use, is_gated: gated, hub, wheel, files })
    }

    fn validated_files(&self, tables: &[FileTable]) -> Result<Vec<WantedFile>, CatalogueError> {
        let bad = |field: &str, reason: String| invalid(&self.name, field, reason);
        let mut files: Vec<WantedFile> = Vec::with_capacity(tables.len());
        for table in tables {
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
        Ok(files)
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

/// The error for one field of one model.
pub(crate) fn invalid(model: &str, field: &str, reason: String) -> CatalogueError {
    CatalogueError::Invalid { model: model.to_owned(), field: field.to_owned(), reason }
}
