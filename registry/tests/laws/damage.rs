//! Laws of a record that something else has changed on its disk: bits that rot, pages that are lost, half a backup. It is
//! refused, or it is what it was; it is never another registry, and never a panic.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use polylora_registry::{
    Change, REGISTRY_FILE, Registry, RegistryStore, Selector, StateError, Timestamp, Usage, VersionId,
};
use tempfile::TempDir;

use crate::makers::{NOW, directory, name, register};

/// Bytes of a page of the database.
const PAGE: usize = 4096;
/// Bytes at the start of the file that say where everything is.
const HEADER: usize = 320;
/// The byte there that says which of the last two commits is the newest: no checksum covers it.
const NEWEST: usize = 9;
/// Of so many damaged records that are read, one has to go on: that takes time.
const GOES_ON: usize = 8;

/// What a record comes to.
type State = (Arc<Registry>, BTreeMap<VersionId, Usage>);

/// How the process ended that wrote a record.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Closed,
    Killed,
}

/// A record's file, and what is in it.
struct Record {
    file: Vec<u8>,
    state: State,
}

impl Record {
    fn new(events: u8, end: End) -> Self {
        Self::after(&directory(), 0..events, end)
    }

    /// What is in `place`, then the contents `tags` under three names, some promoted, some with a long embedding; figures
    /// of all of them.
    fn after(place: &TempDir, tags: Range<u8>, end: End) -> Self {
        let store = RegistryStore::open(place.path()).expect("a record that is whole").0;
        for tag in tags {
            let of = ["law", "tax", "med"][usize::from(tag) % 3];
            store.change(register(of, tag), NOW).expect("a new content");
            let id = store.read().last_id();
            let version = Some(Selector::Id(id));
            let change = match tag % 7 {
                2 => Change::Promote { name: name(of), version, expect: None },
                5 => Change::Probe { id, probe: (0..200).map(|at| at as f32 / 7.0).collect() },
                _ => continue,
            };
            store.change(change, NOW).expect("a version that is there");
        }
        let usage = store.read().versions().map(|version| (version.id, used(version.id))).collect();
        store.write_usage(&usage).expect("figures");
        let state = (store.read(), usage);
        let read = || fs::read(place.path().join(REGISTRY_FILE)).expect("a file");
        let killed = read();
        drop(store);
        Self { file: if end == End::Killed { killed } else { read() }, state }
    }

    /// Where the pages are that are not all zeros.
    fn pages(&self) -> Vec<usize> {
        let pages = self.file.chunks(PAGE).enumerate();
        pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0)).map(|(at, _)| at * PAGE).collect()
    }

    fn flipped(&self, at: usize, bit: usize) -> Damage {
        let mut file = self.file.clone();
        file[at] ^= 1 << bit;
        (format!("bit {bit} of byte {at}"), file)
    }

    fn overwritten(&self, at: usize, bytes: &[u8], what: &str) -> Damage {
        let mut file = self.file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        (format!("{what} at {at}"), file)
    }
}

fn used(id: VersionId) -> Usage {
    let mut usage = Usage::default();
    (0..=id.0).for_each(|at| usage.count(at % 3 > 0, at as f64 / 3.0, Timestamp(at)));
    // Of few digits: the reader of JSON may get the last bit of a long figure wrong.
    usage.latency_ema_ms = (usage.latency_ema_ms * 8.0).round() / 8.0;
    usage
}

/// What was done to a file, and the file.
type Damage = (String, Vec<u8>);

/// What became of damaged records.
#[derive(Debug, Default)]
struct Outcomes {
    refused: usize,
    read: usize,
}

impl Outcomes {
    /// Opens each of the damaged files: it is refused, or comes to one of `allowed`.
    fn of(allowed: &[&State], damages: impl IntoIterator<Item = Damage>) -> Self {
        let (mut outcomes, mut wrong) = (Self::default(), vec![]);
        let place = directory();
        for (damage, file) in damages {
            fs::write(place.path().join(REGISTRY_FILE), file).expect("a file");
            let goes_on = outcomes.read.is_multiple_of(GOES_ON);
            match catch_unwind(AssertUnwindSafe(|| opened(place.path(), allowed, goes_on))) {
                Ok(Ok(true)) => outcomes.read += 1,
                Ok(Ok(false)) => wrong.push(format!("{damage}: another registry")),
                Ok(Err(_)) => outcomes.refused += 1,
                Err(_) => wrong.push(format!("{damage}: a panic")),
            }
        }
        assert!(wrong.is_empty(), "{} beside {outcomes:?}:\n{}", wrong.len(), wrong.join("\n"));
        outcomes
    }

