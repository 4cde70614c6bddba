//! What the servers of the fleet bench have in common: the program, the model, and folders with random adapters.

use std::fs;
use std::path::{Path, PathBuf};

use polylora_adapters::{CONFIG_FILE, WEIGHTS_FILE};

use crate::fleet_client::ADMIN_KEY;
use crate::{BenchError, EncoderSize, HttpServer, RunOptions, Targets, write_random_adapters};

/// Rank of every adapter, on all linear layers.
pub const FLEET_RANK: usize = 8;

/// Seconds for which a connection of the bench may lie idle.
const LONGEST_PAUSE_S: usize = 24 * 3600;

/// How servers are started, and where their folders lie.
#[derive(Clone, Debug)]
pub struct FleetSetup {
    /// The program.
    pub binary: PathBuf,
    /// The model's directory.
    pub model: PathBuf,
    /// Where adapters and registries are written.
    pub folder: PathBuf,
    /// Tokens of each text, special ones included.
    pub tokens: usize,
    /// Number format and threads.
    pub run: RunOptions,
    /// Further arguments of every server.
    pub more: Vec<String>,
}

/// Where a server keeps its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateDir<'a> {
    /// In a folder of that name: changes are synced before they are answered.
    Kept(&'a str),
    /// Nowhere: it ends with the process.
    None,
}

impl FleetSetup {
    /// Starts a server with an admin key, and without the regular check of all adapters, which would come at any time.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&self, state_dir: StateDir<'_>, own: &[String]) -> Result<HttpServer, BenchError> {
        let state = match state_dir {
            StateDir::Kept(name) => self.folder.join(format!("state-{name}")).display().to_string(),
            StateDir::None => "none".to_owned(),
        };
        let mut arguments = vec![
            "--device=cpu".to_owned(),
            format!("--embedding-model={}", self.model.display()),
            format!("--dtype={}", self.run.dtype),
            format!("--admin-api-key={ADMIN_KEY}"),
            format!("--state-dir={state}"),
            "--adapter-check-interval=0".to_owned(),
            // A client says nothing while the other parts take their turns, also before its first request.
            format!("--header-read-timeout={LONGEST_PAUSE_S}"),
            format!("--idle-timeout={LONGEST_PAUSE_S}"),
        ];
        arguments.extend(self.run.threads.map(|threads| format!("--threads={threads}")));
        arguments.extend(own.iter().cloned());
        arguments.extend(self.more.iter().cloned());
        HttpServer::start(&self.binary, &arguments)
    }

    /// A new folder with so many random adapters, and their names.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn adapters(&self, name: &str, count: usize) -> Result<(PathBuf, Vec<String>), BenchError> {
        let folder = self.folder.join(name);
        fs::create_dir(&folder)?;
        let ranks = vec![FLEET_RANK; count];
        let names = write_random_adapters(&folder, EncoderSize::MINILM_L6, Targets::AllLinear, &ranks)?;
        Ok((folder, names))
    }
}

/// A new folder `to` with some of the adapters of `from`: the same files under a second name.
///
/// # Errors
/// When it cannot be made.
pub fn link_adapters(from: &Path, names: &[String], to: &Path) -> Result<(), BenchError> {
    for name in names {
        fs::create_dir_all(to.join(name))?;
        for file in [CONFIG_FILE, WEIGHTS_FILE] {
            fs::hard_link(from.join(name).join(file), to.join(name).join(file))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linked_adapters_hold_what_the_first_ones_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("all"), folder.path().join("some"));
        fs::create_dir(&from).expect("made");
        let names = write_random_adapters(&from, EncoderSize::MINILM_L6, Targets::QueryValue, &[1, 1])
            .expect("written");
        link_adapters(&from, &names[1..], &to).expect("linked");
        let read = |folder: &Path| fs::read(folder.join(&names[1]).join(WEIGHTS_FILE)).expect("weights");
        assert_eq!(read(&from), read(&to));
        assert!(!to.join(&names[0]).exists());
    }
}
