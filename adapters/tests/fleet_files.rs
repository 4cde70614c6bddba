//! Laws of adapters whose files change under the fleet.

mod minilm;

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use minilm::{MiniLm, copy_adapter, fixture};
use polylora_adapters::{
    AdapterError, Answering, Base, Fleet, FleetFound, FleetOptions, FleetParts, LoadError, LoadedAdapter,
    Refusal, Roots,
};

const NEVER: Duration = Duration::from_secs(3600);

/// Files are compared on every load and nothing is held back.
fn eager() -> FleetOptions {
    FleetOptions { recheck_after: Duration::ZERO, retry_after: Duration::ZERO, ..FleetOptions::new(64 << 20) }
}

fn calm() -> FleetOptions {
    FleetOptions { recheck_after: NEVER, retry_after: NEVER, ..eager() }
}

fn fleet(directory: &Path, options: FleetOptions) -> Fleet {
    let roots = Roots::new(Some(directory), None).expect("the directory is there");
    let parts = FleetParts {
        bases: vec![Base::new("minilm".to_owned(), Arc::new(MiniLm::new()))],
        state_dir: None,
        roots,
    };
    Fleet::open(parts, options).expect("the directory can be listed")
}

fn load(fleet: &Fleet, name: &str) -> Result<LoadedAdapter, LoadError> {
    fleet.get(name).map(|Answering { adapter, .. }| adapter)
}

fn find(fleet: &Fleet, name: &str) -> Result<Option<LoadedAdapter>, LoadError> {
    Ok(match fleet.find(name, None)? {
        FleetFound::Loaded(answering) => Some(answering.adapter),
        FleetFound::NotLoaded(_) => None,
    })
}

fn names(fleet: &Fleet) -> Vec<String> {
    fleet.served().into_iter().map(|version| version.name.to_string()).collect()
}

fn refusal(outcome: Result<LoadedAdapter, LoadError>) -> Arc<Refusal> {
    match outcome {
        Err(LoadError::Refused { reason, .. }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it loads"),
    }
}

/// Puts another adapter into a folder, by renaming a finished copy into its place.
fn replace(folder: &Path, by: &str) {
    let (next, old) = (folder.with_extension("next"), folder.with_extension("old"));
    copy_adapter(by, &next);
    fs::rename(folder, &old).expect("it can be renamed");
    fs::rename(&next, folder).expect("it can be renamed");
    fs::remove_dir_all(old).expect("it can be removed");
}

#[test]
fn every_adapter_is_read_once_at_the_start_and_listed_by_its_content() {
    let fleet = fleet(&fixture("adapters"), FleetOptions::new(64 << 20));
    let served = fleet.served();
    for version in &served {
        let folder = version.source.folder().expect("a folder");
        assert!(folder.ends_with(version.name.as_str()) && version.created_at.0 > 0);
        assert!(version.content.ranks.last() > Some(&0) && version.content.has_effect);
        assert_eq!(load(&fleet, version.name.as_str()).expect("it loads").digest, version.digest);
    }
    let mut digests: Vec<_> = served.iter().map(|version| version.digest).collect();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 7, "different contents have different digests");
    let memory = fleet.memory();
    assert_eq!(
        (memory.adapters, memory.loads, memory.failed_loads),
        (7, 0, 0),
        "the start has read them all"
    );
}

#[test]
fn eviction_and_reload_give_the_same_digest_and_values() {
    let fleet = fleet(&fixture("adapters"), FleetOptions { host_cache_bytes: 1 << 20, ..eager() });
    let names = names(&fleet);
    let first: Vec<_> = names.iter().map(|name| load(&fleet, name).expect("it loads")).collect();
    assert!(fleet.memory().adapters < 7, "the cache is too small for all");
    for (name, before) in names.iter().zip(&first) {
        let again = load(&fleet, name).expect("it loads again");
        assert_eq!(again.digest, before.digest);
        assert_eq!(again.extent.values(), before.extent.values());
    }
    let memory = fleet.memory();
    assert!(memory.loads > 7 && memory.bytes <= memory.capacity_bytes);
}

#[test]
fn a_name_that_is_not_served_is_unknown() {
    let fleet = fleet(&fixture("adapters"), eager());
    for name in ["", "..", "no_such", "../bad/_good_control", "qv_r8/", "qv_r8@9.9.9", "no_such@1.0.0"] {
        assert!(
            matches!(load(&fleet, name), Err(LoadError::Unknown { name: said, .. }) if said == name),
            "{name}"
        );
    }
}

