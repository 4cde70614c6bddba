//! What changing the fleet cannot do without: reading an adapter's files, digesting them, and one write that reaches the disk.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Instant;

use polylora_adapters::{CONFIG_FILE, DigestBuilder, WEIGHTS_FILE};

use crate::BenchError;

/// Bytes of a write that is synced: a page, the least that a file system or a database writes.
const PAGE: usize = 4096;

/// What an adapter's files take at least, without a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadFloor {
    /// Their length.
    pub bytes: usize,
    /// Milliseconds in which they are read whole, from the page cache when they were read before.
    pub read_ms: f64,
    /// Milliseconds of their SHA-256, by the code that the server has.
    pub digest_ms: f64,
}

impl ReadFloor {
    /// Reads and digests the files of an adapter's folder.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn measure(folder: &Path) -> Result<Self, BenchError> {
        let began = Instant::now();
        let files = [CONFIG_FILE, WEIGHTS_FILE].map(|file| fs::read(folder.join(file)));
        let read_ms = milliseconds(began);
        let files = files.into_iter().collect::<Result<Vec<_>, _>>()?;
        let began = Instant::now();
        let digest =
            files.iter().fold(DigestBuilder::new("floor"), |digest, bytes| digest.field(bytes)).finish();
        black_box(digest);
        let digest_ms = milliseconds(began);
        Ok(Self { bytes: files.iter().map(Vec::len).sum(), read_ms, digest_ms })
    }

    /// Both.
    pub fn ms(&self) -> f64 {
        self.read_ms + self.digest_ms
    }
}

/// A file of one page, to be written and synced again and again.
#[derive(Debug)]
pub struct SyncedFile(File);

impl SyncedFile {
    /// Makes it in a folder.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn create(folder: &Path) -> Result<Self, BenchError> {
        let mut file = Self(File::create(folder.join("synced"))?);
        // The first write also makes the file longer.
        file.write()?;
        Ok(file)
    }

    /// Writes the page and waits until the disk has it: how many milliseconds.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self) -> Result<f64, BenchError> {
        let began = Instant::now();
        self.0.rewind()?;
        self.0.write_all(&[0x5a; PAGE])?;
        self.0.sync_data()?;
        Ok(milliseconds(began))
    }
}

/// The kind of file system that a folder lies on, by Linux' table of mounts; on tmpfs syncing costs nothing.
pub fn file_system(folder: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    kind_of(&mounts, &folder).unwrap_or_else(|| "a file system that is not known".to_owned())
}

fn kind_of(mounts: &str, folder: &Path) -> Option<String> {
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        Some((fields.next()?, fields.next()?))
    });
    // Of two at the same place the later one covers the earlier.
    let around = mounted.filter(|(place, _)| folder.starts_with(place)).max_by_key(|(place, _)| place.len());
    around.map(|(_, kind)| kind.to_owned())
}

fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lies_on_the_innermost_mount() {
        let mounts = "/dev/vda / ext4 rw 0 0\nproc /proc proc rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp xfs rw 0 0\n";
        assert_eq!(kind_of(mounts, Path::new("/tmp/bench")).as_deref(), Some("xfs"));
        assert_eq!(kind_of(mounts, Path::new("/tmpx")).as_deref(), Some("ext4"));
        assert_eq!(kind_of("", Path::new("/")), None);
    }

    #[test]
    fn floors_are_of_all_bytes_and_take_time() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(CONFIG_FILE), "{}").expect("written");
        assert!(ReadFloor::measure(folder.path()).is_err());
        fs::write(folder.path().join(WEIGHTS_FILE), [0; 1000]).expect("written");
        let floor = ReadFloor::measure(folder.path()).expect("read");
        assert_eq!(floor.bytes, 1002);
        assert!(floor.ms() > 0.0);
        let mut synced = SyncedFile::create(folder.path()).expect("made");
        assert!(synced.write().expect("written") > 0.0);
        assert_eq!(fs::metadata(folder.path().join("synced")).expect("there").len(), PAGE as u64);
    }
}
