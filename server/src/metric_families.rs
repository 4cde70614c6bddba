//! The metrics of two engines as one text: no family comes twice, as Prometheus' format asks for.

use std::collections::BTreeSet;

/// How each family of a registry's text begins.
const BEGIN: &str = "# HELP ";

/// The families of `first` that `second` has not, then those of `second`.
pub fn joined(first: &str, second: &str) -> String {
    let taken: BTreeSet<&str> = families(second).map(|(name, _)| name).collect();
    // A comment or a sample before the first family stays.
    let before = &first[..begins(first).next().unwrap_or(first.len())];
    let kept = families(first).filter(|(name, _)| !taken.contains(name)).map(|(_, text)| text);
    [before].into_iter().chain(kept).chain([second]).collect()
}

/// Name and text of each family.
fn families(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let begins: Vec<usize> = begins(text).chain([text.len()]).collect();
    (1..begins.len()).map(move |index| {
        let family = &text[begins[index - 1]..begins[index]];
        let name = family[BEGIN.len()..].split_whitespace().next().unwrap_or_default();
        (name, family)
    })
}

/// Where families begin; not within a help text or a label.
fn begins(text: &str) -> impl Iterator<Item = usize> {
    let found = text.match_indices(BEGIN).map(|(at, _)| at);
    found.filter(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_both_have_is_the_seconds() {
        let first =
            "# HELP a One\n# TYPE a gauge\na 1\n# HELP b # HELP c\n# TYPE b gauge\nb{x=\"# HELP c\"} 2\n";
        let second = "# HELP c Three\n# TYPE c gauge\nc 3\n# HELP a Four\n# TYPE a gauge\na 4\n";
        let both = joined(first, second);
        assert_eq!(
            both,
            "# HELP b # HELP c\n# TYPE b gauge\nb{x=\"# HELP c\"} 2\n\
             # HELP c Three\n# TYPE c gauge\nc 3\n# HELP a Four\n# TYPE a gauge\na 4\n"
        );
        assert_eq!(joined(first, ""), first);
        assert_eq!(joined("", second), second);
    }
}
