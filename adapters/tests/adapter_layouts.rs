//! Laws of finding versions in an adapters directory.

mod minilm;

use std::{fs, path::Path};

use minilm::{MiniLm, copy_adapter, fixture};
use polylora_adapters::{
    AdapterName, BaseModel, Finding, FoundVersion, Layout, MAX_VERSIONS, OpenError, Refusal,
};

fn scan(directory: &Path) -> Layout {
    Layout::scan(directory, &[MiniLm::new().catalog()]).expect("the directory can be listed")
}

fn scan_adapter(directory: &Path, name: &str) -> Layout {
    let name = AdapterName::new(name).expect("it is a name");
    Layout::scan_adapter(directory, &name, &[MiniLm::new().catalog()]).expect("the directory is there")
}

/// A good adapter at `path`.
fn put(root: &Path, path: &str) {
    copy_adapter("adapters/qv_r8", &root.join(path));
}

fn shown(version: &FoundVersion) -> String {
    let label = version.label.as_ref().map_or("unlabelled".to_owned(), |label| label.to_string());
    format!("{}@{label}", version.name)
}

fn all(layout: &Layout) -> Vec<String> {
    layout.versions.iter().map(shown).collect()
}

fn served(layout: &Layout) -> Vec<String> {
    let served = layout.versions.iter().filter(|v| matches!(v.finding, Finding::Served(_)));
    served.map(shown).collect()
}

fn refusal<'a>(layout: &'a Layout, version: &str) -> &'a Refusal {
    let found = layout.versions.iter().find(|v| shown(v) == version).expect("it is found");
    match &found.finding {
        Finding::Refused(reason) => reason,
        Finding::Served(_) => panic!("{version} is served"),
    }
}

#[test]
fn a_folder_with_a_configuration_is_one_unlabelled_version() {
    let layout = scan(&fixture("adapters"));
    let names = [
        "all_linear_r4_rslora",
        "attn_r16",
        "bias_lora_only_r4",
        "dora_r8",
        "patterns",
        "qv_r8",
        "regex_layers_r4",
    ];
    assert_eq!(served(&layout), names.map(|name| format!("{name}@unlabelled")));
    assert!(layout.nameless.is_empty());
    assert!(layout.versions.iter().all(|v| v.source.path().ends_with(v.name.as_str())));
}

#[test]
fn versions_are_ordered_as_versions_are_and_not_as_text() {
    let root = tempfile::tempdir().expect("a temporary folder");
    for folder in ["v1.10.0", "1.9.0", "v1.9.1", "v2.0.0-rc.1", "v2.0.0", "v2.0.0-rc.1.1"] {
        put(root.path(), &format!("law/{folder}"));
    }
    put(root.path(), "art/v0.1.0");
    let layout = scan(root.path());
    let expected = [
        "art@0.1.0",
        "law@1.9.0",
        "law@1.9.1",
        "law@1.10.0",
        "law@2.0.0-rc.1",
        "law@2.0.0-rc.1.1",
        "law@2.0.0",
    ];
    assert_eq!(served(&layout), expected);
    assert!(layout.versions[1].source.path().ends_with("law/1.9.0"));
    assert!(layout.versions[2].source.path().ends_with("law/v1.9.1"));
}

#[test]
fn checkpoints_are_ordered_by_their_steps_and_what_stands_beside_them_is_newest() {
    let root = tempfile::tempdir().expect("a temporary folder");
    for folder in ["run", "run/checkpoint-1000", "run/checkpoint-500", "run/checkpoint-90"] {
        put(root.path(), folder);
    }
    fs::create_dir(root.path().join("run/runs")).expect("it can be made");
    fs::write(root.path().join("run/trainer_state.json"), "{}").expect("it can be written");
    let layout = scan(root.path());
    assert_eq!(served(&layout), ["run@0.0.90", "run@0.0.500", "run@0.0.1000", "run@unlabelled"]);
    assert!(layout.versions[3].source.path().ends_with("run"));
}