#[test]
fn finding_reads_no_file_and_leaves_to_loading_what_it_cannot_know() {
    let root = tempfile::tempdir().expect("a temporary folder");
    copy_adapter("adapters/qv_r8", &root.path().join("law"));
    copy_adapter("bad/truncated", &root.path().join("cut"));
    let (calm, eager) = (fleet(root.path(), calm()), fleet(root.path(), eager()));
    let loaded = load(&calm, "law").expect("it loads");
    load(&eager, "law").expect("it loads");
    fs::remove_dir_all(root.path().join("law")).expect("it can be removed");
    let found = find(&calm, "law").expect("it is served").expect("it is kept");
    assert!(Arc::ptr_eq(&found.extent, &loaded.extent));
    assert!(matches!(find(&calm, "cut"), Err(LoadError::Refused { .. })));
    assert!(find(&calm, "none").expect("it may have come").is_none());
    assert!(matches!(load(&calm, "none"), Err(LoadError::Unknown { .. })));
    assert!(
        matches!(find(&calm, "none"), Err(LoadError::Unknown { .. })),
        "it is not looked for again at once"
    );
    assert!(find(&eager, "law").expect("it was served").is_none(), "its files must be looked at first");
    assert!(find(&eager, "cut").expect("it may be good by now").is_none());
}

#[test]
fn what_only_the_tensors_tell_is_refused_from_the_start() {
    let fleet = fleet(&fixture("bad"), calm());
    let reasons: Vec<_> = thread::scope(|scope| {
        let ask = || refusal(load(&fleet, "nan_weights"));
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|t| t.join().expect("no thread panics")).collect()
    });
    assert!(matches!(&*reasons[0], Refusal::Adapter(AdapterError::NotFinite { .. })));
    assert!(
        reasons.iter().all(|reason| Arc::ptr_eq(reason, &reasons[0])),
        "a bad adapter is not read for every request"
    );
    assert!(!names(&fleet).contains(&"nan_weights".to_owned()));
    assert!(fleet.refused().iter().any(|r| r.name == "nan_weights"));
    fleet.refresh("nan_weights");
    assert!(
        !Arc::ptr_eq(&refusal(load(&fleet, "nan_weights")), &reasons[0]),
        "an operator's refresh ends the pause"
    );
    assert!(load(&fleet, "_good_control").is_ok());
}

#[test]
fn replaced_files_are_served_under_the_same_name_and_the_old_weights_never_again() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("law");
    copy_adapter("adapters/qv_r8", &folder);
    let fleet = fleet(root.path(), eager());
    let old = load(&fleet, "law").expect("it loads");
    replace(&folder, "adapters/attn_r16");
    let new = load(&fleet, "law").expect("it loads");
    assert_ne!(new.digest, old.digest);
    assert_eq!(fleet.served()[0].content.ranks, [16]);
    assert_eq!(fleet.served()[0].digest, new.digest);
    assert!(old.extent.values().iter().any(|v| *v != 0.0), "who holds the old one keeps it");
    replace(&folder, "adapters/qv_r8");
    assert_eq!(
        load(&fleet, "law").expect("it loads").digest,
        old.digest,
        "the same content is the same adapter"
    );
}

#[test]
fn replaced_files_are_noticed_at_once_by_refresh_and_otherwise_after_the_pause() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("law");
    copy_adapter("adapters/qv_r8", &folder);
    let fleet = fleet(root.path(), calm());
    let old = load(&fleet, "law").expect("it loads").digest;
    replace(&folder, "adapters/attn_r16");
    assert_eq!(load(&fleet, "law").expect("it is kept").digest, old);
    fleet.refresh("law");
    assert_ne!(load(&fleet, "law").expect("it loads").digest, old);
}

#[test]
fn a_folder_that_turns_bad_is_refused_and_served_again_once_it_is_good() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("law");
    copy_adapter("adapters/qv_r8", &folder);
    let fleet = fleet(root.path(), eager());
    let good = load(&fleet, "law").expect("it loads").digest;
    for bad in ["bad/truncated", "bad/nan_weights", "bad/pickle_only", "bad/config_missing"] {
        replace(&folder, bad);
        assert!(matches!(&*refusal(load(&fleet, "law")), Refusal::Adapter(_)), "{bad}");
        assert!(names(&fleet).is_empty() && fleet.refused().len() == 1, "{bad}");
    }
    fs::remove_dir_all(&folder).expect("it can be removed");
    refusal(load(&fleet, "law"));
    copy_adapter("adapters/qv_r8", &folder);
    assert_eq!(load(&fleet, "law").expect("it is back").digest, good);
    assert_eq!(names(&fleet), ["law"]);
}