    /// A law that all damages pass, or none, shows nothing.
    fn assert_both(&self) {
        assert!(self.refused > 0 && self.read > 0, "{self:?}: both must have happened");
    }
}

/// Whether what opens is one of `allowed` and, if that is asked, goes on from there.
fn opened(place: &Path, allowed: &[&State], goes_on: bool) -> Result<bool, StateError> {
    let (store, usage) = RegistryStore::open(place)?;
    let registry = store.read();
    if !allowed.iter().any(|(known, figures)| *known == registry && *figures == usage) {
        return Ok(false);
    }
    if !goes_on {
        return Ok(true);
    }
    store.change(register("one more", 255), NOW).expect("it goes on");
    let went_on = store.read();
    drop(store);
    let (store, read) = RegistryStore::open(place)?;
    Ok(store.read() == went_on && read == usage)
}

#[test]
fn a_bit_that_rots_is_noticed_or_does_no_harm() {
    for end in [End::Closed, End::Killed] {
        let record = Record::new(30, end);
        let bytes = record.pages().into_iter().flat_map(|page| (page..page + PAGE).step_by(97)).enumerate();
        let damages = bytes.map(|(nth, at)| record.flipped(at, nth % 8));
        Outcomes::of(&[&record.state], damages).assert_both();
    }
}

#[test]
fn a_bit_of_the_header_counts_or_does_no_harm() {
    for end in [End::Closed, End::Killed] {
        let record = Record::new(10, end);
        let bits = (0..HEADER).map(|at| (at, at % 8)).chain((0..8).map(|bit| (NEWEST, bit)));
        // After a crash one bit is believed: the commit before the last one is whole as well.
        let bits = bits.filter(|bit| end == End::Closed || *bit != (NEWEST, 0));
        let damages = bits.map(|(at, bit)| record.flipped(at, bit));
        Outcomes::of(&[&record.state], damages).assert_both();
    }
}

#[test]
fn a_page_that_is_lost_or_another_one_is_noticed_or_does_no_harm() {
    for end in [End::Closed, End::Killed] {
        let record = Record::new(40, end);
        let pages = record.pages();
        let damages = pages.iter().zip(pages.iter().cycle().skip(1)).flat_map(|(&at, &other)| {
            [
                record.overwritten(at, &[0; PAGE], "zeros"),
                record.overwritten(at, &[255; PAGE], "ones"),
                record.overwritten(at + PAGE / 2, &[0; PAGE / 2], "half a page of zeros"),
                // A write that went elsewhere.
                record.overwritten(at, &record.file[other..other + PAGE], "another page"),
            ]
        });
        Outcomes::of(&[&record.state], damages).assert_both();
    }
}

#[test]
fn a_file_that_was_cut_off_or_grew_is_noticed_or_does_no_harm() {
    let record = Record::new(40, End::Closed);
    let whole = record.file.len();
    // Not cut to nothing: that is a new file.
    let cuts = (1..HEADER).step_by(7).chain((PAGE..whole).step_by(PAGE).flat_map(|at| [at - 1, at, at + 1]));
    let cut = cuts.map(|at| (format!("cut off at {at}"), record.file[..at].to_vec()));
    let grown = [1, PAGE, 4 * PAGE, whole]
        .map(|more| (format!("{more} more bytes"), [record.file.as_slice(), &vec![0; more]].concat()));
    let outcomes = Outcomes::of(&[&record.state], cut.chain(grown));
    assert!(outcomes.refused > 0, "{outcomes:?}");
}

#[test]
fn half_a_backup_is_noticed_or_is_the_older_or_the_newer_record() {
    let place = directory();
    let older = Record::after(&place, 0..30, End::Closed);
    let newer = Record::after(&place, 30..40, End::Closed);
    let len = older.file.len().min(newer.file.len());
    let damages = (0..len).step_by(PAGE).flat_map(|at| {
        let of = |first: &Record, second: &Record| [&first.file[..at], &second.file[at..]].concat();
        [
            (format!("the newer one from {at} on"), of(&older, &newer)),
            (format!("the older one from {at} on"), of(&newer, &older)),
            newer.overwritten(at, &older.file[at..at + PAGE], "the older one's page"),
        ]
    });
    Outcomes::of(&[&older.state, &newer.state], damages).assert_both();
}