#[test]
fn what_is_neither_an_adapter_nor_a_version_is_skipped() {
    let root = tempfile::tempdir().expect("a temporary folder");
    put(root.path(), "law/v1.0.0");
    for skipped in [".hidden", ".hidden2/v1.0.0", "law/.1.1.0", "law/latest", "law/v2", "law/deep/v3.0.0"] {
        put(root.path(), skipped);
    }
    put(root.path(), "notes/drafts");
    for empty in ["empty", "law/v1.2.0", "law/checkpoint-5", "unfinished/v1.0.0"] {
        fs::create_dir_all(root.path().join(empty)).expect("it can be made");
    }
    for file in ["adapter_config.json", "law/v1.3.0", "README.md"] {
        fs::write(root.path().join(file), "{}").expect("it can be written");
    }
    let layout = scan(root.path());
    assert_eq!(all(&layout), ["law@1.0.0"]);
    assert!(layout.nameless.is_empty());
}

#[test]
fn a_bad_version_is_refused_and_does_not_hold_up_its_neighbours() {
    let root = tempfile::tempdir().expect("a temporary folder");
    put(root.path(), "law/v1.0.0");
    copy_adapter("bad/pickle_only", &root.path().join("law/v1.1.0"));
    put(root.path(), "law/v1.2.0");
    put(root.path(), "zoo");
    let layout = scan(root.path());
    assert_eq!(all(&layout), ["law@1.0.0", "law@1.1.0", "law@1.2.0", "zoo@unlabelled"]);
    assert_eq!(served(&layout), ["law@1.0.0", "law@1.2.0", "zoo@unlabelled"]);
    let reason = refusal(&layout, "law@1.1.0").to_string();
    assert!(reason.contains("law/v1.1.0/adapter_model.bin"), "{reason}");
}

#[test]
fn two_folders_for_one_version_are_one_refusal_that_names_both() {
    let root = tempfile::tempdir().expect("a temporary folder");
    for folder in ["law/v1.2.0", "law/1.2.0", "law/v1.3.0", "run/checkpoint-7", "run/v0.0.7", "run/0.0.7"] {
        put(root.path(), folder);
    }
    // A folder that holds nothing yet is no second one.
    fs::create_dir(root.path().join("law/1.3.0")).expect("it can be made");
    let layout = scan(root.path());
    assert_eq!(all(&layout), ["law@1.2.0", "law@1.3.0", "run@0.0.7"]);
    assert_eq!(served(&layout), ["law@1.3.0"]);
    let Refusal::SameVersion { path, other } = refusal(&layout, "law@1.2.0") else {
        panic!("{}", refusal(&layout, "law@1.2.0"));
    };
    assert!(path.ends_with("law/v1.2.0") && other.ends_with("law/1.2.0"));
    assert!(matches!(refusal(&layout, "run@0.0.7"), Refusal::SameVersion { .. }));
}

#[test]
fn an_adapter_with_too_many_sub_folders_is_refused_as_a_whole_and_alone() {
    let root = tempfile::tempdir().expect("a temporary folder");
    put(root.path(), "law");
    put(root.path(), "zoo");
    for i in 0..MAX_VERSIONS {
        fs::create_dir(root.path().join(format!("law/v1.0.{i}"))).expect("it can be made");
        fs::write(root.path().join(format!("law/{i}.txt")), "").expect("it can be written");
    }
    assert_eq!(served(&scan(root.path())), ["law@unlabelled", "zoo@unlabelled"], "files do not count");
    fs::create_dir(root.path().join("law/one_more")).expect("it can be made");
    let layout = scan(root.path());
    assert_eq!(served(&layout), ["zoo@unlabelled"]);
    let Refusal::TooManyVersions { path } = refusal(&layout, "law@unlabelled") else {
        panic!("{}", refusal(&layout, "law@unlabelled"));
    };
    assert!(path.ends_with("law"));
}

#[test]
fn one_adapters_scan_finds_what_the_whole_scan_finds_under_its_name() {
    let root = tempfile::tempdir().expect("a temporary folder");
    for folder in ["law", "law/v1.0.0", "law/checkpoint-9", "art/v2.0.0", "lawyer"] {
        put(root.path(), folder);
    }
    copy_adapter("bad/pickle_only", &root.path().join("art/v2.1.0"));
    let whole = scan(root.path());
    for name in ["law", "art", "lawyer"] {
        let one = scan_adapter(root.path(), name);
        let expected: Vec<&FoundVersion> =
            whole.versions.iter().filter(|v| v.name.as_str() == name).collect();
        assert_eq!(format!("{:?}", one.versions.iter().collect::<Vec<_>>()), format!("{expected:?}"));
        assert!(!one.versions.is_empty() && one.nameless.is_empty());
    }
}

