//! One version of an adapter: a content, where it lies, and what is known of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AdapterName, Digest};

/// Number of a version: from 1, given once in a store and never again, whatever is deleted. vLLM's `lora_int_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionId(pub u64);

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A version; all but [`phase`](Self::phase), [`previous`](Self::previous), [`source`](Self::source),
/// [`about`](Self::about) and [`probe`](Self::probe) stays as it was registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Its number.
    pub id: VersionId,
    /// The adapter that it is a version of.
    pub name: AdapterName,
    /// Its semantic version, which no other version of the name has.
    pub label: semver::Version,
    /// Digest over its content and the base model's.
    pub digest: Digest,
    /// What its files hold.
    pub content: Content,
    /// Where it is read from.
    pub source: Source,
    /// The base model that it was checked against.
    pub base: BaseRef,
    /// When it was registered.
    pub created_at: Timestamp,
    /// What answered under the name before it did.
    pub previous: Option<VersionId>,
    /// Whether it may be served.
    pub phase: Phase,
    /// What people and tools say of it.
    pub about: About,
    /// Embedding of the probe text when it was registered.
    pub probe: Option<Vec<f32>>,
}

/// Whether a version may be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It may.
    Registered,
    /// It could not be loaded, or not checked, when that was last tried; it is tried again.
    Errored {
        /// Why.
        reason: String,
    },
    /// It is taken out of service, until it is registered again.
    Retired,
}

/// What an adapter's files hold, as far as a list shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its ranks, ascending.
    pub ranks: Vec<usize>,
    /// Last components of the modules' names that it changes, e.g. `query`.
    pub targets: Vec<String>,
    /// The number of sites that it changes.
    pub sites: usize,
    /// Bytes of its values in memory.
    pub bytes: u64,
    /// Whether it changes any result.
    pub has_effect: bool,
}

/// Where a version is read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A folder with PEFT's two files.
    Folder {
        /// The folder.
        path: PathBuf,
        /// The state of its files when they were read.
        stamp: FilesStamp,
    },
    /// A weighted sum of other versions.
    Virtual {
        /// They, in the order in which their ranks are joined.
        parts: Vec<VirtualPart>,
    },
}

/// A part of a virtual adapter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VirtualPart {
    /// The version.
    pub id: VersionId,
    /// How much of its effect.
    pub weight: f32,
}

/// The state of an adapter's files, as the file system tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesStamp {
    /// adapter_config.json.
    pub config: FileStamp,
    /// adapter_model.safetensors.
    pub weights: FileStamp,
    /// chat_template.jinja, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<FileStamp>,
    /// tokenizer_config.json, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_config: Option<FileStamp>,
}

/// The state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Bytes.
    pub len: u64,
    /// Time of the last change, nanoseconds since the Unix epoch; `None` where the system does not tell.
    pub modified_ns: Option<u64>,
    /// Inode; 0 where there is none.
    pub inode: u64,
}

/// A base model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRef {
    /// Its name.
    pub name: String,
    /// Its content.
    pub digest: Digest,
}

/// What people and tools say of a version; nothing is computed from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The domains that it is for.
    pub domains: Vec<String>,
    /// What it was trained to do, e.g. `FEATURE_EXTRACTION`.
    pub task_type: Option<String>,
    /// How it was trained: data, samples, dropout, figures of quality.
    pub training: BTreeMap<String, Value>,
    /// Calibrated thresholds that it carries.
    pub thresholds: BTreeMap<String, f64>,
    /// Whatever else was given.
    pub custom: BTreeMap<String, Value>,
}

impl From<SystemTime> for Timestamp {
    /// A time before 1970 counts as then.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Phase {
    /// In a word: `registered`, `errored`, `retired`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Errored { .. } => "errored",
            Self::Retired => "retired",
        }
    }
}

impl Source {
    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&PathBuf> {
        match self {
            Self::Folder { path, .. } => Some(path),
            Self::Virtual { .. } => None,
        }
    }
}

impl Version {
    /// Who it is, as replies tell it: `name@version#digest8`.
    pub fn tag(&self) -> String {
        format!("{}@{}#{}", self.name, self.label, self.digest.short())
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
