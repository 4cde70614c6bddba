//! The files that sentence-transformers puts beside a model: modules.json, 1_Pooling, 2_Normalize,
//! sentence_bert_config.json, config_sentence_transformers.json; both its classic form and that of version 6.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use polylora_kernels::Pooling;
use serde::Deserialize;
use serde_json::Value;

use crate::{ModelError, json_file};

/// What these files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceTransformersConfig {
    /// How rows become one vector.
    pub pooling: Pooling,
    /// Whether the vector is divided by its L2 norm.
    pub normalize: bool,
    /// Tokens one text may have, special tokens included, when a file says so.
    pub max_seq_length: Option<usize>,
    /// Whether texts are lowercased before tokenising.
    pub do_lower_case: bool,
    /// Prompts by name.
    pub prompts: BTreeMap<String, String>,
    /// The prompt used when none is asked for.
    pub default_prompt: Option<String>,
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
struct Transformer {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Default, Deserialize)]
struct Prompts {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    default_prompt_name: Option<String>,
}

impl SentenceTransformersConfig {
    /// Reads the files of `dir`. Without modules.json: mean pooling without normalisation, which is what
    /// sentence-transformers does with a bare Hugging Face directory.
    ///
    /// # Errors
    /// When a module or a pooling mode is not supported, or a file does not parse.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let transformer =
            json_file::read::<Transformer>(dir, "sentence_bert_config.json")?.unwrap_or_default();
        let named = json_file::read::<Prompts>(dir, "config_sentence_transformers.json")?.unwrap_or_default();
        if let Some(name) = &named.default_prompt_name
            && !named.prompts.contains_key(name)
        {
            return Err(ModelError::Unsupported {
                path: dir.join("config_sentence_transformers.json"),
                field: "default_prompt_name".into(),
                found: format!("`{name}`"),
                expected: "the name of a prompt in the same file".into(),
            });
        }
        let (pooling, normalize) = modules(dir)?;
        Ok(Self {
            pooling,
            normalize,
            max_seq_length: transformer.max_seq_length,
            do_lower_case: transformer.do_lower_case,
            prompts: named.prompts,
            default_prompt: named.default_prompt_name,
        })
    }
}

fn modules(dir: &Path) -> Result<(Pooling, bool), ModelError> {
    let Some(modules) = json_file::read::<Vec<Module>>(dir, "modules.json")? else {
        return Ok((Pooling::Mean, false));
    };
    let (mut pooling, mut normalize) = (Pooling::Mean, false);
    for (index, module) in modules.iter().enumerate() {
        let refuse = |found: String, expected: &str| {
            Err(ModelError::Unsupported {
                path: dir.join("modules.json"),
                field: format!("[{index}].type"),
                found,
                expected: expected.to_owned(),
            })
        };
        // Version 6 moved the classes; the last part of the name stayed.
        match (index, module.kind.rsplit('.').next().unwrap_or_default()) {
            (0, "Transformer") if module.path.is_empty() => {}
            (1, "Pooling") => pooling = read_pooling(dir, &module.path)?,
            (2, "Normalize") => normalize = true,
            _ => {
                let found = format!("`{}` (path `{}`)", module.kind, module.path);
                return refuse(found, "Transformer (path ``), Pooling, Normalize, in this order");
            }
        }
    }
    Ok((pooling, normalize))
}

fn read_pooling(dir: &Path, path: &str) -> Result<Pooling, ModelError> {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    let name = format!("{path}/config.json");
    let file = dir.join(&name);
    let refuse = |field: &str, found: String, expected: &str| {
        Err(ModelError::Unsupported {
            path: file.clone(),
            field: field.to_owned(),
            found,
            expected: expected.to_owned(),
        })
    };
    if !plain || path.is_empty() {
        return refuse("path", format!("`{path}`"), "a folder of the model directory");
    }
    let config: BTreeMap<String, Value> = json_file::read(dir, &name)?
        .ok_or(ModelError::Missing { path: file.clone(), hint: "modules.json names this pooling module" })?;
    if config.get("include_prompt") == Some(&Value::Bool(false)) {
        return refuse("include_prompt", "false".into(), "true");
    }
    let modes: Vec<&str> = match config.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode],
        Some(other) => return refuse("pooling_mode", other.to_string(), "mean, cls, max or lasttoken"),
        None => config
            .iter()
            .filter(|(_, on)| **on == Value::Bool(true))
            .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
            .collect(),
    };
    match modes.as_slice() {
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        ["max" | "max_tokens"] => Ok(Pooling::Max),
        ["lasttoken"] => Ok(Pooling::LastToken),
        other => refuse("pooling_mode", other.join(" and "), "exactly one of mean, cls, max, lasttoken"),
    }
}
