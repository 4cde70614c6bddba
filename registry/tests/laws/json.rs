//! The words of the record. They are on people's disks: a test here that fails means that those would not be read.

use polylora_registry::{
    About, BasisPoints, Cause, Event, Phase, Registry, Split, Timestamp, Usage, Version, VersionId,
};
use serde_json::json;

use crate::makers::{content, digest, folder, label, name, register, registry, sum_of};

const AT: Timestamp = Timestamp(5);
const ID: VersionId = VersionId(3);

fn version() -> Version {
    let new = content("law", 1);
    let mut about =
        About { domains: vec!["law".into()], task_type: Some("OTHER".into()), ..About::default() };
    about.training.insert("samples".into(), json!(9));
    about.thresholds.insert("yes".into(), 0.5);
    about.custom.insert("by".into(), json!("me"));
    Version {
        id: ID,
        name: new.name,
        label: label("1.0.0-rc.1"),
        digest: new.digest,
        content: new.content,
        source: new.source,
        base: new.base,
        created_at: AT,
        previous: Some(VersionId(2)),
        phase: Phase::Registered,
        about,
        probe: Some(vec![0.5]),
    }
}

fn version_json() -> String {
    let (one, base) = (digest(1), digest(255));
    [
        r#"{"id":3,"name":"law","label":"1.0.0-rc.1","digest":""#,
        &one.to_hex(),
        r#"","content":{"ranks":[8],"targets":["query"],"sites":6,"bytes":9,"has_effect":true},"#,
        r#""source":{"folder":{"path":"/adapters/1","stamp":{"config":{"len":1,"modified_ns":1,"inode":1},"#,
        r#""weights":{"len":1,"modified_ns":1,"inode":2}}}},"base":{"name":"base","digest":""#,
        &base.to_hex(),
        r#""},"created_at":5,"previous":2,"phase":"registered","about":{"domains":["law"],"task_type":"OTHER","#,
        r#""training":{"samples":9},"thresholds":{"yes":0.5},"custom":{"by":"me"}},"probe":[0.5]}"#,
    ]
    .concat()
}

