//! What a fleet does when files, versions and requests change at the same time: nobody gets another's weights, and what was
//! taken out of service does not come back by itself.

mod minilm;

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use minilm::{MiniLm, copy_adapter};
use polylora_adapters::{
    About, Activate, AdapterName, Base, BasisPoints, Change, Fleet, FleetFound, FleetOptions, FleetParts,
    LoadError, Refusal, RegisterVirtual, Roots, Selector, Ticket,
};
use tempfile::TempDir;

/// A fleet that looks at the files before each use.
fn fleet(adapters: &Path) -> Fleet {
    let options = FleetOptions {
        recheck_after: Duration::ZERO,
        retry_after: Duration::ZERO,
        ..FleetOptions::new(64 << 20)
    };
    fleet_with(adapters, options)
}

fn fleet_with(adapters: &Path, options: FleetOptions) -> Fleet {
    let parts = FleetParts {
        bases: vec![Base::new("minilm".to_owned(), Arc::new(MiniLm::new()))],
        state_dir: None,
        roots: Roots::new(Some(adapters), None).unwrap(),
    };
    Fleet::open(parts, options).unwrap()
}

fn put(root: &TempDir, fixture: &str, at: &str) {
    let folder = root.path().join(at);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    copy_adapter(fixture, &folder);
}

fn name(text: &str) -> AdapterName {
    AdapterName::new(text).unwrap()
}

fn ticket(fleet: &Fleet, model: &str) -> Ticket {
    match fleet.find(model, None).unwrap() {
        FleetFound::NotLoaded(ticket) => ticket,
        FleetFound::Loaded(_) => panic!("{model} is looked at before each use"),
    }
}

