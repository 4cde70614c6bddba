//! Changes out of random bytes, most of which mean something to the registry as it is.

use polylora_registry::{
    About, Activate, AdapterName, BasisPoints, Change, Digest, NewVersion, Selector, VersionId,
};

use crate::makers::{content, digest, folder, label, name, sum_of};
use crate::oracle::{Oracle, Row};

/// Eight random bytes: what is done, to what, and how.
pub type Bytes = [u8; 8];

/// One of them looks like a version of another.
pub const NAMES: [&str; 3] = ["law", "law@2", "med"];

/// What a client may ask for behind the `@`, beside what there is.
pub const SELECTORS: [&str; 8] = ["1", "2", "3", "9", "1.0.0", "v1.0.1", "#02020202", "home"];

const LABELS: [&str; 4] = ["1.0.0", "1.0.1", "2.0.0-rc.1", "2.0.0"];

/// The change that `bytes` mean when the registry is `now`.
pub fn change(bytes: Bytes, now: &Oracle) -> Change {
    let [kind, of, which, form, expect, flag, tag, _] = bytes;
    let of = name(NAMES[usize::from(of) % NAMES.len()]);
    let expect = expected(expect, &of, now);
    let version = || selector(which, form, &of, now);
    let id = || VersionId(now.rows.get(usize::from(which)).map_or(99, |row| row.id));
    let is_on = flag % 2 == 0;
    match kind % 20 {
        0..7 => Change::Register(Box::new(registration(bytes, of, now))),
        7..9 => Change::Promote { version: Some(version()), name: of, expect },
        9 => Change::Promote { name: of, version: None, expect },
        10 => Change::Rollback { name: of, expect },
        11..13 => {
            let share = BasisPoints::try_from(u16::from(flag) * 39).expect("at most 9,945");
            Change::Split { candidate: version(), name: of, share, expect }
        }
        13 => Change::EndSplit { name: of, expect },
        14 => Change::Retire { version: is_on.then(version), name: of, expect },
        15 => Change::Delete { version: is_on.then(version), name: of, is_buried: tag % 2 == 0, expect },
        16 => Change::Pin { name: of, is_pinned: is_on },
        17 => Change::Fault { id: id(), reason: is_on.then(|| format!("reason {}", tag % 2)) },
        18 => Change::Describe { id: id(), about: said(tag) },
        _ => Change::Probe { id: id(), probe: vec![f32::from(tag) / 3.0, 0.1] },
    }
}

/// Something that is said of a version. Its figures have few digits: nothing is computed from them, and the reader of JSON may get
/// the last bit of a long one wrong.
pub fn said(tag: u8) -> About {
    let mut about = About { domains: vec![format!("domain {tag}")], ..About::default() };
    about.thresholds.insert("yes".into(), f64::from(tag) / 8.0);
    about.custom.insert("tag".into(), serde_json::json!([{ "third": f64::from(tag) / 16.0 }]));
    about
}

fn registration(bytes: Bytes, of: AdapterName, now: &Oracle) -> NewVersion {
    let [_, _, which, form, activate, flag, tag, place] = bytes;
    let tag = tag % 6;
    let source = match flag % 4 {
        // Any two versions there are, of whatever name, and now and then one that is gone.
        0 if !now.rows.is_empty() => {
            let part = |at: u8| now.rows.get(usize::from(at) % (now.rows.len() + 1)).map_or(99, |row| row.id);
            sum_of(&[part(which), part(place)])
        }
        _ => folder(place % 3, tag),
    };
    let label = LABELS.get(usize::from(form) % 12).map(|text| label(text));
    let activate = [Activate::Never, Activate::IfVacant, Activate::Now][usize::from(activate) % 3];
    NewVersion { label, digest: digest(tag), source, activate, about: said(tag), ..content(of.as_str(), tag) }
}

fn expected(byte: u8, of: &AdapterName, now: &Oracle) -> Option<Digest> {
    let active = now.name(of.as_str()).and_then(|name| now.row(name.active?)).map(|row| row.digest);
    match byte % 4 {
        0 | 1 => None,
        2 => active,
        _ => Some(digest(byte / 4 % 6)),
    }
}

fn selector(which: u8, form: u8, of: &AdapterName, now: &Oracle) -> Selector {
    let rows: Vec<&Row> = now.rows_of(of.as_str()).collect();
    match (rows.get(usize::from(which) % (rows.len() + 1)), form % 3) {
        (None, _) => Selector::Id(VersionId(99)),
        (Some(row), 0) => Selector::Id(VersionId(row.id)),
        (Some(row), 1) => Selector::Label(row.label.clone()),
        (Some(row), _) => Selector::Digest(row.digest.to_hex()[..8].to_owned()),
    }
}
