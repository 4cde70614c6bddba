//! Patterns over module names, read as Python's `re` would read them.

use std::path::Path;

use fancy_regex::{Regex, RegexBuilder};

use crate::{AdapterError, error::excerpt};

/// Longest pattern, in bytes. Real ones have some hundreds.
const MAX_PATTERN_BYTES: usize = 4096;
/// How often a match may backtrack before it is given up. Module names have less than a hundred characters.
const MAX_BACKTRACKS: usize = 20_000;
/// Bound of each part of a compiled pattern, and of its caches, in bytes.
const MAX_COMPILED_BYTES: usize = 256 << 10;
/// Bound of a compiled backtracking program, in instructions.
const MAX_INSTRUCTIONS: usize = 1 << 14;

/// A pattern of some field of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    field: String,
    text: String,
    regex: Regex,
}

impl Pattern {
    /// A pattern that must match the whole name, as `re.fullmatch`.
    pub(super) fn whole(file: &Path, field: &str, text: &str) -> Result<Self, AdapterError> {
        Self::compile(file, field, text, &format!(r"\A(?:{text})\z"))
    }

    /// A pattern that must match the whole name or what follows one of its dots: `re.match` with `(.*\.)?(KEY)$`.
    pub(super) fn tail(file: &Path, field: &str, text: &str) -> Result<Self, AdapterError> {
        Self::compile(file, field, text, &format!(r"\A(?:(.*\.)?({text})$)"))
    }

    /// A pattern for the list that numbers the layers, followed by a layer's number: `re.match` with
    /// `(?:^|.*?\.)PATTERN\.(?P<idx>\d+)\.`. Without pattern: the first number that follows two names.
    pub(super) fn layer(file: &Path, field: &str, text: Option<&str>) -> Result<Self, AdapterError> {
        let regex = match text {
            None => r"\A.*?\.[^.]*\.(?P<idx>[0-9]+)\.".to_owned(),
            Some(text) => format!(r"\A(?:(?:^|.*?\.){text}\.(?P<idx>[0-9]+)\.)"),
        };
        Self::compile(file, field, text.unwrap_or_default(), &regex)
    }

    /// Whether the pattern matches `name`.
    pub(super) fn matches(&self, file: &Path, name: &str) -> Result<bool, AdapterError> {
        self.regex.is_match(name).map_err(|e| self.given_up(file, name, &e))
    }

    /// The number that a [layer](Self::layer) pattern finds in `name`.
    pub(super) fn layer_index(&self, file: &Path, name: &str) -> Result<Option<u64>, AdapterError> {
        let found = self.regex.captures(name).map_err(|e| self.given_up(file, name, &e))?;
        Ok(found.and_then(|c| c.name("idx")?.as_str().parse().ok()))
    }

    fn compile(file: &Path, field: &str, text: &str, regex: &str) -> Result<Self, AdapterError> {
        let refuse = |reason: String| {
            let (file, field) = (file.to_owned(), field.to_owned());
            AdapterError::Pattern { file, field, pattern: excerpt(text), reason }
        };
        if text.len() > MAX_PATTERN_BYTES {
            return Err(refuse(format!("found {} bytes, expected at most {MAX_PATTERN_BYTES}", text.len())));
        }
        if let Some(sign) = sign_that_python_reads_otherwise(text) {
            return Err(refuse(format!(
                "{sign} means something else to Python's re, expected a pattern that both read alike"
            )));
        }
        let regex = RegexBuilder::new(regex)
            .backtrack_limit(MAX_BACKTRACKS)
            .delegate_size_limit(MAX_COMPILED_BYTES)
            .delegate_dfa_size_limit(MAX_COMPILED_BYTES)
            .max_prog_size(MAX_INSTRUCTIONS)
            .build()
            .map_err(|e| refuse(format!("expected a regular expression: {}", excerpt(&e.to_string()))))?;
        Ok(Self { field: field.into(), text: text.into(), regex })
    }

    fn given_up(&self, file: &Path, name: &str, error: &fancy_regex::Error) -> AdapterError {
        AdapterError::Pattern {
            file: file.to_owned(),
            field: self.field.clone(),
            pattern: excerpt(&self.text),
            reason: format!("given up on module {name:?}: {}", excerpt(&error.to_string())),
        }
    }
}

