//! A directory is used where it lies; what cannot be a model says so.

use polylora_hub::{PullError, Source};

use crate::tiny_model::{Machine, files, write_files};

#[test]
fn a_directory_is_used_where_it_lies() {
    let machine = Machine::new();
    let dir = machine.dir.path().join("my-model");
    write_files(&dir);
    let model = machine.puller().resolve(dir.to_str().unwrap()).unwrap();
    assert_eq!((model.path, model.name.as_str(), model.source), (dir, "my-model", Source::Directory));
    assert!(!machine.models().exists(), "something was written");
}

#[test]
fn a_path_without_a_model_is_no_name() {
    let machine = Machine::new();
    let root = machine.dir.path();
    std::fs::create_dir(root.join("empty")).unwrap();
    std::fs::write(root.join("file"), files()[0].1.clone()).unwrap();
    for (path, expected) in [("empty", "config.json"), ("file", "is a file"), ("none", "no such directory")] {
        let error = machine.puller().resolve(root.join(path).to_str().unwrap()).unwrap_err();
        assert!(
            matches!(&error, PullError::Directory { reason, .. } if reason.contains(expected)),
            "{error}"
        );
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let machine = Machine::new();
    let error = machine.puller().resolve("tinny").unwrap_err();
    assert!(matches!(&error, PullError::Unknown { known, .. } if known == &["tiny"]), "{error}");
    for name in ["..", "acme/../tiny", "../tiny", "acme/tiny@../x", "acme/ti\nny", ""] {
        assert!(
            matches!(machine.puller().resolve(name), Err(PullError::Name(_) | PullError::Directory { .. })),
            "{name:?}"
        );
        assert!(matches!(machine.puller().pull(name), Err(PullError::Name(_))), "{name:?}");
    }
    assert!(!machine.models().exists(), "something was written");
}
