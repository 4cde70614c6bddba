//! Laws of a fleet's life: versions, A/B tests, promotion, rollback, pins, virtual adapters, and what survives.

mod minilm;

use std::{fs, path::Path, sync::Arc, time::Duration};

use minilm::{MiniLm, copy_adapter};
use polylora_adapters::{
    About, Activate, AdapterName, Base, BasisPoints, Change, Comparison, Fleet, FleetError, FleetFound,
    FleetOptions, FleetParts, LoadError, RegisterFolder, RegisterVirtual, RollbackRule, Roots, Selector,
    SplitKey, State, Watcher,
};
use tempfile::TempDir;

struct Place {
    adapters: TempDir,
    state: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { adapters: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() }
    }

    fn put(&self, fixture: &str, at: &str) {
        let folder = self.adapters.path().join(at);
        fs::create_dir_all(folder.parent().unwrap()).unwrap();
        copy_adapter(fixture, &folder);
    }

    fn open(&self) -> Fleet {
        self.open_with(FleetOptions::new(64 << 20))
    }

    fn open_with(&self, options: FleetOptions) -> Fleet {
        let parts = FleetParts {
            bases: vec![Base::new("minilm".to_owned(), Arc::new(MiniLm::new()))],
            state_dir: Some(self.state.path()),
            roots: Roots::new(Some(self.adapters.path()), None).unwrap(),
        };
        Fleet::open(parts, options).unwrap()
    }
}

fn name(text: &str) -> AdapterName {
    AdapterName::new(text).unwrap()
}

fn select(text: &str) -> Option<Selector> {
    Some(Selector::parse(text).unwrap())
}

fn register(fleet: &Fleet, of: &str, path: &str, activate: Activate) -> Result<String, FleetError> {
    let request =
        RegisterFolder { name: name(of), path: path.into(), label: None, about: About::default(), activate };
    fleet.register_folder(request).map(|version| version.tag())
}

fn promote(of: &str, version: &str) -> Change {
    Change::Promote { name: name(of), version: select(version), expect: None }
}

fn answers(fleet: &Fleet, model: &str) -> String {
    fleet.get(model).unwrap().version.label.to_string()
}

#[test]
fn the_newest_version_of_a_layout_answers_and_a_later_one_waits_to_be_promoted() {
    let place = Place::new();
    place.put("adapters/qv_r8", "law/v1.0.0");
    place.put("adapters/attn_r16", "law/v1.10.0");
    place.put("adapters/qv_r8", "chat/checkpoint-500");
    place.put("adapters/attn_r16", "chat/checkpoint-1000");
    let fleet = place.open();
    assert_eq!((answers(&fleet, "law"), answers(&fleet, "chat")), ("1.10.0".into(), "0.0.1000".into()));
    assert_eq!(answers(&fleet, "law@1.0.0"), "1.0.0");
    place.put("adapters/dora_r8", "law/v2.0.0");
    let adopted = fleet.rescan().unwrap();
    assert_eq!((adopted.registered, adopted.activated), (1, 0));
    assert_eq!((answers(&fleet, "law"), answers(&fleet, "law@2.0.0")), ("1.10.0".into(), "2.0.0".into()));
    fleet.operate(promote("law", "2.0.0")).unwrap();
    assert_eq!(answers(&fleet, "law"), "2.0.0");
    fleet.operate(Change::Rollback { name: name("law"), expect: None }).unwrap();
    assert_eq!(answers(&fleet, "law"), "1.10.0");
}

#[test]
fn what_was_registered_promoted_and_counted_is_there_after_a_restart_without_reading_it_again() {
    let place = Place::new();
    place.put("adapters/qv_r8", "law/v1.0.0");
    place.put("adapters/attn_r16", "law/v2.0.0");
    let fleet = place.open();
    fleet.operate(promote("law", "1.0.0")).unwrap();
    fleet.operate(Change::Pin { name: name("law"), is_pinned: true }).unwrap();
    let id = fleet.get("law").unwrap().version.id;
    fleet.count(id, true, Duration::from_millis(3));
    fleet.flush_usage().unwrap();
    let before: Vec<_> = fleet.list().into_iter().map(|listed| listed.version).collect();
    drop(fleet);
    let fleet = place.open();
    assert_eq!(fleet.list().into_iter().map(|listed| listed.version).collect::<Vec<_>>(), before);
    assert_eq!(fleet.memory().adapters, 0, "files that did not change are not read at the start");
    assert_eq!(answers(&fleet, "law"), "1.0.0");
    assert_eq!(fleet.usage(id).requests, 1);
    assert!(fleet.list().iter().all(|listed| listed.is_pinned));
}

