//! The real binary as a command that ends by itself.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::binary;

/// A cold machine may fetch and load the model slowly; nothing waits so long when all is well.
const RUN_LIMIT: Duration = Duration::from_secs(240);

/// What a command left behind.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error, where the log goes.
    pub stderr: String,
}

/// The program without the settings of whoever runs the tests: only the folder of models is theirs.
pub fn polylora() -> Command {
    let mut command = Command::new(binary());
    let settings = |name: &str| name.starts_with("POLYLORA__") || name == "POLYLORA_CONFIG";
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(settings) {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").env("NO_COLOR", "1");
    command
}

/// Runs a command to its end with this standard input.
///
/// # Panics
/// When it does not start, or does not end within minutes.
pub fn run(command: &mut Command, input: &str) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    // A program that does not read its input closes it: no matter.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let code = wait(&mut child, command);
    writer.join().expect("the writer");
    let text = |thread: JoinHandle<String>| thread.join().expect("a reader");
    Ended { code, stdout: text(stdout), stderr: text(stderr) }
}

/// Runs a program that these tests need and do not bring.
///
/// # Panics
/// With `advice` when the program is not installed or fails.
pub fn run_needed(command: &mut Command, advice: &str) -> Ended {
    let program = Path::new(command.get_program()).display().to_string();
    if let Err(error) = Command::new(command.get_program()).arg("--version").output() {
        panic!("{program} cannot be run ({error}): {advice}");
    }
    let ended = run(command, "");
    assert_eq!(ended.code, Some(0), "{command:?} failed: {advice}\n{}\n{}", ended.stdout, ended.stderr);
    ended
}

fn reader(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    let mut stream = stream.expect("piped");
    std::thread::spawn(move || {
        let mut bytes = vec![];
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, command: &Command) -> Option<i32> {
    let deadline = Instant::now() + RUN_LIMIT;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end within {} s", RUN_LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
