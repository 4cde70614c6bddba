//! `{% generation %}` blocks, by which transformers finds an assistant's tokens for training. Rendering ignores them.

/// The source with each `generation` block as an `if` that always holds.
pub(super) fn as_conditions(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        // The sign of `{%}` cannot be both.
        let Some(end) = tag[2..].find("%}").map(|end| end + 2) else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let word = tag[2..end].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replacen(word, "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen(word, "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tags_change() {
        for (source, expected) in [
            ("a {%- generation -%} b {% endgeneration %}", "a {%- if true -%} b {% endif %}"),
            (
                "{% if generation %}{{ generation }}{% endif %}",
                "{% if generation %}{{ generation }}{% endif %}",
            ),
            ("no end {% generation", "no end {% generation"),
            ("{%generation%}é{%endgeneration%}", "{%if true%}é{%endif%}"),
            ("{%}{%generation%}", "{%}{%generation%}"),
            ("", ""),
        ] {
            assert_eq!(as_conditions(source), expected);
        }
    }
}