#[test]
fn a_deleted_adapter_is_not_picked_up_again_before_its_files_change_and_its_number_never_returns() {
    let place = Place::new();
    place.put("adapters/qv_r8", "law");
    let fleet = place.open();
    let first = fleet.get("law").unwrap().version.id;
    let delete = Change::Delete { name: name("law"), version: None, is_buried: true, expect: None };
    fleet.operate(delete.clone()).unwrap();
    assert_eq!(fleet.memory().adapters, 0, "its memory comes back");
    assert!(matches!(fleet.get("law"), Err(LoadError::Unknown { .. })));
    drop(fleet);
    let fleet = place.open();
    assert!(matches!(fleet.get("law"), Err(LoadError::Unknown { .. })));
    assert!(fleet.list().is_empty());
    fs::remove_dir_all(place.adapters.path().join("law")).unwrap();
    place.put("adapters/attn_r16", "law");
    fleet.rescan().unwrap();
    let second = fleet.get("law").unwrap().version.id;
    assert!(second > first);
    fleet.operate(delete).unwrap();
    drop(fleet);
    place.put("adapters/dora_r8", "chat");
    assert!(place.open().get("chat").unwrap().version.id > second);
}

#[test]
fn a_client_stays_on_his_side_of_a_test_and_promotion_ends_it() {
    let place = Place::new();
    place.put("adapters/qv_r8", "law/v1.0.0");
    place.put("adapters/attn_r16", "law/v0.9.0");
    let fleet = place.open();
    let share = BasisPoints::from_percent(30.0).unwrap();
    let candidate = Selector::parse("0.9.0").unwrap();
    fleet.operate(Change::Split { name: name("law"), candidate, share, expect: None }).unwrap();
    let side = |user: usize| {
        let key = Some(SplitKey::of(&format!("user {user}")));
        match fleet.find("law", key).unwrap() {
            FleetFound::Loaded(answering) => answering.version.label.to_string(),
            FleetFound::NotLoaded(ticket) => fleet.load(&ticket).unwrap().version.label.to_string(),
        }
    };
    let sides: Vec<_> = (0..1000).map(side).collect();
    let tried = sides.iter().filter(|label| *label == "0.9.0").count();
    assert!((230..370).contains(&tried), "{tried}");
    assert_eq!((0..1000).map(side).collect::<Vec<_>>(), sides);
    assert_eq!(answers(&fleet, "law"), "1.0.0", "who has no key is on the active side");
    fleet.operate(Change::Promote { name: name("law"), version: None, expect: None }).unwrap();
    assert!((0..1000).all(|user| side(user) == "0.9.0"));
    assert!(fleet.list().iter().all(|listed| listed.trial_percent.is_none()));
}

#[test]
fn a_promotion_that_expects_another_active_version_changes_nothing() {
    let place = Place::new();
    place.put("adapters/qv_r8", "law/v1.0.0");
    place.put("adapters/attn_r16", "law/v2.0.0");
    let fleet = place.open();
    let (old, new) =
        (fleet.get("law@1.0.0").unwrap().adapter.digest, fleet.get("law").unwrap().adapter.digest);
    let promote =
        |expect| Change::Promote { name: name("law"), version: select("1.0.0"), expect: Some(expect) };
    assert!(matches!(fleet.operate(promote(old)), Err(FleetError::Store(_))));
    assert_eq!(answers(&fleet, "law"), "2.0.0");
    fleet.operate(promote(new)).unwrap();
    assert_eq!(answers(&fleet, "law"), "1.0.0");
}

#[test]
fn nobody_is_led_to_a_version_whose_files_are_gone() {
    let place = Place::new();
    place.put("adapters/qv_r8", "law/v1.0.0");
    place.put("adapters/attn_r16", "law/v2.0.0");
    drop(place.open());
    fs::remove_dir_all(place.adapters.path().join("law/v1.0.0")).unwrap();
    let fleet = place.open();
    assert!(matches!(
        fleet.operate(promote("law", "1.0.0")),
        Err(FleetError::Load(LoadError::Refused { .. }))
    ));
    assert_eq!(answers(&fleet, "law"), "2.0.0");
    let states: Vec<_> = fleet.list().into_iter().map(|l| (l.version.label.to_string(), l.state)).collect();
    assert_eq!(states, [("1.0.0".to_owned(), State::Errored), ("2.0.0".to_owned(), State::Ready)]);
    place.put("adapters/qv_r8", "law/v1.0.0");
    fleet.refresh("law");
    assert_eq!(answers(&fleet, "law@1.0.0"), "1.0.0", "files that come back are the same version");
}

#[test]
fn paths_that_lead_out_of_the_roots_are_never_read() {
    let (place, outside) = (Place::new(), tempfile::tempdir().unwrap());
    copy_adapter("adapters/qv_r8", &outside.path().join("law"));
    place.put("adapters/qv_r8", "inside");
    let fleet = place.open();
    let escape = format!("../{}/law", outside.path().file_name().unwrap().to_str().unwrap());
    let absolute = outside.path().join("law").display().to_string();
    #[cfg(unix)]
    std::os::unix::fs::symlink(outside.path().join("law"), place.adapters.path().join("link")).unwrap();
    for path in [escape.as_str(), &absolute, "link", "/etc", ".", "", "nowhere"] {
        let refused = register(&fleet, "law", path, Activate::Now);
        assert!(matches!(refused, Err(FleetError::Path(_))), "{path}: {refused:?}");
    }
    assert_eq!(
        register(&fleet, "law", "inside", Activate::Now).unwrap().split('#').next(),
        Some("law@1.0.0")
    );
}

