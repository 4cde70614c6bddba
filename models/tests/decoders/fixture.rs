//! The folders of `tests/fixtures/llms` and what they hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use polylora_adapters::{AdapterManifest, BaseModel, FileTrust, LoadedAdapter};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, OpenDevice, open};
use polylora_models::{LanguageModel, TemplateValue};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen2_yarn", "qwen3"];

/// What `golden.json` of a folder holds.
#[derive(Deserialize)]
pub struct Golden {
    pub prompts: Vec<Prompt>,
    pub runs: BTreeMap<String, Run>,
    pub chat: Vec<Chat>,
}

#[derive(Deserialize)]
pub struct Prompt {
    pub text: String,
    pub input_ids: Vec<u32>,
}

/// What the base or an adapter gives.
#[derive(Deserialize)]
pub struct Run {
    pub greedy: Vec<Greedy>,
    pub full_prompt_index: usize,
}

/// The most likely tokens after a prompt.
#[derive(Deserialize)]
pub struct Greedy {
    pub tokens: Vec<u32>,
    pub logprobs: Vec<f32>,
    pub text: String,
    pub text_with_special: String,
}

/// A rendered conversation.
#[derive(Deserialize)]
pub struct Chat {
    pub messages: TemplateValue,
    pub kwargs: BTreeMap<String, TemplateValue>,
    pub rendered: String,
    pub input_ids: Vec<u32>,
}

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

pub fn llm(family: &str) -> PathBuf {
    folder("llms").join(family)
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> T {
    serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("json")
}

pub fn golden(family: &str) -> Golden {
    read_json(&llm(family).join("golden.json"))
}

/// The rows of a tensor of f32.
pub fn golden_rows(path: &Path, name: &str) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).expect("golden");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = tensors.tensor(name).expect("a golden tensor");
    let values: Vec<f32> =
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect();
    values.chunks_exact(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
}

pub fn cpu(dtype: DTypeSpec) -> OpenDevice {
    open(DeviceSpec::Cpu, dtype).expect("a cpu")
}

pub fn load(family: &str, on: &OpenDevice) -> LanguageModel {
    LanguageModel::load(&llm(family).join("model"), on, None).expect("loads")
}

/// The adapters of a folder by name.
pub fn adapters(folder: &Path, model: &dyn BaseModel) -> BTreeMap<String, LoadedAdapter> {
    let entries = fs::read_dir(folder.join("adapters")).expect("adapters");
    let load = |path: PathBuf| {
        let manifest = AdapterManifest::inspect(&path, FileTrust::WithinFolder, model.catalog());
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        (name, manifest.expect("inspects").load(model).expect("loads"))
    };
    entries.map(|entry| load(entry.expect("an entry").path())).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            fs::create_dir(&target).expect("a folder");
            copy_folder(&path, &target);
        } else {
            fs::write(target, fs::read(&path).expect("a file")).expect("writes");
        }
    }
}

/// A copy of a model directory with the fields of one file changed.
pub fn edited(
    model: &Path,
    file: &str,
    change: impl Fn(&mut serde_json::Map<String, serde_json::Value>),
) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    copy_folder(model, copy.path());
    let mut fields = read_json(&copy.path().join(file));
    change(&mut fields);
    fs::write(copy.path().join(file), serde_json::to_string(&fields).expect("json")).expect("writes");
    copy
}
