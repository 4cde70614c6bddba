//! What the fleet's API takes: registrations and changes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::http::StatusCode;
use polylora_adapters::{
    About, Activate, AdapterName, BasisPoints, Digest, RegisterFolder, RegisterVirtual, Selector,
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::ApiError;
use super::fields::Object;

/// Most keys of an object of free metadata, and most domains.
const MOST_KEYS: usize = 256;
/// Bytes that free metadata may have as JSON.
const MOST_METADATA_BYTES: usize = 64 << 10;

/// What to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct RegisterBody {
    #[schema(value_type = RegisteredMetadata)]
    adapter_metadata: Option<Object<RegisteredMetadata>>,
    /// `never` (the default: it waits to be promoted), `if_vacant` or `now`.
    activate: Option<String>,
}

/// What is said of a version to register. Fields that are not listed are kept as custom metadata.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RegisteredMetadata {
    adapter_id: Option<String>,
    base_model_name: Option<String>,
    domain: Option<String>,
    domains: Option<Vec<String>>,
    task_type: Option<String>,
    adapter_version: Option<String>,
    /// How it was trained: data, samples, dropout, figures of quality.
    #[schema(value_type = Option<Object>)]
    training: Option<BTreeMap<String, Value>>,
    /// Calibrated thresholds.
    #[schema(value_type = Option<Object>)]
    thresholds: Option<BTreeMap<String, f64>>,
    /// Free metadata; `adapter_path` in it is the folder to read.
    #[schema(value_type = Option<Object>)]
    custom_metadata: Option<BTreeMap<String, Value>>,
    /// Others of which it is the weighted sum, in place of a folder.
    virtual_of: Option<Vec<VirtualPartBody>>,
    #[serde(flatten)]
    #[schema(ignore)]
    other: BTreeMap<String, Value>,
}

/// A part of a virtual adapter.
#[derive(Debug, Deserialize, ToSchema)]
pub struct VirtualPartBody {
    /// A name, or `name@version`.
    adapter_id: String,
    weight: f32,
}

/// Which version, and what must be active for it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct VersionBody {
    /// A semantic version, a number, or `#` with the first digits of a digest.
    version: Option<String>,
    /// Digest of the version that must be active.
    expected_digest: Option<String>,
}

/// An A/B test.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct AbBody {
    /// The version that is tried.
    candidate: Option<String>,
    /// Its share of the traffic.
    percent: Option<f64>,
    /// Digest of the version that must be active.
    expected_digest: Option<String>,
}

/// Whether an adapter stays in host memory.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct PinBody {
    /// Whether it does; left out, it does.
    pub pinned: Option<bool>,
}

/// What a registration reads.
#[derive(Debug)]
pub enum Registration {
    /// A folder.
    Folder(RegisterFolder),
    /// Other versions.
    Virtual(RegisterVirtual),
}

impl RegisterBody {
    /// What is to be registered, for a base model that goes by `bases`.
    ///
    /// # Errors
    /// 400 for what is missing or is not what it must be.
    pub fn read<'a>(self, bases: impl Iterator<Item = &'a str>) -> Result<Registration, ApiError> {
        let Object(metadata) = self.adapter_metadata.ok_or_else(|| missing("adapter_metadata"))?;
        let name = adapter_name(&metadata.adapter_id.ok_or_else(|| missing("adapter_metadata.adapter_id"))?)?;
        if let Some(base) = &metadata.base_model_name {
            let known: Vec<_> = bases.collect();
            if !known.contains(&base.as_str()) {
                let message =
                    format!("`base_model_name` is `{base:.100}`, this server has {}", known.join(", "));
                return Err(bad("base_model_mismatch", "adapter_metadata.base_model_name", message));
            }
        }
        let label = metadata.adapter_version.as_deref().map(label).transpose()?;
        let activate = match self.activate.as_deref() {
            None | Some("never") => Activate::Never,
            Some("if_vacant") => Activate::IfVacant,
            Some("now") => Activate::Now,
            Some(other) => {
                let message = format!("`activate` is `{other:.100}`, expected never, if_vacant or now");
                return Err(bad("invalid_value", "activate", message));
            }
        };
        let mut custom = metadata.custom_metadata.unwrap_or_default();
        let path = custom.remove("adapter_path");
        custom.extend(metadata.other);
        let domains = metadata.domain.into_iter().chain(metadata.domains.unwrap_or_default());
        let mut unique: Vec<String> = vec![];
        for domain in domains {
            if !unique.contains(&domain) {
                unique.push(domain);
            }
        }
        let about = About {
            domains: unique,
            task_type: metadata.task_type,
            training: metadata.training.unwrap_or_default(),
            thresholds: metadata.thresholds.unwrap_or_default(),
            custom,
        };
        bounded(&about)?;
        match (path, metadata.virtual_of) {
            (Some(Value::String(path)), None) => {
                let path = PathBuf::from(path);
                Ok(Registration::Folder(RegisterFolder { name, path, label, about, activate }))
            }
            (None, Some(parts)) => {
                let parts = parts.into_iter().map(|part| (part.adapter_id, part.weight)).collect();
                Ok(Registration::Virtual(RegisterVirtual { name, parts, label, about, activate }))
            }
            (Some(Value::String(_)), Some(_)) => {
                let message =
                    "`adapter_path` and `virtual_of` are both there: an adapter is one or the other";
                Err(bad("invalid_value", "adapter_metadata.virtual_of", message.to_owned()))
            }
            (Some(_), _) => {
                let message = "`adapter_path` must be a text".to_owned();
                Err(bad("invalid_value", "adapter_metadata.custom_metadata.adapter_path", message))
            }
            (None, None) => Err(missing("adapter_metadata.custom_metadata.adapter_path")),
        }
    }
}

