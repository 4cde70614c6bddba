//! Hot reloads: what answers under a name is replaced by another content while clients ask for it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use crate::fleet_client::FleetClient;
use crate::fleet_windows::{Answered, Replacement, Seen, Windows};
use crate::{BenchError, FleetSetup, HttpServer, Passes, Report, Row, StateDir, WordPool};

/// What clients ask for.
const NAME: &str = "hot";
/// From the beginning of one reload to that of the next.
const PERIOD: Duration = Duration::from_millis(100);
/// Time of the clients before anything is counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// A server, clients of one of its adapters, and contents to replace that with.
pub struct HotReloads {
    server: HttpServer,
    admin: FleetClient,
    /// Each is loaded once.
    contents: std::vec::IntoIter<PathBuf>,
    clients: usize,
    reloads: usize,
    tokens: usize,
    rounds: Vec<Seen>,
}

impl HotReloads {
    /// Starts the server, with contents for so many rounds of so many reloads.
    ///
    /// # Errors
    /// When folders or server fail.
    pub fn start(
        setup: &FleetSetup,
        clients: usize,
        reloads: usize,
        rounds: usize,
    ) -> Result<Self, BenchError> {
        let reloads = reloads.max(1);
        // Adapters in the resolver's folder are not taken in at the start.
        let (folder, names) = setup.adapters("hot", reloads * rounds + 1)?;
        let (empty, _) = setup.adapters("hot-at-start", 0)?;
        let own =
            [format!("--adapters-dir={}", empty.display()), format!("--lora-resolver={}", folder.display())];
        let server = setup.start(StateDir::Kept("hot"), &own)?;
        let contents: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        let mut reloads = Self {
            admin: FleetClient::connect(server.address)?,
            server,
            contents: contents.into_iter(),
            clients: clients.max(1),
            reloads,
            tokens: setup.tokens,
            rounds: vec![],
        };
        reloads.replace()?;
        Ok(reloads)
    }

    /// The clients run through a time with reloads and one of the same length without; which comes first changes from round
    /// to round.
    ///
    /// # Errors
    /// When a reload fails, or a client.
    pub fn round(&mut self, pool: WordPool) -> Result<WordPool, BenchError> {
        let (texts, is_over) = (Mutex::new(pool), AtomicBool::new(false));
        let (address, tokens, clients) = (self.server.address, self.tokens, self.clients);
        let connections =
            (0..clients).map(|_| FleetClient::connect(address)).collect::<Result<Vec<_>, _>>()?;
        let (windows, answers) = scope(|scope| {
            let client = |mut client: FleetClient| {
                let (texts, is_over) = (&texts, &is_over);
                scope.spawn(move || {
                    let mut answers = vec![];
                    while !is_over.load(Ordering::Relaxed) {
                        let text = texts.lock().expect("no client panics").text(tokens);
                        let call = client.embed(Some(NAME), &text)?;
                        let by = call.reply.answered_by.unwrap_or_default();
                        answers.push(Answered { began: call.began, ended: call.ended, by });
                    }
                    Ok::<_, BenchError>(answers)
                })
            };
            let clients: Vec<_> = connections.into_iter().map(client).collect();
            let windows = self.windows();
            is_over.store(true, Ordering::Relaxed);
            let answers: Vec<_> =
                clients.into_iter().map(|client| client.join().expect("no client panics")).collect();
            (windows, answers)
        });
        let mut all = vec![];
        for answers in answers {
            all.extend(answers?);
        }
        self.rounds.push(windows?.seen(&all));
        Ok(texts.into_inner().expect("no client panics"))
    }

    fn windows(&mut self) -> Result<Windows, BenchError> {
        let length = PERIOD * self.reloads as u32;
        sleep(WARM_UP);
        let is_quiet_first = self.rounds.len() % 2 == 1;
        let first = Instant::now();
        if is_quiet_first {
            sleep(length);
        }
        let loud = Instant::now();
        let mut replacements = vec![];
        for number in 0..self.reloads {
            sleep((loud + PERIOD * number as u32).saturating_duration_since(Instant::now()));
            replacements.push(self.replace()?);
        }
        sleep((loud + length).saturating_duration_since(Instant::now()));
        let second = Instant::now();
        if !is_quiet_first {
            sleep(length);
        }
        let quiet = if is_quiet_first { first } else { second };
        Ok(Windows { loud, quiet, length, replacements })
    }

    fn replace(&mut self) -> Result<Replacement, BenchError> {
        let reason = || "there are no more contents to load".to_owned();
        let folder = self.contents.next().ok_or_else(|| BenchError::Server { reason: reason() })?;
        let call = self.admin.load_in_place(NAME, &folder.display().to_string())?;
        Ok(Replacement { called: call.began, answered: call.ended, tag: self.admin.active(NAME)? })
    }

    /// Writes the table.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn tell(&self, report: &mut Report) -> Result<(), BenchError> {
        report.note(&format!(
            "**Hot reload.** `load_lora_adapter` with `load_inplace`, a content that was never there before every {} ms, while {} \
             clients ask for the adapter. *During*: requests that were in flight between call and answer; *without*: those in \
             flight in as many and as long windows of a time without reloads. *Old after*: requests that began after the answer \
             and were answered by what was replaced.",
            PERIOD.as_millis(),
            self.clients
        ))?;
        for round in &self.rounds {
            report.row(&row(round))?;
        }
        let ratios: Vec<f64> = self.rounds.iter().map(Seen::ratio).collect();
        let ratio = Passes::of(ratios).median();
        report.note(&format!("p99 during / without, the median of the rounds: {ratio:.2}."))
    }
}

fn row(round: &Seen) -> Row {
    let of = |times: &[f64], share: f64| match times.is_empty() {
        true => f64::NAN,
        false => Passes::of(times.to_vec()).percentile(share),
    };
    Row::default()
        .number("reloads", round.call_ms.len() as f64, 0)
        .number("call ms", of(&round.call_ms, 0.5), 2)
        .number("call p99", of(&round.call_ms, 0.99), 2)
        .number("to the first new reply ms", of(&round.first_reply_ms, 0.5), 2)
        .number("its p99", of(&round.first_reply_ms, 0.99), 2)
        .number("never seen", round.call_ms.len() as f64 - round.first_reply_ms.len() as f64, 0)
        .number("old after", round.old_after as f64, 0)
        .number("replies during", round.during.len() as f64, 0)
        .number("p50 during ms", of(&round.during, 0.5), 2)
        .number("p50 without", of(&round.without, 0.5), 2)
        .number("p99 during ms", of(&round.during, 0.99), 2)
        .number("p99 without", of(&round.without, 0.99), 2)
        .number("ratio", round.ratio(), 2)
}
