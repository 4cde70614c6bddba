//! Promote and roll back: the time of a call, with a registry that is kept on disk and with one that is not.

use std::fs;

use serde_json::{Value, json};

use crate::fleet_client::FleetClient;
use crate::{BenchError, FleetSetup, HttpServer, Passes, Report, Row, StateDir, SyncedFile, file_system};

const NAME: &str = "law";
/// The newest answers at the start.
const VERSIONS: [&str; 2] = ["v1.0.0", "v1.1.0"];
const OLDER: &str = "1.0.0";
/// Turns that are not counted: the older version has to be read first.
const WARM_UP: usize = 3;

/// Two servers with two versions of an adapter, in turn with one write that reaches the disk.
pub struct Switches {
    servers: [Switched; 2],
    synced: SyncedFile,
    synced_ms: Vec<f64>,
    file_system: String,
}

/// A server, and the times of its calls in milliseconds.
struct Switched {
    registry: &'static str,
    client: FleetClient,
    promote_ms: Vec<f64>,
    rollback_ms: Vec<f64>,
    _server: HttpServer,
}

impl Switches {
    /// Starts both servers.
    ///
    /// # Errors
    /// When folders or servers fail.
    pub fn start(setup: &FleetSetup) -> Result<Self, BenchError> {
        let (made, names) = setup.adapters("switch-made", VERSIONS.len())?;
        let folder = setup.folder.join("switch");
        fs::create_dir_all(folder.join(NAME))?;
        for (name, version) in names.iter().zip(VERSIONS) {
            fs::rename(made.join(name), folder.join(NAME).join(version))?;
        }
        let own = [format!("--adapters-dir={}", folder.display())];
        let start = |registry, state_dir| {
            let server = setup.start(state_dir, &own)?;
            let client = FleetClient::connect(server.address)?;
            let mut switched =
                Switched { registry, client, promote_ms: vec![], rollback_ms: vec![], _server: server };
            for _ in 0..WARM_UP {
                switched.turn()?;
            }
            switched.promote_ms.clear();
            switched.rollback_ms.clear();
            Ok::<_, BenchError>(switched)
        };
        Ok(Self {
            servers: [start("state directory", StateDir::Kept("switch"))?, start("none", StateDir::None)?],
            synced: SyncedFile::create(&setup.folder)?,
            synced_ms: vec![],
            file_system: file_system(&setup.folder),
        })
    }

    /// So many calls of each kind to each server, and as many synced writes, all in turn.
    ///
    /// # Errors
    /// When a call or a write fails.
    pub fn round(&mut self, calls: usize) -> Result<(), BenchError> {
        for _ in 0..calls {
            for server in &mut self.servers {
                server.turn()?;
            }
            self.synced_ms.push(self.synced.write()?);
        }
        Ok(())
    }

    /// The median of a promotion on the server whose registry is not kept.
    pub fn promote_ms(&self) -> f64 {
        Passes::of(self.servers[1].promote_ms.clone()).median()
    }

    /// Writes the table.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn tell(&self, report: &mut Report) -> Result<(), BenchError> {
        report.note(&format!(
            "**Promote and roll back.** Calls over HTTP, one after the other, between two versions in host memory; the answer is \
             the new state. *Floor*: a page of one file written and synced (`fdatasync`) on the same disk ({}), in turn with the \
             calls. Without a state directory nothing is written.",
            self.file_system
        ))?;
        let floor = Passes::of(self.synced_ms.clone());
        for server in &self.servers {
            for (call, times) in [("promote", &server.promote_ms), ("rollback", &server.rollback_ms)] {
                let times = Passes::of(times.clone());
                report.row(&row(call, server.registry, &times).number(
                    "p50 / floor's",
                    times.median() / floor.median(),
                    2,
                ))?;
            }
        }
        report.row(&row("synced write", "floor", &floor).number("p50 / floor's", 1.0, 2))
    }
}

impl Switched {
    /// The older version and back.
    fn turn(&mut self) -> Result<(), BenchError> {
        let promoted =
            self.client.post(&format!("/api/adapters/{NAME}/promote"), &json!({"version": OLDER}))?;
        let label = |body: &[u8]| {
            Ok::<_, BenchError>(serde_json::from_slice::<Value>(body)?["adapter_version"].take())
        };
        let older = label(&promoted.reply.body)?;
        let back = self.client.post(&format!("/api/adapters/{NAME}/rollback"), &json!({}))?;
        let newer = label(&back.reply.body)?;
        if older != OLDER || newer == OLDER {
            let reason = format!("promoted {OLDER} and got {older}, rolled back and got {newer}");
            return Err(BenchError::Server { reason });
        }
        self.promote_ms.push(promoted.ms());
        self.rollback_ms.push(back.ms());
        Ok(())
    }
}

fn row(call: &str, registry: &str, times: &Passes) -> Row {
    Row::default()
        .text("call", call)
        .text("registry", registry)
        .number("calls", times.sorted().len() as f64, 0)
        .number("p50 ms", times.median(), 3)
        .number("p99 ms", times.percentile(0.99), 3)
        .number("max ms", times.max(), 3)
}
