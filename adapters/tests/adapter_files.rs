//! Which files are opened, and which never.
#![cfg(unix)]

mod peft_files;

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    process::Command,
};

use peft_files::{bad, catalog};
use polylora_adapters::{AdapterError, AdapterManifest, FileTrust, MAX_CONFIG_BYTES};

const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

fn inspect(folder: &Path, trust: FileTrust) -> Result<AdapterManifest, AdapterError> {
    AdapterManifest::inspect(folder, trust, &catalog())
}

fn copy(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for file in FILES {
        fs::copy(bad("_good_control").join(file), folder.join(file)).unwrap();
    }
}

#[test]
fn a_link_out_of_the_folder_is_followed_only_where_links_are_trusted() {
    for linked in FILES {
        let root = tempfile::tempdir().unwrap();
        let (blobs, snapshot) = (root.path().join("blobs"), root.path().join("snapshots/1"));
        copy(&blobs);
        copy(&snapshot);
        fs::remove_file(snapshot.join(linked)).unwrap();
        symlink(Path::new("../../blobs").join(linked), snapshot.join(linked)).unwrap();
        let error = inspect(&snapshot, FileTrust::WithinFolder).unwrap_err();
        assert!(
            matches!(&error, AdapterError::OutsideFolder { file, .. } if file.ends_with(linked)),
            "{error}"
        );
        assert!(error.to_string().contains("blobs"), "{error}");
        inspect(&snapshot, FileTrust::FollowLinks).unwrap();
    }
}

#[test]
fn a_link_within_the_folder_and_a_link_to_the_folder_are_followed() {
    let root = tempfile::tempdir().unwrap();
    let (folder, alias) = (root.path().join("a"), root.path().join("b"));
    copy(&folder);
    fs::rename(folder.join(FILES[1]), folder.join("v2.safetensors")).unwrap();
    symlink("v2.safetensors", folder.join(FILES[1])).unwrap();
    symlink(&folder, &alias).unwrap();
    inspect(&folder, FileTrust::WithinFolder).unwrap();
    inspect(&alias, FileTrust::WithinFolder).unwrap();
}

#[test]
fn only_regular_files_are_read() {
    for file in FILES {
        let root = tempfile::tempdir().unwrap();
        let refused = |what: &str| {
            let error = inspect(root.path(), FileTrust::FollowLinks).unwrap_err();
            assert!(matches!(error, AdapterError::NotRegularFile { .. }), "{error}");
            assert!(error.to_string().contains(what) && error.to_string().contains(file), "{error}");
        };
        copy(root.path());
        let path = root.path().join(file);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused("a folder");
        fs::remove_dir(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        refused("a named pipe");
        fs::remove_file(&path).unwrap();
        let socket = UnixListener::bind(&path).unwrap();
        refused("a socket");
        drop(socket);
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        refused("a device");
    }
}

#[test]
fn what_is_missing_is_named() {
    let root = tempfile::tempdir().unwrap();
    assert!(matches!(
        inspect(&root.path().join("none"), FileTrust::WithinFolder),
        Err(AdapterError::Io { .. })
    ));
    assert!(matches!(inspect(root.path(), FileTrust::WithinFolder), Err(AdapterError::ConfigMissing { .. })));
    copy(root.path());
    fs::remove_file(root.path().join(FILES[1])).unwrap();
    let error = inspect(root.path(), FileTrust::WithinFolder).unwrap_err();
    assert!(matches!(error, AdapterError::WeightsMissing { .. }), "{error}");
    symlink("gone", root.path().join(FILES[1])).unwrap();
    let error = inspect(root.path(), FileTrust::WithinFolder).unwrap_err();
    assert!(matches!(error, AdapterError::WeightsMissing { .. }), "{error}");
}

#[test]
fn a_configuration_beyond_its_bound_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    copy(root.path());
    fs::File::create(root.path().join(FILES[0])).unwrap().set_len(MAX_CONFIG_BYTES + 1).unwrap();
    let error = inspect(root.path(), FileTrust::WithinFolder).unwrap_err();
    assert!(matches!(error, AdapterError::ConfigTooLarge { max: MAX_CONFIG_BYTES, .. }), "{error}");
}

#[test]
fn a_manifest_is_stale_once_a_file_was_replaced() {
    let root = tempfile::tempdir().unwrap();
    copy(root.path());
    let manifest = inspect(root.path(), FileTrust::WithinFolder).unwrap();
    assert!(!manifest.is_stale());
    fs::copy(root.path().join(FILES[1]), root.path().join("new")).unwrap();
    fs::rename(root.path().join("new"), root.path().join(FILES[1])).unwrap();
    assert!(manifest.is_stale());
    fs::remove_file(root.path().join(FILES[1])).unwrap();
    assert!(manifest.is_stale());
}
