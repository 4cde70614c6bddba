//! Other programs on the machine: a figure that they disturbed is measured again.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::BenchError;

/// Cores that other programs may use during a measurement.
const MOST_CORES: f64 = 0.1;
/// How long a pause is before a measurement is repeated: until a glance finds the machine quiet, or so many glances.
const GLANCE: Duration = Duration::from_secs(1);
const MOST_GLANCES: usize = 60;
/// Ticks of /proc a second, which Linux fixes for programs.
const TICKS: f64 = 100.0;

/// CPU time of other programs since a moment.
struct Watch {
    others: u64,
    began: Instant,
}

impl Watch {
    /// `None` where there is no /proc.
    fn start() -> Option<Self> {
        Some(Self { others: others()?, began: Instant::now() })
    }

    /// Cores that other programs used on average.
    fn cores(&self) -> Option<f64> {
        let ticks = others()?.saturating_sub(self.others) as f64;
        Some(ticks / TICKS / self.began.elapsed().as_secs_f64())
    }
}

/// Measures up to `tries` times, until no other program disturbs. Returns the least disturbed result and the cores that
/// others used meanwhile, `None` where that cannot be told.
///
/// # Errors
/// The measurement's own.
pub fn undisturbed<T>(
    tries: usize,
    mut measure: impl FnMut() -> Result<T, BenchError>,
) -> Result<(T, Option<f64>), BenchError> {
    let mut best: Option<(T, Option<f64>)> = None;
    for tries_left in (0..tries.max(1)).rev() {
        let watch = Watch::start();
        let result = measure()?;
        let cores = watch.and_then(|w| w.cores());
        if best.as_ref().is_none_or(|(_, least)| cores < *least) {
            best = Some((result, cores));
        }
        match cores {
            Some(cores) if cores > MOST_CORES && tries_left > 0 => wait_for_quiet(),
            _ => break,
        }
    }
    Ok(best.expect("there was at least one try"))
}

fn wait_for_quiet() {
    for _ in 0..MOST_GLANCES {
        let watch = Watch::start();
        sleep(GLANCE);
        if watch.and_then(|w| w.cores()).is_none_or(|cores| cores <= MOST_CORES) {
            return;
        }
    }
}

/// Ticks in which a core worked for anything but this program: other programs, interrupts, the host's other guests.
fn others() -> Option<u64> {
    let system = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> =
        system.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let busy: u64 = fields.get(..3)?.iter().chain(fields.get(5..8)?).sum();
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, own) = own.rsplit_once(')')?;
    let own: u64 = own.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    busy.checked_sub(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_first_try_is_the_last_and_a_result_always_comes() {
        let mut tries = 0;
        let (result, cores) = undisturbed(1, || {
            tries += 1;
            Ok(tries)
        })
        .expect("measures");
        assert_eq!((result, tries), (1, 1));
        assert_eq!(cores.is_some(), std::path::Path::new("/proc/stat").exists());
    }
}
