//! Laws of opening a directory of adapters.

mod minilm;

use std::{fs, path::Path};

use minilm::{MiniLm, copy_adapter, fixture};
use polylora_adapters::{
    AdapterDirectory, AdapterError, AdapterName, AdapterSource, BaseModel, Finding, NameError, OpenError,
    Refusal,
};

fn open(directory: &Path) -> AdapterDirectory {
    AdapterDirectory::open(directory, MiniLm::new().catalog()).expect("the directory can be listed")
}

fn served(directory: &AdapterDirectory) -> Vec<String> {
    directory.served().map(|(name, _)| name.to_string()).collect()
}

#[test]
fn every_kind_of_adapter_is_served_under_its_folders_name_in_order() {
    let opened = open(&fixture("adapters"));
    let names = [
        "all_linear_r4_rslora",
        "attn_r16",
        "bias_lora_only_r4",
        "dora_r8",
        "patterns",
        "qv_r8",
        "regex_layers_r4",
    ];
    assert_eq!(served(&opened), names);
    let ranks: Vec<usize> = opened.served().map(|(_, manifest)| manifest.max_rank()).collect();
    assert_eq!((ranks[1], ranks[3], ranks[5]), (16, 8, 8));
    assert!(opened.refused().is_empty() && opened.strict().is_ok());
}

#[test]
fn bad_adapters_are_refused_by_name_and_do_not_hold_up_the_rest() {
    let opened = open(&fixture("bad"));
    // What only the tensors tell is found on first use.
    assert_eq!(served(&opened), ["_good_control", "inf_weights", "nan_weights"]);
    let manifest = fs::read_to_string(fixture("bad/manifest.json")).expect("it is there");
    let manifest: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&manifest).expect("it is JSON");
    let mut expected: Vec<&String> = manifest.keys().collect();
    // A folder without a configuration is no adapter at all.
    expected.retain(|name| !served(&opened).contains(name) && *name != "config_missing");
    expected.sort();
    let refused = opened.refused();
    assert_eq!(refused.iter().map(|r| &r.name).collect::<Vec<_>>(), expected);
    for folder in &refused {
        let found = opened.get(&folder.name).expect("a refused one is found by its name");
        assert!(matches!(found.finding, Finding::Refused(_)));
        let reason = folder.reason.to_string();
        assert!(reason.contains(&format!("{}/adapter_", folder.name)), "{reason}");
    }
    let OpenError::Refused { refused: listed } = opened.strict().expect_err("some are refused") else {
        panic!("strictness says what is refused");
    };
    assert_eq!(listed.len(), refused.len());
    let message = OpenError::Refused { refused: listed }.to_string();
    assert!(refused.iter().all(|r| message.contains(&r.to_string())), "{message}");
}

#[test]
fn hidden_entries_files_and_folders_without_a_configuration_are_skipped() {
    let root = tempfile::tempdir().expect("a temporary folder");
    copy_adapter("adapters/qv_r8", &root.path().join("law"));
    copy_adapter("adapters/qv_r8", &root.path().join(".hidden"));
    fs::create_dir(root.path().join("empty")).expect("it can be made");
    fs::write(root.path().join("adapter_config.json"), "{}").expect("it can be written");
    let opened = open(root.path());
    assert_eq!(served(&opened), ["law"]);
    assert!(opened.refused().is_empty());
}

#[test]
fn a_clients_words_never_become_a_path() {
    let root = tempfile::tempdir().expect("a temporary folder");
    copy_adapter("adapters/qv_r8", &root.path().join("served/law"));
    copy_adapter("adapters/qv_r8", &root.path().join("outside"));
    let opened = open(&root.path().join("served"));
    assert!(opened.get("law").is_some());
    let absolute = root.path().join("served/law");
    let absolute = absolute.to_str().expect("it is UTF-8");
    for name in ["../outside", "./law", "law/", "law/.", "", ".", "..", "law\0", absolute] {
        assert!(opened.get(name).is_none(), "{name:?}");
    }
}

