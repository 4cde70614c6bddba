//! Texts and figures as people read them. Whatever came from a server or a registry is not trusted with the terminal.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::Value;

/// The text with its control characters, and those that turn the direction of writing, as escapes.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(commands_terminal) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match commands_terminal(character) {
            true => shown.extend(character.escape_debug()),
            false => shown.push(character),
        }
    }
    shown.into()
}

/// Indented JSON without characters that command a terminal: serde leaves those after ASCII's own in place.
pub fn json(value: &Value) -> String {
    let text = format!("{value:#}");
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        // Of such characters only the line feed is ever outside a JSON string, and never inside; all of them have a
        // single unit of UTF-16.
        match character != '\n' && commands_terminal(character) {
            true => write!(shown, "\\u{:04x}", u32::from(character)).expect("a String takes all"),
            false => shown.push(character),
        }
    }
    shown
}

/// Bytes in the largest binary unit of which there is a whole one.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10) as usize;
    let unit = 1u64 << (10 * power);
    format!("{:.1} {}", bytes as f64 / unit as f64, UNITS[power - 1])
}

/// A share of 0 to 1 in percent.
pub fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

/// Percent, with as many decimals as it takes.
pub fn percent(percent: Option<f64>) -> String {
    percent.map_or_else(String::new, |percent| format!("{percent} %"))
}

/// Texts with commas between them; `-` for none.
pub fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "-".to_owned(),
        items => items.iter().map(T::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Whether a terminal would do something other than show the character in its place.
fn commands_terminal(character: char) -> bool {
    let turns_direction = matches!(
        character,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    character.is_control() || turns_direction
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn only_what_commands_a_terminal_is_escaped() {
        assert_eq!(plain("법률 \"a\\b\" é"), "법률 \"a\\b\" é");
        assert_eq!(plain("a\u{1b}[2J\tb\u{202e}c\u{85}"), "a\\u{1b}[2J\\tb\\u{202e}c\\u{85}");
    }

    proptest! {
        #[test]
        fn json_stays_the_same_value_and_commands_nothing(text in any::<String>(), odd in "[\u{7f}-\u{9f}\u{2028}-\u{202e}]{0,4}") {
            let value = json!({ &text: [&odd, 1.5, null] });
            let shown = json(&value);
            prop_assert!(!shown.chars().any(|c| c != '\n' && commands_terminal(c)));
            prop_assert_eq!(serde_json::from_str::<Value>(&shown).expect("JSON"), value);
        }

        #[test]
        fn every_size_has_a_unit(bytes in any::<u64>()) {
            let shown = size(bytes);
            let (figure, unit) = shown.split_once(' ').expect("a unit");
            prop_assert!(figure.parse::<f64>().expect("a figure") <= 1024.0 && !unit.is_empty());
        }
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [size(0), size(1023), size(1024), size(1_327_104)],
            ["0 B", "1023 B", "1.0 KiB", "1.3 MiB"]
        );
        assert_eq!(size(u64::MAX), "16.0 EiB");
        assert_eq!([share(None), share(Some(0.987_65))], ["-", "98.8 %"]);
        assert_eq!([percent(None), percent(Some(10.0)), percent(Some(12.34))], ["", "10 %", "12.34 %"]);
        assert_eq!([list::<u8>(&[]), list(&[4, 8])], ["-", "4, 8"]);
    }
}
