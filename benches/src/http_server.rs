//! The real server as a process of its own, and what it has used.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::BenchError;

/// A cold machine may load the model slowly.
const START_LIMIT: Duration = Duration::from_secs(120);
const GLANCE: Duration = Duration::from_millis(20);
/// Ticks of /proc a second, which Linux fixes for programs.
const TICKS: f64 = 100.0;

/// A running `polylora serve`; killed when dropped.
#[derive(Debug)]
pub struct HttpServer {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    _log: TempDir,
}

impl HttpServer {
    /// Starts `binary serve --port 0 ARGUMENTS` and waits until it serves. Its log goes to a file, as behind a collector.
    ///
    /// # Errors
    /// With the log when it does not come up.
    pub fn start(binary: &Path, arguments: &[String]) -> Result<Self, BenchError> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        let mut command = Command::new(binary);
        command.args(["serve", "--port", "0"]).args(arguments).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut child = command.spawn()?;
        let deadline = Instant::now() + START_LIMIT;
        let address = loop {
            sleep(GLANCE);
            let text = fs::read_to_string(&log)?;
            if let Some(address) = address_in(&text) {
                break address;
            }
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(BenchError::Server { reason: format!("it does not come up:\n{text}") });
            }
        };
        Ok(Self { child, address, _log: folder })
    }

    /// Seconds of processor time so far, of all its threads; `None` where there is no /proc.
    pub fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(&format!("/proc/{}/stat", self.child.id()))
    }

    /// Resident memory in bytes; `None` where there is no /proc.
    pub fn resident_bytes(&self) -> Option<usize> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
    }

    /// A value of `/metrics`; labels, where there are any, are part of the name.
    ///
    /// # Errors
    /// When it is not there.
    pub fn metric(&self, name: &str) -> Result<f64, BenchError> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
        let reason = || format!("/metrics has no {name}");
        reply.lines().find_map(value).ok_or_else(|| BenchError::Server { reason: reason() })
    }

    /// Seconds of processor time so far by the names of its threads, less their numbers; empty where there is no /proc.
    pub fn thread_seconds(&self) -> Vec<(String, f64)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let mut seconds: Vec<(String, f64)> = vec![];
        for task in tasks {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
            let used = cpu_seconds(&task.path().join("stat").display().to_string()).unwrap_or_default();
            match seconds.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += used,
                None => seconds.push((name, used)),
            }
        }
        seconds
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program of this build: `target/release/polylora` beside `target/release/deps/BENCH-…`.
///
/// # Errors
/// When it was not built.
pub fn own_binary() -> Result<PathBuf, BenchError> {
    let own = std::env::current_exe()?;
    let profile = own.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let binary = profile.join(format!("polylora{}", std::env::consts::EXE_SUFFIX));
    let reason = || format!("{} is not there: `cargo build --release`, or --binary FILE", binary.display());
    if binary.is_file() { Ok(binary) } else { Err(BenchError::Server { reason: reason() }) }
}

/// Seconds of processor time of this program so far; `None` where there is no /proc.
pub fn own_cpu_seconds() -> Option<f64> {
    cpu_seconds("/proc/self/stat")
}

/// User and system time in a `stat` file of /proc.
fn cpu_seconds(path: &str) -> Option<f64> {
    let stat = fs::read_to_string(path).ok()?;
    // The name before it may hold anything, brackets and blanks too.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Some(ticks as f64 / TICKS)
}

fn address_in(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains(" serving address="))?;
    let word = line.split_whitespace().find_map(|word| word.strip_prefix("address="))?;
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_line_that_says_serving_and_no_other() {
        let loading = "2026 INFO polylora_server::serve: loading address=127.0.0.1:1 model=\"m\"\n";
        let mode = "2026 INFO polylora_server::assemble: serving batched, mixed, 1 instance\n";
        assert_eq!(address_in(&format!("{loading}{mode}")), None);
        let serving = "2026 INFO polylora_server::serve: serving address=127.0.0.1:4711 model=\"m\"\n";
        let address = address_in(&format!("{loading}{mode}{serving}"));
        assert_eq!(address, Some("127.0.0.1:4711".parse().expect("an address")));
    }

    #[test]
    fn own_time_grows_with_work_where_there_is_proc() {
        let Some(before) = own_cpu_seconds() else { return assert!(!Path::new("/proc/self/stat").exists()) };
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            std::hint::black_box(began.elapsed());
        }
        assert!(own_cpu_seconds().expect("read") > before);
    }
}
