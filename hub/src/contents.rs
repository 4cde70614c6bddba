//! What a file may contain: sizes and digests, and the check of a file on disk against them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::names::FilePath;

/// How a content is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256 of the bytes: the catalogue's, and the Hub's for large files.
    Sha256([u8; 32]),
    /// Git blob id, SHA-1 over `blob <size>\0` and the bytes: what the Hub gives for small files.
    GitBlob([u8; 20]),
}

impl Digest {
    /// Parses 64 (SHA-256) or 40 (git blob id) hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
            let mut out = [0; N];
            for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                let digit = |c: u8| char::from(c).to_digit(16);
                *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
            }
            Some(out)
        }
        match text.len() {
            64 => bytes(text).map(Self::Sha256),
            40 => bytes(text).map(Self::GitBlob),
            _ => None,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (label, bytes) = match self {
            Self::Sha256(bytes) => ("", bytes.as_slice()),
            Self::GitBlob(bytes) => ("git:", bytes.as_slice()),
        };
        f.write_str(label)?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One content that is accepted for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Size in bytes.
    pub size: u64,
    /// Digest of the whole file.
    pub digest: Digest,
}

/// A file that belongs to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFile {
    /// Where it lies in the model's folder.
    pub path: FilePath,
    /// Accepted contents; any one will do. Empty: not pinned, judged by size and form alone.
    pub accept: Vec<Pin>,
    /// Most bytes that are taken for it from any source.
    pub max_size: u64,
    /// The model works without it.
    pub optional: bool,
}

impl WantedFile {
    /// A file with exactly one accepted content.
    pub(crate) fn pinned(path: FilePath, pin: Pin) -> Self {
        Self { path, accept: vec![pin], max_size: pin.size, optional: false }
    }

    /// The size, where all accepted contents agree on it.
    pub fn known_size(&self) -> Option<u64> {
        let first = self.accept.first()?.size;
        self.accept.iter().all(|pin| pin.size == first).then_some(first)
    }
}

/// A file that was checked: what the marker of a finished model records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) size: u64,
    pub(crate) sha256: [u8; 32],
}

/// Why a file on disk is not the wanted one.
#[derive(Debug)]
pub(crate) enum Mismatch {
    /// It could not be read.
    Io(io::Error),
    /// It has more bytes than any accepted content.
    TooLarge { size: u64 },
    /// None of the pins matches.
    Hash { found: String },
    /// Not pinned, and not the JSON that its name promises.
    NotJson { reason: String },
}

/// Reads the file at `path` once and compares it with what is wanted.
pub(crate) fn check(path: &Path, wanted: &WantedFile) -> Result<Checked, Mismatch> {
    let mut file = File::open(path).map_err(Mismatch::Io)?;
    let size = file.metadata().map_err(Mismatch::Io)?.len();
    if size > wanted.max_size {
        return Err(Mismatch::TooLarge { size });
    }
    let mut sha256 = Sha256::new();
    let with_git = wanted.accept.iter().any(|pin| matches!(pin.digest, Digest::GitBlob(_)));
    let mut git = with_git.then(|| Sha1::new_with_prefix(format!("blob {size}\0")));
    let mut block = vec![0; 1 << 20];
    loop {
        let count = match file.read(&mut block) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Mismatch::Io(e)),
        };
        sha256.update(&block[..count]);
        if let Some(git) = &mut git {
            git.update(&block[..count]);
        }
    }
    let sha256: [u8; 32] = sha256.finalize().into();
    let git: Option<[u8; 20]> = git.map(|git| git.finalize().into());
    let matches = |pin: &Pin| {
        pin.size == size
            && match pin.digest {
                Digest::Sha256(expected) => expected == sha256,
                Digest::GitBlob(expected) => git == Some(expected),
            }
    };
    if wanted.accept.is_empty() {
        check_form(path, wanted)?;
    } else if !wanted.accept.iter().any(matches) {
        let only_git = wanted.accept.iter().all(|pin| matches!(pin.digest, Digest::GitBlob(_)));
        let found = match git {
            Some(git) if only_git => Digest::GitBlob(git),
            _ => Digest::Sha256(sha256),
        };
        return Err(Mismatch::Hash { found: format!("{found} ({size} bytes)") });
    }
    Ok(Checked { size, sha256 })
}

/// An unpinned `.json` must parse: a proxy's error page arrives with status 200 as well.
fn check_form(path: &Path, wanted: &WantedFile) -> Result<(), Mismatch> {
    if !wanted.path.file_name().ends_with(".json") {
        return Ok(());
    }
    let reader = io::BufReader::new(File::open(path).map_err(Mismatch::Io)?);
    match serde_json::from_reader::<_, serde::de::IgnoredAny>(reader) {
        Ok(_) => Ok(()),
        Err(e) => Err(Mismatch::NotJson { reason: e.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn a_git_blob_id_is_the_one_git_gives() {
        // `printf 'hello\n' | git hash-object --stdin`
        let digest = Digest::from_hex("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let wanted = WantedFile::pinned(FilePath::new("x.json").unwrap(), Pin { size: 6, digest });
        let (_dir, path) = file_with(b"hello\n");
        assert!(check(&path, &wanted).is_ok());
        let (_dir, path) = file_with(b"hellO\n");
        assert!(matches!(check(&path, &wanted), Err(Mismatch::Hash { found }) if found.starts_with("git:")));
    }

    #[test]
    fn any_one_of_several_accepted_contents_will_do() {
        let pin = |bytes: &[u8]| Pin {
            size: bytes.len() as u64,
            digest: Digest::Sha256(Sha256::digest(bytes).into()),
        };
        let wanted = WantedFile {
            path: FilePath::new("config.json").unwrap(),
            accept: vec![pin(b"{}"), pin(b"{ }")],
            max_size: 3,
            optional: false,
        };
        assert_eq!(wanted.known_size(), None);
        for (bytes, accepted) in [(&b"{}"[..], true), (b"{ }", true), (b"[]", false)] {
            let (_dir, path) = file_with(bytes);
            assert_eq!(check(&path, &wanted).is_ok(), accepted);
        }
    }

    #[test]
    fn an_unpinned_json_file_must_be_json() {
        let path = FilePath::new("config.json").unwrap();
        let wanted = WantedFile { path, accept: Vec::new(), max_size: 100, optional: false };
        let (_dir, good) = file_with(b"{\"a\": 1}");
        assert!(check(&good, &wanted).is_ok());
        let (_dir, page) = file_with(b"<html>login</html>");
        assert!(matches!(check(&page, &wanted), Err(Mismatch::NotJson { .. })));
    }

    #[test]
    fn a_digest_survives_its_hexadecimal_form() {
        let text = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";
        assert_eq!(Digest::from_hex(text).unwrap().to_string(), text);
        assert_eq!(Digest::from_hex("zz"), None);
        assert_eq!(Digest::from_hex(&"zz".repeat(32)), None);
        assert_eq!(Digest::from_hex(&"é".repeat(32)), None);
    }
}
