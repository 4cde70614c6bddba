//! An adapter's files against the stamps that a registry has of them. Nothing is read.

use std::fs;
use std::io;
use std::path::Path;

use polylora_adapters::{CHAT_TEMPLATE_FILE, CONFIG_FILE, FileIdentity, TOKENIZER_CONFIG_FILE, WEIGHTS_FILE};
use polylora_registry::{FileStamp, FilesStamp, Phase, Source, Version};

use super::{Health, HealthItem};

/// Compares the files of a version with their stamps.
pub fn check(version: &Version) -> Health {
    let files = match &version.source {
        Source::Virtual { parts } => (None, format!("none of its own, it is made of {} others", parts.len())),
        Source::Folder { path, stamp } => compare(path, stamp),
    };
    let (ok, detail) = files;
    let mut checks = vec![HealthItem { name: "files".to_owned(), ok, detail }];
    if let Phase::Errored { reason } = &version.phase {
        // It may be well by now; whether it is, only a server that loads it can tell.
        let detail = format!("could not be loaded when that was last tried: {reason}");
        checks.push(HealthItem { name: "values".to_owned(), ok: None, detail });
    }
    let healthy = checks.iter().all(|check| check.ok != Some(false));
    Health { adapter_id: version.name.to_string(), tag: version.tag(), healthy, checks }
}

fn compare(folder: &Path, stamp: &FilesStamp) -> (Option<bool>, String) {
    let mut found = vec![];
    let needed = [(CONFIG_FILE, Some(stamp.config)), (WEIGHTS_FILE, Some(stamp.weights))];
    let of_chats =
        [(CHAT_TEMPLATE_FILE, stamp.chat_template), (TOKENIZER_CONFIG_FILE, stamp.tokenizer_config)];
    let all = needed.into_iter().chain(of_chats);
    for (name, expected) in all.filter_map(|(name, stamp)| Some((name, stamp?))) {
        let path = folder.join(name);
        match fs::metadata(&path) {
            Ok(metadata) if file_stamp(&metadata) == expected => {}
            Ok(metadata) if metadata.len() != expected.len => {
                let (now, then) = (metadata.len(), expected.len);
                found.push(format!("{} changed: {now} bytes, {then} when it was registered", path.display()));
            }
            Ok(_) => {
                found.push(format!("{} changed: written or replaced since it was registered", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                found.push(format!("{} is gone", path.display()));
            }
            Err(error) => found.push(format!("{} cannot be looked at: {error}", path.display())),
        }
    }
    match found.is_empty() {
        true => (Some(true), format!("{}: unchanged", folder.display())),
        false => (Some(false), found.join("; ")),
    }
}

fn file_stamp(metadata: &fs::Metadata) -> FileStamp {
    FileIdentity::of(metadata).into()
}

/// The stamps of a folder's files now.
#[cfg(test)]
pub fn stamp(folder: &Path) -> FilesStamp {
    let of = |name| file_stamp(&fs::metadata(folder.join(name)).expect("a file"));
    let (config, weights) = (of(CONFIG_FILE), of(WEIGHTS_FILE));
    FilesStamp { config, weights, chat_template: None, tokenizer_config: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_unchanged_changed_or_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        write(CONFIG_FILE, "{}");
        write(WEIGHTS_FILE, "weights");
        let stamp = stamp(folder.path());
        let (ok, detail) = compare(folder.path(), &stamp);
        assert_eq!((ok, detail), (Some(true), format!("{}: unchanged", folder.path().display())));

        write(CONFIG_FILE, "{ }");
        let (ok, detail) = compare(folder.path(), &stamp);
        assert!(
            ok == Some(false)
                && detail.ends_with("adapter_config.json changed: 3 bytes, 2 when it was registered")
        );

        write("new", "weightz");
        fs::rename(folder.path().join("new"), folder.path().join(WEIGHTS_FILE)).expect("renamed");
        let (_, detail) = compare(folder.path(), &stamp);
        assert!(detail.contains("adapter_model.safetensors changed: written or replaced"), "{detail}");

        fs::remove_file(folder.path().join(WEIGHTS_FILE)).expect("removed");
        let (ok, detail) = compare(folder.path(), &stamp);
        assert!(ok == Some(false) && detail.ends_with("adapter_model.safetensors is gone"), "{detail}");
    }
}
