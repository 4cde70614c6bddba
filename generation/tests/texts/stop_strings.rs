//! Stop strings against a search through the whole text.

use polylora_generation::*;
use proptest::prelude::*;

/// Where the match that ends first, the longest of those, begins and ends; it ends after `from` bytes.
fn plain(text: &str, stops: &[String], from: usize) -> Option<(usize, usize)> {
    let ends = (from + 1..=text.len()).filter(|&end| text.is_char_boundary(end));
    for end in ends {
        let found = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).map(String::len).max();
        if let Some(length) = found {
            return Some((end - length, end));
        }
    }
    None
}

fn pieces() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[abé]{0,4}", 0..20)
}

fn stops() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[abé]{1,6}", 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_stop_string_is_found_however_the_text_is_cut_and_nothing_comes_after_it(
        pieces in pieces(),
        stops in stops(),
        include in any::<bool>(),
        patient in 0usize..10,
    ) {
        let whole = pieces.concat();
        let from = pieces.iter().take(patient).map(String::len).sum();
        let expected = plain(&whole, &stops, from);
        let mut search = StopStrings::new(&stops, include);
        let mut given = String::new();
        let mut found = None;
        let mut read = 0;
        for (index, piece) in pieces.iter().enumerate() {
            let scan = search.push(piece, index >= patient);
            given += &scan.text;
            read += piece.len();
            found = scan.found;
            if found.is_some() {
                break;
            }
            // What is held back is no longer than it must be: it begins a stop string.
            let held = &whole[given.len()..read];
            prop_assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)));
        }
        match expected {
            Some((start, end)) => {
                prop_assert_eq!(found.as_deref(), Some(&whole[start..end]));
                prop_assert_eq!(&given, &whole[..if include { end } else { start }]);
                prop_assert!(read >= end);
            }
            None => {
                prop_assert_eq!(found, None);
                given += &search.release();
                prop_assert_eq!(given, whole);
            }
        }
    }
}

#[test]
fn a_stop_string_is_found_at_every_cut_of_a_text() {
    let text = "one €two€ three";
    for first in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
        for second in (first..=text.len()).filter(|&at| text.is_char_boundary(at)) {
            let mut search = StopStrings::new(&["€two€".to_owned()], false);
            let mut given = String::new();
            let mut found = None;
            for piece in [&text[..first], &text[first..second], &text[second..]] {
                if found.is_none() {
                    let scan = search.push(piece, true);
                    given += &scan.text;
                    found = scan.found;
                }
            }
            assert_eq!((given.as_str(), found.as_deref()), ("one ", Some("€two€")), "{first} {second}");
        }
    }
}

#[test]
fn text_that_begins_a_stop_string_waits_only_until_it_does_not() {
    let mut search = StopStrings::new(&["###".to_owned()], false);
    assert_eq!(search.push("a##", true).text, "a");
    assert_eq!(search.push("b", true).text, "##b");
    let mut included = StopStrings::new(&["###".to_owned()], true);
    assert_eq!(included.push("a##", true).text, "a##");
    assert_eq!(included.push("#b", true), StopScan { text: "#".into(), found: Some("###".into()) });
}
