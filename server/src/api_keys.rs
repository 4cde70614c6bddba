//! The keys that open the server: from flags, the environment and a file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::settings::{ApiKey, Settings, parse_setting};

/// Keys that a file may have; each is compared with what a client presents.
const MOST_KEYS: usize = 10_000;

type KeyDigest = [u8; 32];

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeysError {
    /// The file cannot be read.
    #[error("the file of API keys {} cannot be read (--api-key-file)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line is no key. The line itself may be a secret and is not shown.
    #[error("{}, line {line}: expected a key of visible ASCII characters without spaces, or a # comment", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The file would leave the server open.
    #[error("the file of API keys {} has no key: a line for each is expected", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file has more keys than are compared.
    #[error("the file of API keys {} has {found} keys, at most {MOST_KEYS} are taken", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// Keys found.
        found: usize,
    },
}

/// The keys, of which a request must bear one. None at all means that no key is needed.
#[derive(Default)]
pub struct ApiKeys {
    given: Vec<KeyDigest>,
    file: Option<PathBuf>,
    read: RwLock<Vec<KeyDigest>>,
}

impl ApiKeys {
    /// The keys of the settings, without those of a file.
    pub fn given(keys: &[ApiKey]) -> Self {
        Self { given: keys.iter().map(ApiKey::digest).collect(), ..Self::default() }
    }

    /// The keys of the settings and of their file.
    ///
    /// # Errors
    /// [`ApiKeysError`] for a file that cannot be used.
    pub fn load(settings: &Settings) -> Result<Self, ApiKeysError> {
        let keys = Self { file: settings.api_key_file.clone(), ..Self::given(&settings.api_key) };
        keys.reload()?;
        Ok(keys)
    }

    /// Reads the file again and says how many keys it has; `None` without a file. A file that cannot be used changes
    /// nothing.
    ///
    /// # Errors
    /// [`ApiKeysError`].
    pub fn reload(&self) -> Result<Option<usize>, ApiKeysError> {
        let Some(path) = &self.file else { return Ok(None) };
        let keys = read_keys(path)?;
        let count = keys.len();
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(Some(count))
    }

    /// Whether a key is needed.
    pub fn are_needed(&self) -> bool {
        !self.given.is_empty() || self.file.is_some()
    }

    /// Whether the presented bytes are one of the keys. The time depends on their length and the number of keys alone:
    /// every key is compared, by digest, whatever the others said.
    pub fn open_to(&self, presented: &[u8]) -> bool {
        let presented: KeyDigest = Sha256::digest(presented).into();
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let keys = self.given.iter().chain(read.iter());
        keys.fold(Choice::from(0), |found, key| found | key.ct_eq(&presented)).into()
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").field("file", &self.file).finish_non_exhaustive()
    }
}

fn read_keys(path: &Path) -> Result<Vec<KeyDigest>, ApiKeysError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ApiKeysError::Unreadable { path: path.to_owned(), source })?;
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = parse_setting::<ApiKey>(line)
            .map_err(|_| ApiKeysError::Line { path: path.to_owned(), line: index + 1 })?;
        keys.push(key.digest());
    }
    match keys.len() {
        0 => Err(ApiKeysError::Empty { path: path.to_owned() }),
        found if found > MOST_KEYS => Err(ApiKeysError::TooMany { path: path.to_owned(), found }),
        _ => Ok(keys),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> (Settings, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let api_key = vec![parse_setting("flag").expect("a key")];
        (Settings { api_key, api_key_file: Some(file.path().into()), ..Settings::default() }, file)
    }

    #[test]
    fn any_of_the_keys_opens_and_nothing_else_does() {
        let (settings, _file) = settings("# people\nanna\n\n  bert  \n#carl\n");
        let keys = ApiKeys::load(&settings).expect("keys");
        for key in ["flag", "anna", "bert"] {
            assert!(keys.open_to(key.as_bytes()), "{key}");
        }
        for wrong in ["", "ann", "annaa", "Anna", "carl", "#carl", "anna\nbert", "people"] {
            assert!(!keys.open_to(wrong.as_bytes()), "{wrong}");
        }
        assert!(keys.are_needed() && !ApiKeys::default().are_needed());
        assert!(!ApiKeys::default().open_to(b""));
    }

    #[test]
    fn a_file_is_read_again_and_a_broken_one_changes_nothing() {
        let (settings, file) = settings("old\n");
        let keys = ApiKeys::load(&settings).expect("keys");
        std::fs::write(file.path(), "new\n").expect("written");
        assert!(keys.open_to(b"old") && !keys.open_to(b"new"));
        assert_eq!(keys.reload().expect("read"), Some(1));
        assert!(!keys.open_to(b"old") && keys.open_to(b"new") && keys.open_to(b"flag"));
        std::fs::write(file.path(), "# nobody\n").expect("written");
        assert!(matches!(keys.reload(), Err(ApiKeysError::Empty { .. })));
        assert!(keys.open_to(b"new"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told_without_its_secrets() {
        let (settings, file) = settings("good\nhush hush\n");
        let error = ApiKeys::load(&settings).expect_err("refused").to_string();
        assert!(error.contains("line 2") && !error.contains("hush") && !error.contains("good"), "{error}");
        drop(file);
        assert!(matches!(ApiKeys::load(&settings), Err(ApiKeysError::Unreadable { .. })));
    }
}
