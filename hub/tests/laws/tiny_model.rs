//! A model of a few hundred bytes, a catalogue that pins it, and settings that reach nothing beyond a temporary folder.

use std::path::{Path, PathBuf};

use polylora_hub::{Catalogue, HubConfig, ProgressStyle, Puller};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Path in the model and content, in the order of the catalogue.
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    let weights = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
    vec![
        ("config.json", b"{\"model_type\": \"bert\"}".to_vec()),
        ("model.safetensors", weights),
        ("tokenizer.json", b"{\"version\": \"1.0\"}".to_vec()),
        ("modules.json", br#"[{"path": "1_Pooling", "type": "x.Pooling"}]"#.to_vec()),
        ("1_Pooling/config.json", b"{\"pooling_mode_mean_tokens\": true}".to_vec()),
    ]
}

pub fn content(path: &str) -> Vec<u8> {
    files().into_iter().find(|(name, _)| *name == path).unwrap().1
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The catalogue entry `tiny`; `extra` goes before its files, `vocab.txt` is optional and nowhere.
pub fn catalogue_text(extra: &str) -> String {
    let pin = |size: usize, hash: String| format!("accept = [{{ size = {size}, sha256 = \"{hash}\" }}]");
    let mut text = format!(
        "[[model]]\nname = \"tiny\"\naliases = [\"acme/tiny\"]\n{extra}\n\
         hub = {{ repo = \"acme/tiny\", revision = \"{COMMIT}\" }}\nfiles = [\n"
    );
    for (path, bytes) in files() {
        text += &format!("  {{ path = \"{path}\", {} }},\n", pin(bytes.len(), sha256(&bytes)));
    }
    text + &format!("  {{ path = \"vocab.txt\", optional = true, {} }},\n]\n", pin(1, sha256(b"x")))
}

/// The part of the entry that names a wheel.
pub const WHEEL: &str = r#"wheel = { package = "tiny-model", version = "0.1.0", folder = "tiny/model" }"#;

/// A home of its own, no Hugging Face cache, no pip, and an endpoint where nobody listens.
pub struct Machine {
    pub dir: TempDir,
    pub config: HubConfig,
}

impl Machine {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = HubConfig::new(dir.path().join("home"));
        config.endpoint = NOBODY.to_owned();
        config.pip_commands.clear();
        config.progress = ProgressStyle::Lines;
        Self { dir, config }
    }

    pub fn puller(&self) -> Puller {
        self.puller_over(&catalogue_text(""))
    }

    pub fn puller_over(&self, catalogue: &str) -> Puller {
        Puller::new(Catalogue::parse(catalogue).unwrap(), self.config.clone())
    }

    pub fn models(&self) -> PathBuf {
        self.config.home.join("models")
    }
}

/// An address where nobody listens: a reserved port, which no other test can be given.
pub const NOBODY: &str = "http://127.0.0.1:1";

/// Asserts that `dir` holds exactly the tiny model and its marker.
pub fn assert_whole(dir: &Path) {
    for (path, bytes) in files() {
        assert_eq!(std::fs::read(dir.join(path)).unwrap(), bytes, "{path}");
    }
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = [
        ".polylora-model.json",
        "1_Pooling",
        "config.json",
        "model.safetensors",
        "modules.json",
        "tokenizer.json",
    ];
    assert_eq!(names, expected);
}

/// Writes the tiny model below `dir`.
pub fn write_files(dir: &Path) {
    for (path, bytes) in files() {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
