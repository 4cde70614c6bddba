//! Laws of loading adapters by name.

mod minilm;

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use minilm::{MiniLm, copy_adapter, fixture};
use polylora_adapters::{
    AdapterDirectory, AdapterError, AdapterStore, BaseModel, LoadError, LoadedAdapter, Refusal, StoreOptions,
};

const NEVER: Duration = Duration::from_secs(3600);
/// Files are compared on every load and nothing is held back.
const EAGER: StoreOptions = StoreOptions {
    host_cache_bytes: 64 << 20,
    recheck_after: Duration::ZERO,
    retry_after: Duration::ZERO,
    counts_packed: false,
};

fn store(directory: &Path, options: StoreOptions) -> AdapterStore {
    let base = MiniLm::new();
    let opened = AdapterDirectory::open(directory, base.catalog()).expect("the directory can be listed");
    AdapterStore::new(opened, Arc::new(base), options)
}

fn names(store: &AdapterStore) -> Vec<String> {
    store.infos().into_iter().map(|info| info.name.to_string()).collect()
}

fn refusal(outcome: Result<LoadedAdapter, LoadError>) -> Arc<Refusal> {
    match outcome {
        Err(LoadError::Refused { reason, .. }) => reason,
        Err(LoadError::Unknown { name }) => panic!("{name} is unknown"),
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
fn every_adapter_loads_and_is_listed_with_its_digest_from_then_on() {
    let store = store(&fixture("adapters"), StoreOptions::new(64 << 20));
    for info in store.infos() {
        assert_eq!(info.digest, None, "nothing is read before it is asked for");
        assert!(info.max_rank > 0 && info.created > 0 && info.path.ends_with(info.name.as_str()));
    }
    assert_eq!(store.memory().loads, 0);
    let mut digests: Vec<_> =
        names(&store).iter().map(|name| store.load(name).expect("it loads").digest).collect();
    assert_eq!(store.infos().iter().filter_map(|info| info.digest).collect::<Vec<_>>(), digests);
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 7, "different contents have different digests");
    let memory = store.memory();
    assert_eq!((memory.adapters, memory.loads, memory.failed_loads), (7, 7, 0));
}

#[test]
fn eviction_and_reload_give_the_same_digest_and_values() {
    let store = store(&fixture("adapters"), StoreOptions { host_cache_bytes: 1 << 20, ..EAGER });
    let names = names(&store);
    let first: Vec<_> = names.iter().map(|name| store.load(name).expect("it loads")).collect();
    assert!(store.memory().adapters < 7, "the cache is too small for all");
    for (name, before) in names.iter().zip(&first) {
        let again = store.load(name).expect("it loads again");
        assert_eq!(again.digest, before.digest);
        assert_eq!(again.extent.values(), before.extent.values());
    }
    let memory = store.memory();
    assert!(memory.loads > 7 && memory.bytes <= memory.capacity_bytes);
}

#[test]
fn a_name_that_is_not_served_is_unknown() {
    let store = store(&fixture("adapters"), EAGER);
    for name in ["", "..", "no_such", "../bad/_good_control", "qv_r8/"] {
        assert!(matches!(store.load(name), Err(LoadError::Unknown { name: said }) if said == name));
    }
}

#[test]
fn finding_reads_no_file_and_leaves_to_loading_what_it_cannot_know() {
    let root = tempfile::tempdir().expect("a temporary folder");
    copy_adapter("adapters/qv_r8", &root.path().join("law"));
    copy_adapter("bad/truncated", &root.path().join("cut"));
    let calm = StoreOptions { recheck_after: NEVER, retry_after: NEVER, ..EAGER };
    let (calm, eager) = (store(root.path(), calm), store(root.path(), EAGER));
    assert!(calm.find("law").expect("it is served").is_none(), "it was not loaded yet");
    let loaded = calm.load("law").expect("it loads");
    eager.load("law").expect("it loads");
    fs::remove_dir_all(root.path().join("law")).expect("it can be removed");
    let found = calm.find("law").expect("it is served").expect("it is kept");
    assert!(Arc::ptr_eq(&found.extent, &loaded.extent));
    assert!(matches!(calm.find("cut"), Err(LoadError::Refused { .. })));
    assert!(matches!(calm.find("none"), Err(LoadError::Unknown { .. })));
    assert!(eager.find("law").expect("it was served").is_none(), "its files must be looked at first");
    assert!(eager.find("cut").expect("it may be good by now").is_none());
}

#[test]
fn what_only_the_tensors_tell_is_refused_on_first_use_for_all_who_ask() {
    let store = store(&fixture("bad"), StoreOptions { retry_after: NEVER, ..EAGER });
    assert!(names(&store).contains(&"nan_weights".to_owned()));
    let reasons: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| refusal(store.load("nan_weights")))).collect();
        threads.into_iter().map(|t| t.join().expect("no thread panics")).collect()
    });
    assert!(matches!(&*reasons[0], Refusal::Adapter(AdapterError::NotFinite { .. })));
    assert!(reasons.iter().all(|reason| Arc::ptr_eq(reason, &reasons[0])));
    assert_eq!(store.memory().failed_loads, 1, "a bad adapter is not read for every request");
    assert!(!names(&store).contains(&"nan_weights".to_owned()));
    assert!(store.refused().iter().any(|r| r.name == "nan_weights"));
    store.refresh("nan_weights").expect("its header is right");
    refusal(store.load("nan_weights"));
    assert_eq!(store.memory().failed_loads, 2, "an operator's refresh ends the pause");
    assert!(store.load("_good_control").is_ok());
}

