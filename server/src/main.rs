//! The program `polylora`.

use std::io::{self, Write};
use std::process::ExitCode;

use polylora_kernels::device::built_in;
use polylora_server::cli;
use polylora_server::dispatch::{Failure, run};
use polylora_server::settings::Environment;

fn main() -> ExitCode {
    let cli = cli::parse(std::env::args_os(), built_in()).unwrap_or_else(|error| error.exit());
    let result = Environment::from_variables(std::env::vars_os())
        .map_err(Failure::from)
        .and_then(|environment| run(cli, &environment));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut stderr = io::stderr().lock();
            for line in failure.lines() {
                // With standard error gone there is nobody left to tell.
                let _ = writeln!(stderr, "{line}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