#[cfg(unix)]
#[test]
fn a_link_that_is_led_out_of_the_directory_later_is_refused() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().expect("a temporary folder");
    let inside = root.path().join("inside");
    copy_adapter("adapters/qv_r8", &inside.join("v1"));
    copy_adapter("adapters/attn_r16", &inside.join("v2"));
    copy_adapter("adapters/qv_r8", &root.path().join("outside"));
    let link = inside.join("current");
    let lead_to = |target: &str| {
        fs::remove_file(&link).ok();
        symlink(target, &link).expect("a link");
    };
    lead_to("v1");
    let fleet = fleet(&inside, eager());
    let v1 = load(&fleet, "current").expect("it loads").digest;
    lead_to("v2");
    assert_ne!(
        load(&fleet, "current").expect("it loads").digest,
        v1,
        "a link led elsewhere is another content"
    );
    // The very files that were served, only that they now lie outside.
    fs::rename(inside.join("v2"), root.path().join("moved")).expect("it can be moved");
    lead_to("../moved");
    assert!(matches!(&*refusal(load(&fleet, "current")), Refusal::OutsideDirectory { .. }));
    lead_to("v1");
    assert_eq!(load(&fleet, "current").expect("it is back inside").digest, v1);
    lead_to("../outside");
    assert!(matches!(&*refusal(load(&fleet, "current")), Refusal::OutsideDirectory { .. }));
}

#[test]
fn a_single_folder_has_the_name_it_is_given_and_says_what_is_wrong_with_it() {
    let single = |folder: &str| {
        let roots = Roots::single("mine", &fixture(folder)).expect("it is a name");
        let parts = FleetParts {
            bases: vec![Base::new("minilm".to_owned(), Arc::new(MiniLm::new()))],
            state_dir: None,
            roots,
        };
        Fleet::open(parts, calm()).expect("nothing is listed")
    };
    assert_eq!(names(&single("adapters/dora_r8")), ["mine"]);
    let refused = single("bad/config_missing").refused();
    assert!(
        matches!(&*refused[0].reason, Refusal::Adapter(AdapterError::ConfigMissing { .. })),
        "{}",
        refused[0]
    );
}

#[cfg(unix)]
#[test]
fn files_of_a_named_folder_may_be_links() {
    let root = tempfile::tempdir().expect("a temporary folder");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::os::unix::fs::symlink(fixture("adapters/qv_r8").join(file), root.path().join(file))
            .expect("a link");
    }
    let roots = Roots::single("mine", root.path()).expect("it is a name");
    let parts = FleetParts {
        bases: vec![Base::new("minilm".to_owned(), Arc::new(MiniLm::new()))],
        state_dir: None,
        roots,
    };
    let fleet = Fleet::open(parts, calm()).expect("nothing is listed");
    assert_eq!(names(&fleet), ["mine"]);
    assert!(load(&fleet, "mine").is_ok());
}

#[test]
fn of_two_base_models_that_an_adapter_fits_it_is_for_the_one_that_it_names() {
    let root = tempfile::tempdir().expect("a temporary folder");
    for (name, told) in
        [("a", "org/Second-Base"), ("b", "/models/first-base/"), ("c", "org/third"), ("d", "")]
    {
        let folder = root.path().join(name);
        copy_adapter("adapters/qv_r8", &folder);
        let config = folder.join("adapter_config.json");
        let text = fs::read_to_string(&config).expect("a config");
        let mut fields: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        fields["base_model_name_or_path"] = told.into();
        fs::write(config, fields.to_string()).expect("it can be written");
    }
    let base = |name: &str| Base::new(name.to_owned(), Arc::new(MiniLm::new()));
    let parts = FleetParts {
        bases: vec![base("First-Base"), base("org/second-base")],
        state_dir: None,
        roots: Roots::new(Some(root.path()), None).expect("the directory is there"),
    };
    let fleet = Fleet::open(parts, calm()).expect("the directory can be listed");
    let bases: Vec<_> = fleet.served().into_iter().map(|version| version.base.name.clone()).collect();
    assert_eq!(bases, ["org/second-base", "First-Base", "First-Base", "First-Base"]);
}
