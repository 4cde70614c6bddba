//! Small adapters to register.

use polylora_registry::{
    About, Activate, AdapterName, BaseRef, Change, Content, Digest, FileStamp, FilesStamp, NewVersion,
    Registry, Source, Timestamp, Version, VersionId, VirtualPart,
};
use tempfile::TempDir;

pub const NOW: Timestamp = Timestamp(1_700_000_000_000);

pub fn directory() -> TempDir {
    TempDir::new().expect("a place for temporary files")
}

pub fn name(text: &str) -> AdapterName {
    AdapterName::new(text).expect("a name")
}

/// The content number `tag`.
pub fn digest(tag: u8) -> Digest {
    Digest([tag; 32])
}

pub fn label(text: &str) -> semver::Version {
    text.parse().expect("a version")
}

/// The files of content `tag`.
pub fn stamp(tag: u8) -> FilesStamp {
    let file = |inode| FileStamp { len: u64::from(tag), modified_ns: Some(1), inode };
    FilesStamp { config: file(1), weights: file(2), chat_template: None, tokenizer_config: None }
}

/// Content `tag` in folder `place`.
pub fn folder(place: u8, tag: u8) -> Source {
    Source::Folder { path: format!("/adapters/{place}").into(), stamp: stamp(tag) }
}

pub fn sum_of(parts: &[u64]) -> Source {
    let parts = parts.iter().map(|&id| VirtualPart { id: VersionId(id), weight: 0.5 }).collect();
    Source::Virtual { parts }
}

/// Content `tag`, to be registered under `name`, and to answer when nobody does.
pub fn content(of: &str, tag: u8) -> NewVersion {
    NewVersion {
        name: name(of),
        label: None,
        digest: digest(tag),
        content: Content {
            ranks: vec![8],
            targets: vec!["query".into()],
            sites: 6,
            bytes: 9,
            has_effect: true,
        },
        source: folder(tag, tag),
        base: BaseRef { name: "base".into(), digest: digest(255) },
        about: About::default(),
        activate: Activate::IfVacant,
    }
}

pub fn register(of: &str, tag: u8) -> Change {
    Change::Register(Box::new(content(of, tag)))
}

/// A registry after `changes`, none of which is refused.
pub fn registry(changes: impl IntoIterator<Item = Change>) -> Registry {
    let mut registry = Registry::default();
    for change in changes {
        for event in registry.plan(&change, NOW).expect("a change that is allowed") {
            registry.apply(&event).expect("an event that fits");
        }
        registry.check_integrity();
    }
    registry
}

pub fn numbers<'a, V: AsRef<Version> + 'a>(versions: impl Iterator<Item = &'a V>) -> Vec<u64> {
    versions.map(|version| version.as_ref().id.0).collect()
}
