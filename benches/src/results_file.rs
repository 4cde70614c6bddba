//! A part of a Markdown file that a bench writes: what stands between its two markers is replaced, nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use crate::BenchError;

/// `benches/RESULTS.md` of this repository.
pub fn results_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md")
}

/// Puts `text` between `<!-- NAME:begin -->` and `<!-- NAME:end -->` of a file.
///
/// # Errors
/// When the markers are not there, each once and in order, or the file cannot be read or written.
pub fn write_part(file: &Path, name: &str, text: &str) -> Result<(), BenchError> {
    let whole = fs::read_to_string(file)?;
    let replaced = with_part(&whole, name, text)
        .ok_or_else(|| BenchError::Markers { file: file.to_owned(), name: name.to_owned() })?;
    Ok(fs::write(file, replaced)?)
}

fn with_part(whole: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let (before, rest) = whole.split_once(&begin)?;
    let (old, after) = rest.split_once(&end)?;
    let is_there_once =
        [before, old, after].iter().all(|part| !part.contains(&begin) && !part.contains(&end));
    is_there_once.then(|| format!("{before}{begin}\n{}\n{end}{after}", text.trim_matches('\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let whole = "# a\n<!-- m:begin -->\nold\n<!-- m:end -->\nafter\n";
        let new = with_part(whole, "m", "\nnew\n").expect("markers");
        assert_eq!(new, "# a\n<!-- m:begin -->\nnew\n<!-- m:end -->\nafter\n");
        assert_eq!(with_part(&new, "m", "new").as_deref(), Some(new.as_str()));
    }

    #[test]
    fn markers_that_are_missing_or_doubled_are_refused() {
        assert_eq!(with_part("no markers", "m", "x"), None);
        assert_eq!(with_part("<!-- m:end --><!-- m:begin -->", "m", "x"), None);
        let twice = "<!-- m:begin --><!-- m:end --><!-- m:begin --><!-- m:end -->";
        assert_eq!(with_part(twice, "m", "x"), None);
    }

    #[test]
    fn the_repositorys_file_has_the_markers() {
        let whole = fs::read_to_string(results_file()).expect("RESULTS.md");
        for name in ["modes", "overload", "generate"] {
            assert!(with_part(&whole, name, "x").is_some(), "{name}");
        }
    }
}
