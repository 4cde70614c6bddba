//! The metrics of two engines as one text: no family and no series comes twice, as Prometheus' format asks for.

use std::collections::{BTreeMap, BTreeSet};

/// How each family of a registry's text begins.
const BEGIN: &str = "# HELP ";

/// The families of both, each once. A family that both have is described as `second` does and has the series of both; of a
/// series that both have, `second` says the value. Every line is ended.
pub fn joined(first: &str, second: &str) -> String {
    let of_second: BTreeSet<&str> = families(second).map(|(name, _)| name).collect();
    let mut shared: BTreeMap<&str, &str> = BTreeMap::new();
    // A comment or a sample before the first family stays.
    let mut text = String::with_capacity(first.len() + second.len());
    push_lines(&mut text, &first[..begins(first).next().unwrap_or(first.len())]);
    for (name, family) in families(first) {
        if of_second.contains(name) {
            shared.insert(name, family);
        } else {
            push_lines(&mut text, family);
        }
    }
    push_lines(&mut text, &second[..begins(second).next().unwrap_or(second.len())]);
    for (name, family) in families(second) {
        push_lines(&mut text, family);
        let known: BTreeSet<&str> = samples(family).map(series).collect();
        let others = shared.get(name).into_iter().flat_map(|family| samples(family));
        others
            .filter(|sample| !known.contains(series(sample)))
            .for_each(|sample| push_lines(&mut text, sample));
    }
    text
}

/// Whole lines, whether the last one was ended or not.
fn push_lines(text: &mut String, lines: &str) {
    text.push_str(lines);
    if !lines.is_empty() && !lines.ends_with('\n') {
        text.push('\n');
    }
}

/// The lines of a family that are no comments.
fn samples(family: &str) -> impl Iterator<Item = &str> {
    family.split_inclusive('\n').filter(|line| !line.starts_with('#') && !line.trim().is_empty())
}

/// Name and labels of a sample. Registries write no timestamps: what follows the last blank is the value.
fn series(sample: &str) -> &str {
    sample.trim_end().rsplit_once(' ').map_or(sample, |(series, _)| series)
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
    fn each_family_and_each_series_comes_once() {
        let first = "# HELP a One\n# TYPE a gauge\na{model=\"x y\"} 1\na 2\n# HELP b # HELP c\n# TYPE b gauge\nb{x=\"# HELP c\"} 2\n";
        let second =
            "# HELP c Three\n# TYPE c gauge\nc 3\n# HELP a Four\n# TYPE a gauge\na 4\na{model=\"z\"} 5\n";
        let both = joined(first, second);
        assert_eq!(
            both,
            "# HELP b # HELP c\n# TYPE b gauge\nb{x=\"# HELP c\"} 2\n# HELP c Three\n# TYPE c gauge\nc 3\n\
             # HELP a Four\n# TYPE a gauge\na 4\na{model=\"z\"} 5\na{model=\"x y\"} 1\n"
        );
        assert_eq!(joined(first, ""), first);
        assert_eq!(joined("", second), second);
        assert_eq!(joined("x 1", second), format!("x 1\n{second}"));
        let unended = joined("# HELP a One\na 1\na{b=\"c\"} 2", "# HELP a One\na 3");
        assert_eq!(unended, "# HELP a One\na 3\na{b=\"c\"} 2\n");
    }
}