/// A construct that compiles here and in Python but not to the same thing: set operations within brackets, word
/// bounds.
fn sign_that_python_reads_otherwise(pattern: &str) -> Option<&'static str> {
    let chars: Vec<char> = pattern.chars().collect();
    let (mut i, mut class_begin) = (0, None);
    while i < chars.len() {
        let (next, begin) = (chars.get(i + 1).copied(), class_begin);
        match (chars[i], begin) {
            ('\\', None) if matches!(next, Some('<' | '>')) => return Some("`\\<` or `\\>`"),
            ('\\', _) => i += 1,
            ('[', None) => {
                i += usize::from(next == Some('^'));
                class_begin = Some(i);
            }
            ('[', Some(_)) => return Some("`[` within brackets"),
            (']', Some(begin)) if i > begin + 1 => class_begin = None,
            (sign @ ('&' | '-' | '~' | '|'), Some(_)) if next == Some(sign) => {
                return Some("a doubled `&`, `-`, `~` or `|` within brackets");
            }
            _ => {}
        }
        i += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(text: &str) -> String {
        match Pattern::whole(Path::new("f"), "target_modules", text) {
            Err(e) => e.to_string(),
            Ok(pattern) => format!("accepted {pattern:?}"),
        }
    }

    #[test]
    fn a_target_pattern_must_match_the_whole_name() {
        let whole = |p: &str, n: &str| {
            Pattern::whole(Path::new("f"), "t", p).unwrap().matches(Path::new("f"), n).unwrap()
        };
        assert!(whole("a|ab", "ab") && !whole("a|ab", "abc") && !whole("b", "ab"));
        assert!(whole(r"(?P<x>a)(?P=x)\1", "aaa") && whole(r"a(?!c)b", "ab") && whole("(?i)AB", "ab"));
        assert!(whole("ba{,2}", "baa") && !whole("ba{,2}", "baaa") && !whole("ba{,2}", "ba{,2}"));
    }

    #[test]
    fn layers_are_numbered_by_the_first_number_after_two_names() {
        let index = |text: Option<&str>, name: &str| {
            Pattern::layer(Path::new("f"), "layers_pattern", text)
                .unwrap()
                .layer_index(Path::new("f"), name)
                .unwrap()
        };
        assert_eq!(index(None, "encoder.layer.5.attention.self.query"), Some(5));
        assert_eq!(index(None, "model.layers.1.experts.7.up"), Some(1));
        assert_eq!(index(None, "layer.5.query"), None);
        assert_eq!(index(Some("layer"), "layer.5.query"), Some(5));
        assert_eq!(index(Some("experts"), "model.layers.1.experts.7.up"), Some(7));
        assert_eq!(index(Some("blocks"), "model.layers.1.experts.7.up"), None);
        assert_eq!(
            index(Some("blocks|layers"), "model.layers.1.up"),
            None,
            "an alternation splits the template"
        );
    }

    #[test]
    fn what_python_reads_otherwise_is_refused() {
        for pattern in ["[a[b]]", "[a&&b]", "[a--b]", "[^]a[]", r"\<query"] {
            assert!(refusal(pattern).contains("means something else"), "{pattern}: {}", refusal(pattern));
        }
        for pattern in ["[]a]", "[^]a]", "[a-z]", r"[\[a]", "a&&b", "[a|b]", r"\[a[b]"] {
            assert!(refusal(pattern).starts_with("accepted"), "{pattern}: {}", refusal(pattern));
        }
    }

    #[test]
    fn long_patterns_of_real_trainers_compile() {
        let unsloth = r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))";
        let words = r"^(?!.*(?:visual|vision)).*\.(?:\w+\.){1,4}layers\.\d+\..*(?:query|key|value|dense|[qkvo]_proj)$";
        for pattern in [unsloth, words] {
            let name = "model.layers.31.self_attn.q_proj";
            let compiled = Pattern::whole(Path::new("f"), "target_modules", pattern).unwrap();
            assert_eq!(compiled.matches(Path::new("f"), name).unwrap(), pattern == unsloth);
        }
    }

    #[test]
    fn what_does_not_compile_or_never_ends_is_refused_with_field_and_pattern() {
        let text = refusal("(query");
        assert!(text.contains("`target_modules`") && text.contains("(query"), "{text}");
        for pattern in ["((a{1000}){1000}){1000}", &"(".repeat(5000), &"a".repeat(9000)] {
            assert!(refusal(pattern).contains("expected"), "{}", &refusal(pattern)[..80]);
        }
        let slow = Pattern::whole(Path::new("f"), "target_modules", r"(?:(a|a)*)*(?=b)c").unwrap();
        let given_up = slow.matches(Path::new("f"), &"a".repeat(60)).unwrap_err().to_string();
        assert!(given_up.contains("given up on module"), "{given_up}");
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in r"[\[\](){}|*+?^$.\\a-c0-2,<>=!:P#&~-]{0,24}", name in "[a-c.0-2]{0,12}") {
            let file = Path::new("f");
            for pattern in [Pattern::whole(file, "x", &pattern), Pattern::tail(file, "x", &pattern)].into_iter().flatten() {
                let _ = pattern.matches(file, &name);
            }
            if let Ok(pattern) = Pattern::layer(file, "x", Some(&pattern)) {
                let _ = pattern.layer_index(file, &name);
            }
        }
    }
}
