//! rank_pattern and alpha_pattern: values for modules by the first key that matches.

use std::path::{Path, PathBuf};

use super::{fields::Fields, json::Json, patterns::Pattern};
use crate::AdapterError;

/// Most keys of a map: there may be one for each module.
const MAX_KEYS: usize = 8192;
/// Most bytes of all keys together that need a regular expression: what bounds the time to compile them.
const MAX_REGEX_BYTES: usize = 64 << 10;

/// A map from patterns to values, in the order of the file.
#[derive(Clone, Debug)]
pub(super) struct PatternMap<T> {
    file: PathBuf,
    field: &'static str,
    entries: Vec<(String, T)>,
}

impl<T: Copy> PatternMap<T> {
    /// The map that `field` holds; empty when it is absent. `value_of` reads a value, given its place for errors.
    pub(super) fn parse(
        file: &Path,
        fields: &Fields,
        field: &'static str,
        value_of: impl Fn(&str, &Json) -> Result<T, AdapterError>,
    ) -> Result<Self, AdapterError> {
        let map = fields.map(field)?;
        let found = fields.get(field).unwrap_or(&Json::Null);
        if map.len() > MAX_KEYS {
            return Err(fields.invalid(field, found, format!("at most {MAX_KEYS} keys")));
        }
        let regexes = map.iter().map(|(key, _)| key).filter(|key| PlainKey::parse(key).is_none());
        if regexes.map(String::len).sum::<usize>() > MAX_REGEX_BYTES {
            let expected = format!("at most {MAX_REGEX_BYTES} bytes of keys other than plain names");
            return Err(fields.invalid(field, found, expected));
        }
        let entries = map.iter().map(|(key, value)| Ok((key.clone(), value_of(&place(field, key), value)?)));
        Ok(Self { file: file.to_owned(), field, entries: entries.collect::<Result<_, AdapterError>>()? })
    }

    /// The value for each of `names`: that of the first key that matches, as `(.*\.)?(KEY)$` for Python's `re.match`.
    ///
    /// Key by key, so that one compiled pattern is kept at a time.
    pub(super) fn values_for(&self, names: &[&str]) -> Result<Vec<Option<T>>, AdapterError> {
        let mut values = vec![None; names.len()];
        for (key, value) in &self.entries {
            let matcher = match PlainKey::parse(key) {
                Some(plain) => Matcher::Plain(plain),
                None => Matcher::Regex(Pattern::tail(&self.file, &place(self.field, key), key)?),
            };
            for (slot, name) in values.iter_mut().zip(names).filter(|(slot, _)| slot.is_none()) {
                let matches = match &matcher {
                    Matcher::Plain(plain) => plain.matches(name),
                    Matcher::Regex(pattern) => pattern.matches(&self.file, name)?,
                };
                *slot = matches.then_some(*value);
            }
        }
        Ok(values)
    }
}

fn place(field: &str, key: &str) -> String {
    format!("{field}[{}]", Json::Text(key.to_owned()))
}

enum Matcher {
    Plain(PlainKey),
    Regex(Pattern),
}

/// A key of literal characters and dots: by far the most common kind, matched without a regular expression.
#[derive(Debug)]
struct PlainKey {
    /// Begins with `^`: only the whole name will do.
    anchored: bool,
    /// `None` stands for any character.
    characters: Vec<Option<char>>,
}

impl PlainKey {
    fn parse(key: &str) -> Option<Self> {
        let (anchored, key) = key.strip_prefix('^').map_or((false, key), |rest| (true, rest));
        let (mut characters, mut rest) = (vec![], key.chars());
        while let Some(c) = rest.next() {
            characters.push(match c {
                '.' => None,
                '\\' => Some(rest.next().filter(|c| *c == '.')?),
                c if c.is_ascii_alphanumeric() || c == '_' => Some(c),
                _ => return None,
            });
        }
        Some(Self { anchored, characters })
    }

    fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let Some(at) = name.len().checked_sub(self.characters.len()) else { return false };
        let begins = at == 0 || (!self.anchored && name[at - 1] == '.');
        begins && self.characters.iter().zip(&name[at..]).all(|(wanted, c)| wanted.is_none_or(|w| w == *c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(text: &str) -> PatternMap<usize> {
        let file = Path::new("f");
        let fields = Fields::parse(file, format!("{{\"rank_pattern\": {text}}}").as_bytes()).unwrap();
        PatternMap::parse(file, &fields, "rank_pattern", |place, value| fields.rank(place, value, 100))
            .unwrap()
    }

    fn matches(key: &str, name: &str) -> bool {
        let map = PatternMap { file: "f".into(), field: "rank_pattern", entries: vec![(key.to_owned(), ())] };
        map.values_for(&[name]).unwrap()[0].is_some()
    }

    #[test]
    fn a_key_matches_a_whole_name_or_what_follows_a_dot() {
        let name = "encoder.layer.0.attention.self.query";
        for key in
            ["query", "self.query", name, &format!("^{name}"), r".*\.0\..*", "(query|key)", r"self\.query"]
        {
            assert!(matches(key, name), "{key}");
        }
        for key in ["uery", "encoder", "layer.0", "^query", "key|quer", "Query", r"^self\.query", ""] {
            assert!(!matches(key, name), "{key}");
        }
        assert!(matches("self.query", "a.selfXquery") && !matches(r"self\.query", "a.selfXquery"));
        assert!(matches("layer.1", "layer.1") && !matches("layer.1", "x.layer.11"));
    }

    #[test]
    fn the_first_key_of_the_file_that_matches_wins() {
        let names = ["a.q", "b.q", "b.k"];
        assert_eq!(map(r#"{"q": 1, "b.q": 2}"#).values_for(&names).unwrap(), [Some(1), Some(1), None]);
        assert_eq!(map(r#"{"b.q": 2, "q": 1}"#).values_for(&names).unwrap(), [Some(1), Some(2), None]);
        assert_eq!(map(r#"{"b.*": 3, "q|k": 1}"#).values_for(&names).unwrap(), [Some(1), Some(3), Some(3)]);
        assert_eq!(map("null").values_for(&names).unwrap(), [None, None, None]);
    }

    #[test]
    fn a_key_that_does_not_compile_is_named_even_when_others_match() {
        let error = map(r#"{"q": 1, "(k": 2}"#).values_for(&["a.q"]).unwrap_err().to_string();
        assert!(error.contains("`rank_pattern[\"(k\"]`"), "{error}");
    }

    #[test]
    fn too_many_regular_expressions_are_refused_but_a_plain_key_for_each_module_is_not() {
        let parse = |text: String| {
            let file = Path::new("f");
            let fields = Fields::parse(file, text.as_bytes()).unwrap();
            PatternMap::parse(file, &fields, "rank_pattern", |_, _| Ok(()))
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        let keys = |tail: &str| {
            let keys: Vec<String> =
                (0..4000).map(|i| format!("\"^model.layers.{i}.mlp{tail}\": 1")).collect();
            format!("{{\"rank_pattern\": {{{}}}}}", keys.join(","))
        };
        assert_eq!(parse(keys("")), Ok(()));
        assert!(parse(keys("(x)*")).unwrap_err().contains("65536 bytes"));
    }

    proptest! {
        #[test]
        fn plain_keys_match_as_their_regex_does(key in r"\^?([ab.]|\\\.){0,5}", name in "[ab.]{0,8}") {
            let regex = fancy_regex::Regex::new(&format!(r"\A(?:(.*\.)?({key})$)")).unwrap();
            prop_assert_eq!(PlainKey::parse(&key).unwrap().matches(&name), regex.is_match(&name).unwrap());
        }
    }
}
