//! An adapter's own chat template: read within bounds, judged by the base, part of the content.

mod peft_files;

use std::fs;
use std::path::Path;

use peft_files::{MadeUpBase, TemporaryAdapter, control, safetensors_of};
use polylora_adapters::{
    AdapterError, AdapterManifest, BaseModel, CHAT_TEMPLATE_FILE, ChatFault, ChatFiles, Digest, FileTrust,
    LoadedAdapter, LowRank, OwnChat, SiteCatalog, TOKENIZER_CONFIG_FILE,
};
use polylora_kernels::extent::SiteId;

/// A base that takes any template but `broken`, and makes upper case of it.
struct Speaker(MadeUpBase);

impl BaseModel for Speaker {
    fn catalog(&self) -> &SiteCatalog {
        self.0.catalog()
    }

    fn digest(&self) -> Digest {
        self.0.digest()
    }

    fn dora_row_norms(&self, site: SiteId, delta: LowRank<'_>) -> Vec<f32> {
        self.0.dora_row_norms(site, delta)
    }

    fn holds_conversations(&self) -> bool {
        true
    }

    fn own_chat(&self, files: &ChatFiles) -> Result<Option<OwnChat>, ChatFault> {
        match files.template.as_deref() {
            None => Ok(None),
            Some("broken") => Err(ChatFault { file: CHAT_TEMPLATE_FILE, reason: "it is broken".to_owned() }),
            Some(template) => Ok(Some(OwnChat::new(template.to_uppercase(), files.bytes()))),
        }
    }
}

fn folder() -> TemporaryAdapter {
    let (config, tensors) = control();
    TemporaryAdapter::new(&config, &safetensors_of(&tensors))
}

fn inspect(folder: &Path) -> AdapterManifest {
    AdapterManifest::inspect(folder, FileTrust::WithinFolder, &MadeUpBase::new().catalog).unwrap()
}

fn load(folder: &Path) -> Result<LoadedAdapter, AdapterError> {
    inspect(folder).load(&Speaker(MadeUpBase::new()))
}

#[test]
fn the_base_makes_of_it_what_it_wants_and_the_content_is_another() {
    let folder = folder();
    let plain = load(folder.path()).unwrap();
    assert!(plain.chat.is_none());
    fs::write(folder.path().join(TOKENIZER_CONFIG_FILE), "{}").unwrap();
    assert_eq!(load(folder.path()).unwrap().digest, plain.digest, "there is no template in it");
    fs::write(folder.path().join(CHAT_TEMPLATE_FILE), "hello").unwrap();
    let speaking = load(folder.path()).unwrap();
    let chat = speaking.chat.unwrap();
    assert_eq!(chat.get::<String>().map(String::as_str), Some("HELLO"));
    assert_eq!((chat.get::<u32>(), chat.bytes()), (None, 7));
    assert_ne!(speaking.digest, plain.digest);
    fs::write(folder.path().join(CHAT_TEMPLATE_FILE), "goodbye").unwrap();
    assert_ne!(load(folder.path()).unwrap().digest, speaking.digest);
}

#[test]
fn a_base_that_holds_no_conversations_reads_none_of_it() {
    let folder = folder();
    let base = MadeUpBase::new();
    let plain = inspect(folder.path()).load(&base).unwrap();
    fs::write(folder.path().join(CHAT_TEMPLATE_FILE), [0xff; 16]).unwrap();
    fs::create_dir(folder.path().join(TOKENIZER_CONFIG_FILE)).unwrap();
    let loaded = inspect(folder.path()).load(&base).unwrap();
    assert!(loaded.chat.is_none());
    assert_eq!(loaded.digest, plain.digest);
}

#[test]
fn what_cannot_be_used_is_a_refusal_that_names_the_file() {
    let large = vec![b' '; (1 << 20) + 1];
    for (content, says) in [(&b"broken"[..], "it is broken"), (&[0xff], "UTF-8"), (&large, "at most 1048576")]
    {
        let folder = folder();
        let file = folder.path().join(CHAT_TEMPLATE_FILE);
        fs::write(&file, content).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with(file.to_str().unwrap()) && error.contains(says), "{error}");
    }
    let folder = folder();
    fs::create_dir(folder.path().join(CHAT_TEMPLATE_FILE)).unwrap();
    assert!(matches!(load(folder.path()), Err(AdapterError::NotRegularFile { .. })));
}

#[test]
#[cfg(unix)]
fn a_link_out_of_the_folder_is_not_followed() {
    let (folder, elsewhere) = (folder(), tempfile::NamedTempFile::new().unwrap());
    fs::write(elsewhere.path(), "secret").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join(CHAT_TEMPLATE_FILE)).unwrap();
    assert!(matches!(load(folder.path()), Err(AdapterError::OutsideFolder { .. })));
}

#[test]
fn a_manifest_is_stale_once_a_template_comes_changes_or_goes() {
    let folder = folder();
    let file = folder.path().join(CHAT_TEMPLATE_FILE);
    let without = inspect(folder.path());
    fs::write(&file, "a").unwrap();
    assert!(without.is_stale());
    let with = inspect(folder.path());
    assert!(!with.is_stale());
    fs::write(&file, "ab").unwrap();
    assert!(with.is_stale());
    fs::remove_file(&file).unwrap();
    assert!(with.is_stale() && !without.is_stale());
}
