//! Another text generator in a process of its own: transformers, PEFT or vLLM (`benches/peer_generate.py`).

use std::path::Path;

use serde_json::{Value, json};

use crate::python_peer::{PythonPeer, fault};
use crate::{BenchError, DTypeKind, GenerateCase, GenerateTimes};

const SCRIPT: &str = "peer_generate.py";

/// Which library generates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEngine {
    /// transformers, with adapters PEFT.
    Transformers,
    /// vLLM's build for CPUs.
    Vllm,
}

/// A generator that runs.
#[derive(Debug)]
pub struct GeneratePeer {
    process: PythonPeer,
    /// Whether texts go through adapters.
    pub is_adapted: bool,
    /// Which library.
    pub engine: PeerEngine,
    /// What it computes in.
    pub dtype: DTypeKind,
    /// Its version and those of what it stands on.
    pub versions: String,
}

impl PeerEngine {
    /// Its name in tables; with adapters, transformers is PEFT.
    pub fn name(self, is_adapted: bool) -> &'static str {
        match (self, is_adapted) {
            (Self::Transformers, false) => "transformers",
            (Self::Transformers, true) => "PEFT",
            (Self::Vllm, _) => "vLLM",
        }
    }

    fn argument(self) -> &'static str {
        match self {
            Self::Transformers => "transformers",
            Self::Vllm => "vllm",
        }
    }
}

impl GeneratePeer {
    /// Starts it in `dtype` with a model, and with the adapters of those names in a folder where they are given; waits until it is
    /// loaded.
    ///
    /// # Errors
    /// When Python or the library fails.
    pub fn start(
        python: &Path,
        engine: PeerEngine,
        model: &Path,
        adapters: Option<(&Path, &[String])>,
        (dtype, threads): (DTypeKind, usize),
    ) -> Result<Self, BenchError> {
        let (process, hello) = PythonPeer::start(python, SCRIPT, threads, |command| {
            command.args(["--engine", engine.argument(), "--dtype", dtype.name()]).arg("--llm").arg(model);
            if let Some((folder, names)) = adapters {
                command.arg("--adapters").arg(folder).args(names);
            }
        })?;
        let versions = hello["versions"].as_str().unwrap_or("?").to_owned();
        Ok(Self { process, is_adapted: adapters.is_some(), engine, dtype, versions })
    }

    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        self.engine.name(self.is_adapted)
    }

    /// Reads the prompts and continues them.
    ///
    /// # Errors
    /// When it fails, or draws other numbers of tokens.
    pub fn generate(&mut self, case: &GenerateCase) -> Result<GenerateTimes, BenchError> {
        let request = json!({"prompts": case.prompts, "new": case.new});
        times(&self.process.ask(&request)?)
    }
}

fn times(answer: &Value) -> Result<GenerateTimes, BenchError> {
    let read = || {
        let tokens = answer["tokens"].as_array()?.iter().map(|text| {
            let ids = text.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok());
            ids.collect::<Option<Vec<u32>>>()
        });
        Some(GenerateTimes {
            first_ms: answer["first_ms"].as_f64()?,
            step_ms: answer["step_ms"].as_f64()?,
            fastest_step_ms: None,
            tokens: tokens.collect::<Option<_>>()?,
        })
    };
    read().ok_or_else(|| fault(SCRIPT, &format!("{answer} has no times")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_times_and_tokens_and_anything_else_is_a_fault() {
        let whole = json!({"first_ms": 90.5, "step_ms": 44.0, "tokens": [[1, 2], [3, 4]]});
        let tokens = vec![vec![1, 2], vec![3, 4]];
        let expected = GenerateTimes { first_ms: 90.5, step_ms: 44.0, fastest_step_ms: None, tokens };
        assert_eq!(times(&whole).expect("times"), expected);
        for wrong in
            [json!({"first_ms": 1.0, "step_ms": 2.0}), json!({"tokens": [[-1]], "first_ms": 1, "step_ms": 1})]
        {
            assert!(times(&wrong).is_err(), "{wrong}");
        }
    }
}
