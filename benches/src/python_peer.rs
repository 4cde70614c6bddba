//! A peer in a Python process of its own: a script of this folder that answers each line of JSON with one.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::BenchError;

/// A script that runs.
#[derive(Debug)]
pub(crate) struct PythonPeer {
    script: &'static str,
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl PythonPeer {
    /// Starts `script` with the arguments that `argue` adds and waits for what it says first.
    ///
    /// # Errors
    /// When Python or the script fails.
    pub(crate) fn start(
        python: &Path,
        script: &'static str,
        threads: usize,
        argue: impl FnOnce(&mut Command),
    ) -> Result<(Self, Value), BenchError> {
        let threads = threads.to_string();
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script)).args(["--threads", &threads]);
        argue(&mut command);
        for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"] {
            command.env(variable, &threads);
        }
        command.env("HF_HUB_OFFLINE", "1").env("TRANSFORMERS_VERBOSITY", "error");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut peer = Self { script, child, requests, answers };
        let hello = peer.answer()?;
        Ok((peer, hello))
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// When it has ended, or says that it failed.
    pub(crate) fn ask(&mut self, request: &Value) -> Result<Value, BenchError> {
        let requests = self.requests.as_mut().ok_or_else(|| fault(self.script, "it ended"))?;
        writeln!(requests, "{request}")?;
        requests.flush()?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value, BenchError> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(fault(self.script, "it ended"));
        }
        let answer: Value = serde_json::from_str(&line)?;
        match answer["error"].as_str() {
            Some(error) => Err(fault(self.script, error)),
            None => Ok(answer),
        }
    }
}

impl Drop for PythonPeer {
    fn drop(&mut self) {
        // It ends with its standard input.
        self.requests = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What went wrong with a script.
pub(crate) fn fault(script: &str, reason: &str) -> BenchError {
    BenchError::Program { program: script.to_owned(), reason: reason.to_owned() }
}