#[test]
fn a_virtual_adapter_is_one_content_and_keeps_its_parts_alive() {
    let place = Place::new();
    place.put("adapters/qv_r8", "law");
    place.put("adapters/attn_r16", "med");
    let fleet = place.open();
    let sum = |name_of: &str, weights: [f32; 2]| RegisterVirtual {
        name: name(name_of),
        parts: vec![("law".to_owned(), weights[0]), ("med@1.0.0".to_owned(), weights[1])],
        label: None,
        about: About::default(),
        activate: Activate::Now,
    };
    let made = fleet.register_virtual(sum("both", [0.5, 0.25])).unwrap();
    assert_eq!(fleet.register_virtual(sum("twin", [0.5, 0.25])).unwrap().digest, made.digest);
    assert_ne!(fleet.register_virtual(sum("other", [0.25, 0.5])).unwrap().digest, made.digest);
    let delete = Change::Delete { name: name("law"), version: None, is_buried: false, expect: None };
    assert!(matches!(fleet.operate(delete), Err(FleetError::Store(_))));
    let unknown = RegisterVirtual { parts: vec![("nobody".to_owned(), 1.0)], ..sum("third", [1.0, 1.0]) };
    assert!(matches!(fleet.register_virtual(unknown), Err(FleetError::UnknownPart { .. })));
    drop(fleet);
    let fleet = place.open();
    assert_eq!(fleet.get("both").unwrap().adapter.digest, made.digest, "it is made anew after a restart");
}

#[test]
fn a_candidate_that_fails_is_taken_out_of_its_test() {
    let place = Place::new();
    place.put("adapters/qv_r8", "law/v2.0.0");
    place.put("adapters/attn_r16", "law/v1.0.0");
    let fleet = place.open();
    let (candidate, share) = (Selector::parse("1.0.0").unwrap(), BasisPoints::from_percent(50.0).unwrap());
    fleet.operate(Change::Split { name: name("law"), candidate, share, expect: None }).unwrap();
    let [tried, active] = ["law@1.0.0", "law"].map(|model| fleet.get(model).unwrap().version.id);
    fleet.remember_requests();
    let rule = RollbackRule { factor: 2.0, window: Duration::from_secs(60) };
    for number in 0..60 {
        fleet.count(active, true, Duration::from_millis(5));
        fleet.count(tried, number % 4 > 0, Duration::from_millis(5));
        let ended = fleet.judge_trials(rule).unwrap();
        assert_eq!(ended, if number == 49 { vec![(name("law"), Comparison::Errors)] } else { vec![] });
    }
    assert!(fleet.list().iter().all(|listed| listed.trial_percent.is_none()));
    assert_eq!(answers(&fleet, "law"), "2.0.0");
}

#[test]
fn a_watched_directory_is_taken_in_once_it_rests_and_a_half_written_adapter_never() {
    let place = Place::new();
    place.put("adapters/qv_r8", "law");
    let fleet = Arc::new(
        place.open_with(FleetOptions { recheck_after: Duration::ZERO, ..FleetOptions::new(64 << 20) }),
    );
    let watcher = Watcher::start(Arc::clone(&fleet)).unwrap();
    let half = place.adapters.path().join("half");
    place.put("adapters/attn_r16", "half");
    let weights = half.join("adapter_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    place.put("adapters/dora_r8", "med");
    let is_there = |name: &str| fleet.served().iter().any(|version| version.name.as_str() == name);
    eventually(|| is_there("med"));
    assert!(!is_there("half") && fleet.refused().iter().any(|refused| refused.name == "half"));
    fs::write(&weights, &bytes).unwrap();
    eventually(|| is_there("half"));
    drop(watcher);
}

fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("it has not come to hold within 30 s");
}

#[test]
fn an_adapter_that_changes_nothing_is_served_and_ill() {
    let place = Place::new();
    place.put("adapters/qv_r8", "law");
    zero(&place.adapters.path().join("law/adapter_model.safetensors"));
    let fleet = place.open();
    let version = fleet.get("law").unwrap().version;
    assert!(!version.content.has_effect);
    let report = fleet.check(&version);
    let ill: Vec<_> = report.checks.iter().filter(|c| c.is_ok == Some(false)).map(|c| c.name).collect();
    assert_eq!(ill, ["effect"]);
    assert!(fleet.unservable().is_empty());
}

/// Fills the tensors of a safetensors file with zeros.
fn zero(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    bytes[8 + header..].fill(0);
    fs::write(file, bytes).unwrap();
}