#[test]
fn a_single_folder_has_the_name_it_is_given_and_says_what_is_wrong_with_it() {
    let name = || AdapterName::new("mine").expect("it is a name");
    let (good, catalog) = (fixture("adapters/dora_r8"), MiniLm::new());
    let opened = AdapterDirectory::single(name(), &good, catalog.catalog());
    assert_eq!(served(&opened), ["mine"]);
    let opened = AdapterDirectory::single(name(), &fixture("bad/config_missing"), catalog.catalog());
    let refused = opened.refused();
    assert!(
        matches!(&*refused[0].reason, Refusal::Adapter(AdapterError::ConfigMissing { .. })),
        "{}",
        refused[0]
    );
}

#[test]
fn a_directory_that_is_none_is_said() {
    let missing = fixture("no_such_folder");
    let error = AdapterDirectory::open(&missing, MiniLm::new().catalog()).expect_err("it is not there");
    assert!(error.to_string().contains("no_such_folder"), "{error}");
}

#[cfg(unix)]
mod links {
    use super::*;
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, os::unix::fs::symlink};

    #[test]
    fn a_linked_folder_is_served_only_from_inside_the_directory() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
        copy_adapter("adapters/qv_r8", &inside.join("v1"));
        copy_adapter("adapters/qv_r8", &outside);
        symlink("v1", inside.join("current")).expect("a link");
        symlink(&outside, inside.join("leak")).expect("a link");
        symlink("../outside", inside.join("leak_up")).expect("a link");
        symlink("nowhere", inside.join("dangling")).expect("a link");
        // Not even whether an adapter is there is told of a folder outside.
        fs::create_dir(root.path().join("empty")).expect("it can be made");
        symlink("../empty", inside.join("leak_nothing")).expect("a link");
        let opened = open(&inside);
        assert_eq!(served(&opened), ["current", "v1"]);
        let refused = opened.refused();
        let names: Vec<&str> = refused.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["dangling", "leak", "leak_nothing", "leak_up"]);
        assert!(matches!(&*refused[0].reason, Refusal::Io { .. }));
        for leak in &refused[1..] {
            let Refusal::OutsideDirectory { found, .. } = &*leak.reason else { panic!("{leak}") };
            let outside =
                if leak.name == "leak_nothing" { root.path().join("empty") } else { outside.clone() };
            assert_eq!(*found, outside.canonicalize().expect("it exists"));
        }
    }

    #[test]
    fn files_of_a_sub_folder_may_not_be_links_out_of_it_and_those_of_a_named_folder_may() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("linked");
        fs::create_dir(&folder).expect("it can be made");
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            symlink(fixture("adapters/qv_r8").join(file), folder.join(file)).expect("a link");
        }
        let refused = open(root.path()).refused();
        assert!(
            matches!(&*refused[0].reason, Refusal::Adapter(AdapterError::OutsideFolder { .. })),
            "{}",
            refused[0]
        );
        let named = AdapterSource::named(folder);
        assert_eq!(named.inspect(MiniLm::new().catalog()).expect("links are followed").max_rank(), 8);
    }

    #[test]
    fn a_folder_whose_name_is_none_is_refused_and_shown_escaped() {
        let root = tempfile::tempdir().expect("a temporary folder");
        for name in [&b"bell\x07"[..], b"caf\xe9"] {
            copy_adapter("adapters/qv_r8", &root.path().join(OsStr::from_bytes(name)));
        }
        let opened = open(root.path());
        assert!(served(&opened).is_empty());
        let refused = opened.refused();
        assert!(matches!(&*refused[0].reason, Refusal::Name(NameError::Character { character: '\x07', .. })));
        assert!(matches!(&*refused[1].reason, Refusal::Name(NameError::NotUtf8 { .. })));
        assert!(refused.iter().all(|r| !r.to_string().contains(char::is_control)));
    }
}