#[test]
fn a_clients_name_finds_only_an_adapter_of_the_directory() {
    let root = tempfile::tempdir().expect("a temporary folder");
    for folder in ["served/law", "served/.hidden", "outside"] {
        put(root.path(), folder);
    }
    fs::write(root.path().join("served/file"), "").expect("it can be written");
    let directory = root.path().join("served");
    assert_eq!(all(&scan_adapter(&directory, "law")), ["law@unlabelled"]);
    for name in ["outside", "..outside", "unknown", ".hidden", "file", "law.", " law", "C:law", "~", "*"] {
        assert!(scan_adapter(&directory, name).versions.is_empty(), "{name:?}");
    }
}

#[test]
fn a_directory_that_is_none_is_said() {
    let missing = fixture("no_such_folder");
    let base = MiniLm::new();
    let name = AdapterName::new("law").expect("it is a name");
    for outcome in
        [Layout::scan(&missing, &[base.catalog()]), Layout::scan_adapter(&missing, &name, &[base.catalog()])]
    {
        let error = outcome.expect_err("it is not there");
        assert!(matches!(error, OpenError::Io { .. }));
        assert!(error.to_string().contains("no_such_folder"), "{error}");
    }
}

#[cfg(unix)]
mod links {
    use super::*;
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, os::unix::fs::symlink};

    #[test]
    fn links_are_followed_only_inside_the_directory() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let inside = root.path().join("inside");
        for folder in ["inside/law/v1.0.0", "inside/base/v1.0.0", "outside/v1.0.0", "outside"] {
            put(root.path(), folder);
        }
        for (target, link) in [
            ("../base/v1.0.0", "law/v1.1.0"),
            ("../../outside", "law/v1.2.0"),
            ("nowhere", "law/v1.3.0"),
            ("../../empty", "law/v1.4.0"),
            ("base", "alias"),
            ("../outside", "leak"),
            ("nowhere", "dangling"),
        ] {
            symlink(target, inside.join(link)).expect("a link");
        }
        fs::create_dir(root.path().join("empty")).expect("it can be made");
        let layout = scan(&inside);
        let expected = [
            "alias@1.0.0",
            "base@1.0.0",
            "dangling@unlabelled",
            "law@1.0.0",
            "law@1.1.0",
            "law@1.2.0",
            "law@1.3.0",
            "law@1.4.0",
            "leak@unlabelled",
        ];
        assert_eq!(all(&layout), expected);
        assert_eq!(served(&layout), ["alias@1.0.0", "base@1.0.0", "law@1.0.0", "law@1.1.0"]);
        // Not even whether an adapter is there is told of a folder outside.
        for leak in ["law@1.2.0", "law@1.4.0", "leak@unlabelled"] {
            let reason = refusal(&layout, leak);
            assert!(matches!(reason, Refusal::OutsideDirectory { .. }), "{reason}");
        }
        for dangling in ["dangling@unlabelled", "law@1.3.0"] {
            assert!(matches!(refusal(&layout, dangling), Refusal::Io { .. }));
        }
        assert_eq!(all(&scan_adapter(&inside, "leak")), ["leak@unlabelled"]);
        assert!(served(&scan_adapter(&inside, "leak")).is_empty());
    }

    #[test]
    fn files_of_a_version_may_not_be_links_out_of_its_folder() {
        let root = tempfile::tempdir().expect("a temporary folder");
        put(root.path(), "law");
        let version = root.path().join("law/v1.0.0");
        fs::create_dir(&version).expect("it can be made");
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            symlink(root.path().join("law").join(file), version.join(file)).expect("a link");
        }
        assert_eq!(served(&scan(root.path())), ["law@unlabelled"]);
    }

    #[test]
    fn an_adapter_whose_name_is_none_is_refused_once_and_shown_escaped() {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in [&b"bell\x07/v1.0.0"[..], b"bell\x07/v1.1.0", b"caf\xe9"] {
            copy_adapter("adapters/qv_r8", &root.path().join(OsStr::from_bytes(folder)));
        }
        fs::create_dir(root.path().join(OsStr::from_bytes(b"no\xe9adapter"))).expect("it can be made");
        let layout = scan(root.path());
        assert!(layout.versions.is_empty());
        assert_eq!(layout.nameless.len(), 2);
        for folder in &layout.nameless {
            assert!(matches!(&*folder.reason, Refusal::Name(_)));
            assert!(!folder.to_string().contains(char::is_control));
        }
    }
}