impl VersionBody {
    /// From a query's values.
    pub fn new(version: Option<String>, expected_digest: Option<String>) -> Self {
        Self { version, expected_digest }
    }

    /// The version and the digest that must be active.
    ///
    /// # Errors
    /// 400 for what is neither.
    pub fn read(self) -> Result<(Option<Selector>, Option<Digest>), ApiError> {
        let version = self.version.as_deref().map(|text| selector(text, "version")).transpose()?;
        Ok((version, expected(self.expected_digest)?))
    }
}

impl AbBody {
    /// The candidate, its share, and the digest that must be active.
    ///
    /// # Errors
    /// 400 for what is missing or is not what it must be.
    pub fn read(self) -> Result<(Selector, BasisPoints, Option<Digest>), ApiError> {
        let candidate = selector(&self.candidate.ok_or_else(|| missing("candidate"))?, "candidate")?;
        let percent = self.percent.ok_or_else(|| missing("percent"))?;
        let share = BasisPoints::from_percent(percent).ok_or_else(|| {
            bad("invalid_value", "percent", format!("`percent` is {percent}, expected 0 to 100"))
        })?;
        Ok((candidate, share, expected(self.expected_digest)?))
    }
}

/// A name that an adapter may have.
///
/// # Errors
/// 400.
pub fn adapter_name(text: &str) -> Result<AdapterName, ApiError> {
    let name =
        AdapterName::new(text).map_err(|error| bad("invalid_value", "adapter_id", error.to_string()))?;
    if ["registry", "register"].contains(&text) {
        let message = format!("{name:?} is a path of the API: choose another name");
        return Err(bad("invalid_value", "adapter_id", message));
    }
    if Selector::split(text).is_some() {
        let message = format!("{name:?} ends like a version (`@…`): an adapter's name must not");
        return Err(bad("invalid_value", "adapter_id", message));
    }
    Ok(name)
}

fn selector(text: &str, field: &'static str) -> Result<Selector, ApiError> {
    Selector::parse(text).ok_or_else(|| {
        let message = format!(
            "`{field}` is `{text:.100}`, expected a semantic version (1.2.0), a number, or # and the first 8 digits of a digest"
        );
        bad("invalid_value", field, message)
    })
}

fn label(text: &str) -> Result<semver::Version, ApiError> {
    semver::Version::parse(text.strip_prefix('v').unwrap_or(text)).map_err(|error| {
        let message =
            format!("`adapter_version` is `{text:.100}`, expected a semantic version such as 1.2.0: {error}");
        bad("invalid_value", "adapter_metadata.adapter_version", message)
    })
}

fn expected(digest: Option<String>) -> Result<Option<Digest>, ApiError> {
    let parse = |text: String| {
        text.parse()
            .map_err(|error| bad("invalid_value", "expected_digest", format!("`expected_digest`: {error}")))
    };
    digest.map(parse).transpose()
}

fn bounded(about: &About) -> Result<(), ApiError> {
    let keys = about.domains.len() + about.training.len() + about.thresholds.len() + about.custom.len();
    // Texts, numbers and lists are always written.
    let bytes = serde_json::to_vec(about).map_or(usize::MAX, |json| json.len());
    if keys <= MOST_KEYS && bytes <= MOST_METADATA_BYTES {
        return Ok(());
    }
    let message = format!(
        "the metadata has {keys} entries and {bytes} bytes, at most {MOST_KEYS} and {MOST_METADATA_BYTES} are kept"
    );
    Err(bad("metadata_too_large", "adapter_metadata", message))
}

fn missing(field: &'static str) -> ApiError {
    bad("missing_required_parameter", field, format!("the field `{field}` is missing"))
}

fn bad(code: &'static str, field: &'static str, message: String) -> ApiError {
    ApiError::invalid(StatusCode::BAD_REQUEST, code, message).naming(field)
}