fn refusal(error: LoadError) -> Arc<Refusal> {
    match error {
        LoadError::Refused { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

fn delete(of: &str) -> Change {
    Change::Delete { name: name(of), version: None, is_buried: true, expect: None }
}

fn retire(of: &str) -> Change {
    Change::Retire { name: name(of), version: None, expect: None }
}

#[test]
fn who_asks_for_a_version_never_gets_what_replaced_its_files_and_who_asks_for_the_name_does() {
    let root = tempfile::tempdir().unwrap();
    put(&root, "adapters/qv_r8", "law");
    let fleet = fleet(root.path());
    let first = fleet.get("law").unwrap().version;
    let (exact, current) = (ticket(&fleet, "law@1.0.0"), ticket(&fleet, "law"));
    put(&root, "adapters/attn_r16", "law");
    let reason = refusal(fleet.load(&exact).unwrap_err());
    assert!(matches!(*reason, Refusal::Replaced { .. }), "{reason}");
    let second = fleet.load(&current).unwrap().version;
    assert_eq!((second.label.to_string().as_str(), second.digest == first.digest), ("1.0.1", false));
    assert!(fleet.get("law@1.0.0").is_err(), "its files are no longer its own");
    put(&root, "adapters/qv_r8", "law");
    assert_eq!(
        fleet.get("law@1.0.0").unwrap().version.id,
        first.id,
        "files that come back are the same version"
    );
}

#[test]
fn a_name_that_is_deleted_while_its_ticket_waits_does_not_come_back_with_it() {
    for change in [delete("law"), retire("law")] {
        let root = tempfile::tempdir().unwrap();
        put(&root, "adapters/qv_r8", "law");
        let fleet = fleet(root.path());
        let waiting = [ticket(&fleet, "law"), ticket(&fleet, "law@1.0.0")];
        put(&root, "adapters/attn_r16", "law");
        fleet.operate(change).unwrap();
        for ticket in waiting {
            let _ = fleet.load(&ticket);
        }
        assert!(fleet.served().is_empty(), "{:?}", fleet.served());
    }
}

#[test]
fn a_retired_adapter_stays_retired_however_its_folder_is_touched_or_replaced() {
    let root = tempfile::tempdir().unwrap();
    put(&root, "adapters/qv_r8", "law");
    let fleet = fleet(root.path());
    fleet.operate(retire("law")).unwrap();
    for fixture in ["adapters/qv_r8", "adapters/attn_r16"] {
        put(&root, fixture, "law");
        fleet.rescan().unwrap();
        assert!(fleet.served().is_empty() && fleet.get("law").is_err(), "{fixture}");
    }
}

#[test]
fn a_candidate_whose_files_are_replaced_is_tried_on_with_what_replaced_them() {
    let root = tempfile::tempdir().unwrap();
    put(&root, "adapters/qv_r8", "law/v2.0.0");
    put(&root, "adapters/attn_r16", "law/v1.0.0");
    let fleet = fleet(root.path());
    let share = BasisPoints::from_percent(40.0).unwrap();
    let candidate = Selector::parse("1.0.0").unwrap();
    fleet.operate(Change::Split { name: name("law"), candidate, share, expect: None }).unwrap();
    let before = fleet.registry().alias("law").unwrap().split.unwrap();
    put(&root, "adapters/dora_r8", "law/v1.0.0");
    fleet.load(&Ticket::Current(before.candidate)).unwrap();
    let after = fleet.registry().alias("law").unwrap().split.unwrap();
    assert_eq!((after.share, after.candidate != before.candidate), (before.share, true));
    assert_eq!(fleet.get("law").unwrap().version.label.to_string(), "2.0.0");
}

#[test]
fn a_name_that_is_full_keeps_answering_and_says_so_to_who_replaces_its_files() {
    let root = tempfile::tempdir().unwrap();
    put(&root, "adapters/qv_r8", "law");
    put(&root, "adapters/attn_r16", "med");
    let fleet = fleet(root.path());
    let mut weight = 0.0;
    let full = loop {
        weight += 1.0 / 1024.0;
        let parts = vec![("med".to_owned(), weight)];
        let (label, about, activate) = (None, About::default(), Activate::Never);
        if let Err(error) =
            fleet.register_virtual(RegisterVirtual { name: name("law"), parts, label, about, activate })
        {
            break error;
        }
    };
    assert!(full.to_string().contains("1000"), "{full}");
    put(&root, "adapters/dora_r8", "law");
    let reason = refusal(fleet.get("law").unwrap_err());
    assert!(matches!(*reason, Refusal::Unregistered { .. }), "{reason}");
    put(&root, "adapters/qv_r8", "law");
    assert_eq!(fleet.get("law").unwrap().version.label.to_string(), "1.0.0");
}

#[test]
fn looking_at_the_folders_while_files_are_replaced_leads_nobody_back_to_old_ones() {
    let root = tempfile::tempdir().unwrap();
    put(&root, "adapters/qv_r8", "law");
    let fleet = fleet(root.path());
    for round in 0..12 {
        let fixture = ["adapters/attn_r16", "adapters/dora_r8", "adapters/qv_r8"][round % 3];
        put(&root, fixture, "law");
        let answering = thread::scope(|scope| {
            scope.spawn(|| fleet.rescan().unwrap());
            let asked = scope.spawn(|| fleet.get("law").unwrap());
            scope.spawn(|| fleet.rescan().unwrap());
            asked.join().unwrap()
        });
        let after = fleet.get("law").unwrap();
        assert_eq!(after.version.id, answering.version.id, "round {round}");
        assert_eq!(fleet.registry().alias("law").unwrap().active, Some(after.version.id), "round {round}");
    }
}

#[test]
fn figures_of_a_version_count_its_own_loads_hits_and_evictions() {
    let root = tempfile::tempdir().unwrap();
    put(&root, "adapters/qv_r8", "law");
    put(&root, "adapters/attn_r16", "med");
    let options = FleetOptions { most_in_host_cache: Some(1), ..FleetOptions::new(64 << 20) };
    let fleet = fleet_with(root.path(), options);
    for model in ["law", "law", "med", "law"] {
        fleet.get(model).unwrap();
    }
    let [law, med] = ["law", "med"].map(|model| fleet.version(model, None).unwrap());
    let (law_in_host, _) = fleet.tier_figures(&law);
    let (med_in_host, med_on_device) = fleet.tier_figures(&med);
    let sum = fleet.memory();
    assert_eq!(law_in_host.hits + med_in_host.hits, sum.hits);
    assert_eq!(law_in_host.loads + med_in_host.loads, sum.loads);
    assert_eq!(law_in_host.evictions + med_in_host.evictions, sum.evictions);
    assert!(law_in_host.loads > 0 && law_in_host.load_micros > 0 && med_in_host.evictions > 0);
    assert_eq!(med_on_device, Default::default(), "no device has it");
    fleet.operate(delete("law")).unwrap();
    assert_eq!(fleet.tier_figures(&law).0, Default::default(), "figures go with the version");
    assert_eq!(fleet.tier_figures(&med).0, med_in_host);
}
