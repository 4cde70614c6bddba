//! Pulls the models that are named on the command line and prints where they lie:
//! `cargo run -p polylora-hub --example pull -- all-MiniLM-L6-v2`.

use std::process::ExitCode;

use polylora_hub::{Catalogue, HubConfig, Puller};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = match HubConfig::from_env() {
        Ok(config) => config,
        Err(e) => return failed(&e),
    };
    let puller = Puller::new(Catalogue::builtin(), config);
    for name in std::env::args().skip(1) {
        match puller.resolve(&name) {
            Ok(model) => tracing::info!("{} ({}): {}", model.name, model.source, model.path.display()),
            Err(e) => return failed(&e),
        }
    }
    ExitCode::SUCCESS
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}
