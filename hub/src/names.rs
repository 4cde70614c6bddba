//! Names that come from outside and become paths, URLs or command arguments: each is checked once, here.

use std::fmt;

use serde::Deserialize;

/// Longest name, path or revision that is accepted, in bytes.
const MAX_NAME_BYTES: usize = 200;

/// A name that may not become a path or a URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{found}` is not usable: {reason}")]
pub struct NameError {
    /// What kind of name it is.
    pub what: &'static str,
    /// The name as it was given, cut to a readable length.
    pub found: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The path of a file inside a model's folder: relative, `/` between plain components, none of them hidden.
///
/// Every component is made of `A-Z a-z 0-9 . _ + -` and does not begin with a dot, so that joining it to a folder stays
/// below that folder on every system, and so that it needs no escaping in a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct FilePath(String);

impl FilePath {
    /// Checks `path`; errors when it could leave the folder or needs escaping.
    pub fn new(path: &str) -> Result<Self, NameError> {
        check("file path", path)?;
        for component in path.split('/') {
            check_component("file path", path, component, is_plain)?;
        }
        Ok(Self(path.to_owned()))
    }

    /// The path with `/` between its components.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl TryFrom<String> for FilePath {
    type Error = NameError;

    fn try_from(path: String) -> Result<Self, NameError> {
        Self::new(&path)
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository on the Hub and, where one was asked for, a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RepoId {
    pub(crate) repo: String,
    pub(crate) revision: Option<String>,
}

impl RepoId {
    /// Parses `owner/name` or `owner/name@revision`; `None` when the text has not that form at all.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, NameError>> {
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        if repo.matches('/').count() != 1 {
            return None;
        }
        Some(check_repo(repo).and_then(|()| {
            if let Some(revision) = revision {
                check_revision(revision)?;
            }
            Ok(Self { repo: repo.to_owned(), revision: revision.map(str::to_owned) })
        }))
    }

    /// The folder of this repository in polylora's cache. Hub names never contain `--`, so two of them never meet.
    pub(crate) fn folder(&self) -> String {
        let repo = self.repo.replace('/', "--");
        match &self.revision {
            Some(revision) => format!("{repo}@{revision}"),
            None => repo,
        }
    }
}

/// Checks a model's short name, which is also its folder in the cache.
pub(crate) fn check_model_name(name: &str) -> Result<(), NameError> {
    check("model name", name)?;
    check_component("model name", name, name, is_plain)
}

/// Checks `owner/name` by the Hub's own rules: two plain components, without `--` or `..`.
pub(crate) fn check_repo(repo: &str) -> Result<(), NameError> {
    const WHAT: &str = "Hub repository";
    check(WHAT, repo)?;
    if repo.matches('/').count() != 1 {
        return Err(error(WHAT, repo, "it must be `owner/name`"));
    }
    for component in repo.split('/') {
        check_component(WHAT, repo, component, is_plain)?;
    }
    if repo.contains("--") || repo.contains("..") {
        return Err(error(WHAT, repo, "`--` and `..` do not occur in repository names"));
    }
    Ok(())
}

/// Checks a branch, tag or commit: one plain component.
pub(crate) fn check_revision(revision: &str) -> Result<(), NameError> {
    check("revision", revision)?;
    check_component("revision", revision, revision, is_plain)
}

/// Checks a Python package's name or version, which becomes part of an argument of `pip`.
pub(crate) fn check_package_word(what: &'static str, word: &str) -> Result<(), NameError> {
    check(what, word)?;
    check_component(what, word, word, |byte| is_plain(byte) || byte == b'!')
}

fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    match name.len() {
        0 => Err(error(what, name, "it is empty")),
        1..=MAX_NAME_BYTES => Ok(()),
        _ => Err(error(what, name, "it is longer than 200 bytes")),
    }
}

fn check_component(
    what: &'static str,
    whole: &str,
    component: &str,
    allowed: impl Fn(u8) -> bool,
) -> Result<(), NameError> {
    if component.is_empty() {
        return Err(error(what, whole, "a component is empty (absolute paths are not accepted)"));
    }
    if component.starts_with('.') {
        return Err(error(what, whole, "a component begins with a dot"));
    }
    if component.starts_with('-') {
        return Err(error(what, whole, "a component begins with a dash"));
    }
    if !component.bytes().all(allowed) {
        return Err(error(what, whole, "only letters, digits and . _ + - may occur"));
    }
    Ok(())
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'-')
}

fn error(what: &'static str, found: &str, reason: &'static str) -> NameError {
    let found = found.chars().filter(|c| !c.is_control()).take(80).collect();
    NameError { what, found, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_path_never_leaves_its_folder() {
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "a\\b", "c:x", "a\0b", "-o"]
        {
            assert!(FilePath::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["config.json", "1_Pooling/config.json", "model-00001-of-00002.safetensors"] {
            assert_eq!(FilePath::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_repository_with_a_revision_is_told_from_a_short_name() {
        assert_eq!(RepoId::parse("all-MiniLM-L6-v2"), None);
        assert_eq!(RepoId::parse("a/b/c"), None);
        let repo = RepoId::parse("BAAI/bge-small-en-v1.5@abc123").unwrap().unwrap();
        assert_eq!(
            (repo.repo.as_str(), repo.revision.as_deref()),
            ("BAAI/bge-small-en-v1.5", Some("abc123"))
        );
        assert_eq!(repo.folder(), "BAAI--bge-small-en-v1.5@abc123");
    }

    #[test]
    fn a_name_that_could_climb_or_inject_is_refused() {
        for bad in ["../x", "a/..", "a/b@../c", "a/b@", "a--b/c", "/b", "a/", "-a/b", "a/b c"] {
            assert!(RepoId::parse(bad).unwrap().is_err(), "{bad:?} was accepted");
        }
        for bad in ["..", ".staging", "a/b", "--index-url", "a b", ""] {
            assert!(check_model_name(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
