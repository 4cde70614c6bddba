//! Which files of an uncatalogued repository belong to the model: names alone, and what `modules.json` says.

use serde::Deserialize;

use crate::names::FilePath;

/// Configuration files at the top of a repository that some model family reads.
const TOP_LEVEL: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

/// Most files of one model: a checkpoint in many shards has some hundreds.
const MAX_FILES: usize = 1024;

/// A repository that holds no model that could be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileSetError {
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("it has no *.safetensors at its top{}", if *pickle { " (only a pickle, which is never read)" } else { "" })]
    NoWeights { pickle: bool },
    #[error("it has {found} of the {expected} shards of the weights")]
    Shards { found: usize, expected: usize },
    #[error("it has {0} model files, at most {MAX_FILES} are accepted")]
    TooMany(usize),
}

/// Picks from a repository's file names those that belong to the model, in a stable order.
///
/// Weights are `model.safetensors`, or else the index and its shards; other formats, quantised twins and pickles are left
/// where they are. Module folders are those of sentence-transformers, `1_Pooling` and the like.
pub(crate) fn select<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Vec<FilePath>, FileSetError> {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    let single = names.contains(&"model.safetensors");
    let belongs = |name: &str| match name.split_once('/') {
        None if name.ends_with(".safetensors") => {
            if single {
                name == "model.safetensors"
            } else {
                shards_in_all(name).is_some()
            }
        }
        None => TOP_LEVEL.contains(&name) || (!single && name == "model.safetensors.index.json"),
        Some((folder, file)) => {
            is_module_folder(folder) && matches!(file, "config.json" | "model.safetensors")
        }
    };
    let picked: Vec<FilePath> =
        names.iter().filter(|name| belongs(name)).filter_map(|name| FilePath::new(name).ok()).collect();
    let has = |wanted: &str| picked.iter().any(|path| path.as_str() == wanted);
    for required in ["config.json", "tokenizer.json"] {
        if !has(required) {
            return Err(FileSetError::Missing(required));
        }
    }
    if !picked.iter().any(|path| !path.as_str().contains('/') && path.as_str().ends_with(".safetensors")) {
        return Err(FileSetError::NoWeights { pickle: names.contains(&"pytorch_model.bin") });
    }
    if !single && !has("model.safetensors.index.json") {
        return Err(FileSetError::Missing("model.safetensors.index.json beside its shards"));
    }
    let shards: Vec<usize> = picked.iter().filter_map(|path| shards_in_all(path.as_str())).collect();
    if let Some(&expected) = shards.iter().max().filter(|expected| **expected != shards.len()) {
        return Err(FileSetError::Shards { found: shards.len(), expected });
    }
    if picked.len() > MAX_FILES {
        return Err(FileSetError::TooMany(picked.len()));
    }
    Ok(picked)
}

/// The `config.json` files that a `modules.json` asks for; an error when it cannot be understood.
pub(crate) fn module_configs(modules_json: &[u8]) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Module {
        #[serde(default)]
        path: String,
        #[serde(rename = "type", default)]
        kind: String,
    }
    let modules: Vec<Module> = serde_json::from_slice(modules_json).map_err(|e| e.to_string())?;
    let with_config = |module: &&Module| !module.path.is_empty() && !module.kind.ends_with("Normalize");
    Ok(modules.iter().filter(with_config).map(|module| format!("{}/config.json", module.path)).collect())
}

/// How many there are, by the name of one: 3 for `model-00001-of-00003.safetensors`.
fn shards_in_all(name: &str) -> Option<usize> {
    let numbers = name.strip_prefix("model-")?.strip_suffix(".safetensors")?;
    let (index, count) = numbers.split_once("-of-")?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    let _: usize = number(index)?;
    number(count)
}

/// `1_Pooling`, `2_Dense`: a number, an underscore, a word.
fn is_module_folder(folder: &str) -> bool {
    folder.split_once('_').is_some_and(|(number, word)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) && !word.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(names: &[&str]) -> Vec<String> {
        select(names.iter().copied()).unwrap().iter().map(FilePath::to_string).collect()
    }

    #[test]
    fn other_formats_and_twins_stay_on_the_hub() {
        let names = [
            "model.safetensors",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "1_Pooling/config.json",
            "config.json",
            "tokenizer.json",
            "README.md",
            "openvino/config.json",
            "model.fp16.safetensors",
            "../config.json",
        ];
        assert_eq!(
            picked(&names),
            ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"]
        );
    }

    #[test]
    fn shards_come_with_their_index_and_only_without_a_single_file() {
        let shards = [
            "config.json",
            "tokenizer.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ];
        assert_eq!(picked(&shards).len(), 5);
        let mut both = shards.to_vec();
        both.push("model.safetensors");
        assert_eq!(picked(&both), ["config.json", "model.safetensors", "tokenizer.json"]);
        assert!(matches!(select(shards[..4].iter().copied()), Err(FileSetError::Missing(_))));
        let lacking = [shards[0], shards[1], shards[2], shards[4]];
        assert_eq!(select(lacking).unwrap_err(), FileSetError::Shards { found: 1, expected: 2 });
    }

    #[test]
    fn a_repository_with_pickles_alone_is_refused() {
        let error = select(["config.json", "tokenizer.json", "pytorch_model.bin"]).unwrap_err();
        assert_eq!(error, FileSetError::NoWeights { pickle: true });
        assert!(matches!(select(["model.safetensors"]), Err(FileSetError::Missing("config.json"))));
    }

    #[test]
    fn modules_say_which_folders_are_needed() {
        let text = br#"[{"idx":0,"path":"","type":"x.Transformer"},{"path":"1_Pooling","type":"x.Pooling"},
            {"path":"2_Normalize","type":"x.Normalize"}]"#;
        assert_eq!(module_configs(text).unwrap(), ["1_Pooling/config.json"]);
        assert!(module_configs(b"{").is_err());
    }
}
