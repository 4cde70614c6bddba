//! The Hugging Face cache on disk as a source.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use polylora_hub::{PullError, Source, SourceError};

use crate::fake_hub::git_blob_id;
use crate::tiny_model::{COMMIT, Machine, assert_whole, catalogue_text, content, files, sha256};

/// A machine with a cache that holds the tiny model as the Hugging Face tools lay it out; returns its repository's folder.
fn machine_with_cache(commit: &str) -> (Machine, PathBuf) {
    let mut machine = Machine::new();
    let cache = machine.dir.path().join("hf");
    let folder = cache.join("models--acme--tiny");
    std::fs::create_dir_all(folder.join("blobs")).unwrap();
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    std::fs::write(folder.join("refs/main"), commit).unwrap();
    for (path, bytes) in files() {
        let name = if path.ends_with(".safetensors") { sha256(&bytes) } else { git_blob_id(&bytes) };
        std::fs::write(folder.join("blobs").join(&name), bytes).unwrap();
        let link = folder.join("snapshots").join(commit).join(path);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(1 + path.split('/').count());
        symlink(format!("{up}blobs/{name}"), link).unwrap();
    }
    machine.config.hub_cache = Some(cache);
    (machine, folder)
}

fn replace(snapshot_file: &Path, target: &Path) {
    std::fs::remove_file(snapshot_file).unwrap();
    symlink(target, snapshot_file).unwrap();
}

fn reason(error: PullError) -> SourceError {
    match error {
        PullError::NoSource { attempts, .. } => {
            attempts.into_iter().find(|attempt| attempt.source == Source::HubCache).unwrap().reason
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_snapshot_of_any_commit_with_the_right_contents_serves() {
    for commit in [COMMIT, "ffffffffffffffffffffffffffffffffffffffff"] {
        let (machine, folder) = machine_with_cache(commit);
        let model = machine.puller().pull("tiny").unwrap();
        assert_eq!(model.source, Source::HubCache);
        assert_whole(&model.path);
        std::fs::remove_dir_all(folder).unwrap();
        assert_whole(&machine.puller().pull("tiny").unwrap().path);
    }
}

#[test]
fn a_snapshot_with_other_contents_is_left_alone() {
    let (machine, folder) = machine_with_cache(COMMIT);
    let other = folder.join("blobs/other");
    std::fs::write(&other, vec![1; content("model.safetensors").len()]).unwrap();
    replace(&folder.join("snapshots").join(COMMIT).join("model.safetensors"), &other);
    let reason = reason(machine.puller().pull("tiny").unwrap_err());
    assert!(matches!(reason, SourceError::WrongHash { .. }), "{reason}");
    assert!(other.exists(), "a file that is not ours was deleted");
}

#[test]
fn a_link_out_of_the_cache_is_not_followed() {
    let (machine, folder) = machine_with_cache(COMMIT);
    let outside = machine.dir.path().join("outside");
    std::fs::write(&outside, content("tokenizer.json")).unwrap();
    replace(&folder.join("snapshots").join(COMMIT).join("tokenizer.json"), &outside);
    let reason = reason(machine.puller().pull("tiny").unwrap_err());
    assert!(matches!(&reason, SourceError::Incomplete { what } if what.contains("leads out")), "{reason}");
}

#[test]
fn an_uncatalogued_snapshot_serves_only_when_it_shows_that_it_is_complete() {
    let other = catalogue_text("").replace("tiny", "else");
    let (machine, folder) = machine_with_cache(COMMIT);
    let snapshot = folder.join("snapshots").join(COMMIT);

    std::fs::remove_file(snapshot.join("1_Pooling/config.json")).unwrap();
    let error = reason(machine.puller_over(&other).pull("acme/tiny").unwrap_err());
    assert!(error.to_string().contains("1_Pooling/config.json"), "{error}");

    std::fs::remove_file(snapshot.join("modules.json")).unwrap();
    let error = reason(machine.puller_over(&other).pull("acme/tiny").unwrap_err());
    assert!(error.to_string().contains("modules.json"), "{error}");

    let note = folder.join(".no_exist").join(COMMIT);
    std::fs::create_dir_all(&note).unwrap();
    std::fs::write(note.join("modules.json"), "").unwrap();
    assert_eq!(machine.puller_over(&other).pull("acme/tiny").unwrap().source, Source::HubCache);
}

#[test]
fn an_uncatalogued_blob_that_is_not_what_its_name_says_is_refused() {
    let other = catalogue_text("").replace("tiny", "else");
    let (machine, folder) = machine_with_cache(COMMIT);
    let blob = folder.join("blobs").join(git_blob_id(&content("tokenizer.json")));
    std::fs::write(&blob, b"{\"version\": \"6.6\"}").unwrap();
    let reason = reason(machine.puller_over(&other).pull("acme/tiny").unwrap_err());
    assert!(matches!(&reason, SourceError::WrongHash { file, .. } if file == "tokenizer.json"), "{reason}");
}
