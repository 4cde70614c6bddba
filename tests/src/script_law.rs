//! Laws that Python scripts of `tests/clients` hold the server to, one a run.

use std::path::Path;
use std::process::Command;

use crate::{client_python, repository, run};

/// A run of `script`, which tries `law` at the server of that address; `folder` is where Python's packages may be put.
pub fn script_law(folder: &Path, script: &str, law: &str, url: &str) -> Command {
    let mut command = Command::new(client_python(folder));
    command.arg(repository().join(script)).arg(law).env("POLYLORA_URL", url);
    // Clients and drivers talk over the loopback.
    command.env("NO_PROXY", "127.0.0.1,localhost").env("no_proxy", "127.0.0.1,localhost");
    command
}

/// Runs it.
///
/// # Panics
/// When the law does not hold, or was not tried.
pub fn assert_held(command: &mut Command, law: &str) {
    let ended = run(command, "");
    assert_eq!(ended.code, Some(0), "{law}:\n{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains(&format!("held: {law}")), "{}", ended.stdout);
}