#[test]
fn replaced_files_are_served_under_the_same_name_and_the_old_weights_never_again() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("law");
    copy_adapter("adapters/qv_r8", &folder);
    let store = store(root.path(), EAGER);
    let old = store.load("law").expect("it loads");
    replace(&folder, "adapters/attn_r16");
    let new = store.load("law").expect("it loads");
    assert_ne!(new.digest, old.digest);
    assert_eq!(store.infos()[0].max_rank, 16);
    assert_eq!(store.infos()[0].digest, Some(new.digest));
    assert_eq!(store.memory().adapters, 1, "the old one is not kept");
    assert!(old.extent.values().iter().any(|v| *v != 0.0), "who holds the old one keeps it");
    replace(&folder, "adapters/qv_r8");
    assert_eq!(
        store.load("law").expect("it loads").digest,
        old.digest,
        "the same content is the same adapter"
    );
}

#[test]
fn replaced_files_are_noticed_at_once_by_refresh_and_otherwise_after_the_pause() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("law");
    copy_adapter("adapters/qv_r8", &folder);
    let store = store(root.path(), StoreOptions { recheck_after: NEVER, retry_after: NEVER, ..EAGER });
    let old = store.load("law").expect("it loads").digest;
    replace(&folder, "adapters/attn_r16");
    assert_eq!(store.load("law").expect("it is kept").digest, old);
    store.refresh("law").expect("the new one is good");
    assert_ne!(store.load("law").expect("it loads").digest, old);
}

#[test]
fn files_that_changed_unnoticed_are_inspected_anew_before_they_are_served() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("law");
    copy_adapter("adapters/qv_r8", &folder);
    let store = store(root.path(), StoreOptions { recheck_after: NEVER, retry_after: NEVER, ..EAGER });
    replace(&folder, "adapters/attn_r16");
    let loaded = store.load("law").expect("it loads");
    let info = &store.infos()[0];
    assert_eq!(
        (info.max_rank, info.digest),
        (16, Some(loaded.digest)),
        "listing and weights are of one state"
    );
}

#[test]
fn a_folder_that_turns_bad_is_refused_and_served_again_once_it_is_good() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("law");
    copy_adapter("adapters/qv_r8", &folder);
    let store = store(root.path(), EAGER);
    let good = store.load("law").expect("it loads").digest;
    for bad in ["bad/truncated", "bad/nan_weights", "bad/pickle_only", "bad/config_missing"] {
        replace(&folder, bad);
        assert!(matches!(&*refusal(store.load("law")), Refusal::Adapter(_)), "{bad}");
        assert!(names(&store).is_empty() && store.refused().len() == 1, "{bad}");
    }
    fs::remove_dir_all(&folder).expect("it can be removed");
    refusal(store.load("law"));
    copy_adapter("adapters/qv_r8", &folder);
    assert_eq!(store.load("law").expect("it is back").digest, good);
    assert_eq!(names(&store), ["law"]);
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
    let store = store(&inside, EAGER);
    let v1 = store.load("current").expect("it loads").digest;
    lead_to("v2");
    assert_ne!(
        store.load("current").expect("it loads").digest,
        v1,
        "a link led elsewhere is another content"
    );
    // The very files that were served, only that they now lie outside.
    fs::rename(inside.join("v2"), root.path().join("moved")).expect("it can be moved");
    lead_to("../moved");
    assert!(matches!(&*refusal(store.load("current")), Refusal::OutsideDirectory { .. }));
    lead_to("v1");
    assert_eq!(store.load("current").expect("it is back inside").digest, v1);
    lead_to("../outside");
    assert!(matches!(&*refusal(store.load("current")), Refusal::OutsideDirectory { .. }));
}