#[test]
fn every_event_is_written_in_the_words_in_which_it_will_be_read() {
    let split = Split { candidate: ID, share: BasisPoints::from_percent(12.5).unwrap() };
    let activated = |cause| Event::Activated { name: name("law"), id: ID, cause, at: AT };
    let phased = |phase| Event::Phased { id: ID, phase, at: AT };
    let about = r#"{"domains":[],"task_type":null,"training":{},"thresholds":{},"custom":{}}"#;
    let written = [
        (Event::Registered(Box::new(version())), format!(r#"{{"registered":{}}}"#, version_json())),
        (
            Event::Moved { id: ID, source: sum_of(&[1, 2]) },
            r#"{"moved":{"id":3,"source":{"virtual":{"parts":[{"id":1,"weight":0.5},{"id":2,"weight":0.5}]}}}}"#.into(),
        ),
        (
            activated(Cause::Registration),
            r#"{"activated":{"name":"law","id":3,"cause":"registration","at":5}}"#.into(),
        ),
        (activated(Cause::Promotion), r#"{"activated":{"name":"law","id":3,"cause":"promotion","at":5}}"#.into()),
        (activated(Cause::Rollback), r#"{"activated":{"name":"law","id":3,"cause":"rollback","at":5}}"#.into()),
        (
            Event::Divided { name: name("law"), split: Some(split), at: AT },
            r#"{"divided":{"name":"law","split":{"candidate":3,"share":1250},"at":5}}"#.into(),
        ),
        (
            Event::Divided { name: name("law"), split: None, at: AT },
            r#"{"divided":{"name":"law","split":null,"at":5}}"#.into(),
        ),
        (phased(Phase::Registered), r#"{"phased":{"id":3,"phase":"registered","at":5}}"#.into()),
        (phased(Phase::Retired), r#"{"phased":{"id":3,"phase":"retired","at":5}}"#.into()),
        (
            phased(Phase::Errored { reason: "gone".into() }),
            r#"{"phased":{"id":3,"phase":{"errored":{"reason":"gone"}},"at":5}}"#.into(),
        ),
        (Event::Retired { name: name("law"), at: AT }, r#"{"retired":{"name":"law","at":5}}"#.into()),
        (
            Event::Deleted { id: ID, is_buried: true, at: AT },
            r#"{"deleted":{"id":3,"is_buried":true,"at":5}}"#.into(),
        ),
        (
            Event::Pinned { name: name("law"), is_pinned: true },
            r#"{"pinned":{"name":"law","is_pinned":true}}"#.into(),
        ),
        (
            Event::Described { id: ID, about: About::default() },
            format!(r#"{{"described":{{"id":3,"about":{about}}}}}"#),
        ),
        (Event::Probed { id: ID, probe: vec![0.1, -2.0] }, r#"{"probed":{"id":3,"probe":[0.1,-2.0]}}"#.into()),
    ];
    for (event, text) in written {
        // Whoever adds a variant comes by here, and adds it above.
        match event {
            Event::Registered(_)
            | Event::Moved { .. }
            | Event::Activated { .. }
            | Event::Divided { .. }
            | Event::Phased { .. }
            | Event::Retired { .. }
            | Event::Deleted { .. }
            | Event::Pinned { .. }
            | Event::Described { .. }
            | Event::Probed { .. } => {}
        }
        assert_eq!(serde_json::to_string(&event).unwrap(), text);
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}

#[test]
fn a_snapshot_is_written_in_the_words_in_which_it_will_be_read() {
    let delete = polylora_registry::Change::Delete {
        name: name("gone"),
        version: None,
        is_buried: true,
        expect: None,
    };
    let registry = registry([register("law", 1), register("gone", 2), delete]);
    let value = serde_json::to_value(&registry).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
    };
    assert_eq!(keys(&value), ["graves", "last_id", "names", "versions"]);
    assert_eq!(
        value["names"],
        json!({"law": {"active": 1, "split": null, "pinned": false, "versions": [1]}})
    );
    let numbers: Vec<_> =
        value["versions"].as_array().unwrap().iter().map(|version| &version["id"]).collect();
    assert_eq!(numbers, [1]);
    let stamp = json!({
        "config": {"len": 2, "modified_ns": 1, "inode": 1},
        "weights": {"len": 2, "modified_ns": 1, "inode": 2},
    });
    let digest = digest(2).to_hex();
    assert_eq!(
        value["graves"],
        json!([{"name": "gone", "path": "/adapters/2", "stamp": stamp, "digest": digest}])
    );
    assert_eq!(serde_json::from_value::<Registry>(value).unwrap(), registry);
}

#[test]
fn what_an_older_program_wrote_is_read_without_the_newer_fields() {
    let text = r#"{"described":{"id":3,"about":{"domains":["law"]}}}"#;
    let about = About { domains: vec!["law".into()], ..About::default() };
    assert_eq!(serde_json::from_str::<Event>(text).unwrap(), Event::Described { id: ID, about });

    let bare = version_json().replace(r#","probe":[0.5]"#, "").replace(r#""previous":2,"#, "");
    let expected = Version { previous: None, probe: None, ..version() };
    assert_eq!(serde_json::from_str::<Version>(&bare).unwrap(), expected);

    let used: Usage = serde_json::from_str(r#"{"requests":7}"#).unwrap();
    assert_eq!((used.requests, used.errors, used.last_used), (7, 0, None));
}

#[test]
fn what_a_newer_program_added_to_a_record_does_not_keep_it_from_being_read() {
    let text = r#"{"pinned":{"name":"law","is_pinned":true,"reason":"new"}}"#;
    let pinned = Event::Pinned { name: name("law"), is_pinned: true };
    assert_eq!(serde_json::from_str::<Event>(text).unwrap(), pinned);
}

#[test]
fn what_is_no_name_no_digest_and_no_share_is_not_read() {
    let good = version_json();
    let wrong = [
        good.replace(r#""name":"law""#, r#""name":"../law""#),
        good.replace(&digest(1).to_hex(), "01"),
        good.replace("1.0.0-rc.1", "1.0"),
    ];
    for text in wrong {
        assert_ne!(text, good);
        assert!(serde_json::from_str::<Version>(&text).is_err(), "{text}");
    }
    let share = r#"{"divided":{"name":"law","split":{"candidate":3,"share":10001},"at":5}}"#;
    assert!(serde_json::from_str::<Event>(share).is_err());
    assert_eq!(folder(1, 1), version().source);
}
