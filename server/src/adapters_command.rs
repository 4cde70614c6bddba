//! `polylora adapters`: lists, promotes, tests, retires adapters, through a server that runs or on its state directory.

mod answer;
mod client;
mod confirmation;
mod display;
mod entry;
mod error;
mod files;
mod health;
mod place;
mod registry_view;
mod render;
mod server;
mod state_directory;
mod tables;
mod values;

#[cfg(test)]
mod fakes;

use std::io::{self, IsTerminal, Write};

use crate::cli::AdaptersFlags;

pub use answer::Answer;
pub use entry::{Entry, EntryMetrics, EntryPart};
pub use error::AdaptersCommandError;
pub use health::{Health, HealthItem, HealthList};
pub use place::{Key, Place, ServerPlace, ServerUrl};
pub use server::Server;
pub use state_directory::StateDirectory;
pub use values::{AdapterRef, Part};

/// Does what the flags say and prints the outcome on standard output. `variable` reads the environment.
///
/// # Errors
/// [`AdaptersCommandError`]. A reader of the output that goes away is none.
pub fn adapters(
    flags: AdaptersFlags,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), AdaptersCommandError> {
    let place = Place::read(flags.target, variable)?;
    if let Some(question) = confirmation::question(&flags.action) {
        let stdin = io::stdin();
        let is_terminal = stdin.is_terminal();
        confirmation::ask(&question, is_terminal, &mut stdin.lock(), &mut io::stderr().lock())?;
    }
    let answer = match place {
        Place::Server(place) => Server::new(place).answer(&flags.action)?,
        Place::Directory(path) => StateDirectory::open(&path)?.answer(&flags.action)?,
    };
    let text = if flags.json { answer.to_json() } else { render::text(&flags.action, &answer)? };
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.map_err(AdaptersCommandError::Write)?,
    }
    answer.verdict()
}
