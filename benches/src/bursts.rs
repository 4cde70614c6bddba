//! Times of launches on a device that computes behind the program's back: many launches between two waits.

use std::time::{Duration, Instant};

use burn::tensor::Device;

use crate::{BenchError, Passes};

/// Launches that are not counted: the first ones compile and tune.
const WARM_UP: usize = 3;
/// Launches from which the length of a burst is reckoned.
const TRIAL: usize = 4;
/// About how long a burst is: long beside the wait at its end.
const BURST: Duration = Duration::from_millis(5);
const MOST_LAUNCHES: usize = 500;
const FEWEST_BURSTS: usize = 5;
const MOST_BURSTS: usize = 200;

/// Times of bursts.
#[derive(Clone, Debug)]
pub struct Bursts {
    /// Milliseconds a launch, one figure a burst.
    pub launch: Passes,
    /// Time that handing the launches to the device took over the time until it was done, median. Near 1 the program was
    /// the slower of the two, and the figure says nothing about the kernels.
    pub host_share: f64,
}

struct Burst {
    milliseconds: f64,
    host_share: f64,
}

/// Times `launch`, which is told the launch's number, so that it can go round several inputs.
///
/// # Errors
/// When the device fails.
pub fn bursts(
    device: &Device,
    budget: Duration,
    mut launch: impl FnMut(usize),
) -> Result<Bursts, BenchError> {
    let count = launches_of(device, &mut launch)?;
    let (began, mut times) = (Instant::now(), vec![]);
    while times.len() < FEWEST_BURSTS || (times.len() < MOST_BURSTS && began.elapsed() < budget) {
        times.push(burst(device, count, &mut launch)?);
    }
    Ok(Bursts::of(&times))
}

/// Times bursts of two launches in turn. Returns both, and the differences second - first of neighbours as if they were
/// times.
///
/// # Errors
/// When the device fails.
pub fn bursts_in_turn(
    device: &Device,
    budget: Duration,
    mut first: impl FnMut(usize),
    mut second: impl FnMut(usize),
) -> Result<([Bursts; 2], Passes), BenchError> {
    let counts = [launches_of(device, &mut first)?, launches_of(device, &mut second)?];
    let (began, mut times) = (Instant::now(), [vec![], vec![]]);
    while times[0].len() < FEWEST_BURSTS || (times[0].len() < MOST_BURSTS && began.elapsed() < budget) {
        times[0].push(burst(device, counts[0], &mut first)?);
        times[1].push(burst(device, counts[1], &mut second)?);
    }
    let differences = times[1].iter().zip(&times[0]).map(|(two, one)| two.milliseconds - one.milliseconds);
    let differences = Passes::of(differences.collect());
    Ok((times.map(|times| Bursts::of(&times)), differences))
}

impl Bursts {
    fn of(times: &[Burst]) -> Self {
        let launch = Passes::of(times.iter().map(|t| t.milliseconds).collect());
        let host_share = Passes::of(times.iter().map(|t| t.host_share).collect()).median();
        Self { launch, host_share }
    }
}

/// Warms up, and reckons how many launches a burst takes.
fn launches_of(device: &Device, launch: &mut impl FnMut(usize)) -> Result<usize, BenchError> {
    burst(device, WARM_UP, launch)?;
    let trial = burst(device, TRIAL, launch)?.milliseconds / 1e3;
    Ok(((BURST.as_secs_f64() / trial.max(1e-9)) as usize).clamp(2, MOST_LAUNCHES))
}

fn burst(device: &Device, launches: usize, launch: &mut impl FnMut(usize)) -> Result<Burst, BenchError> {
    wait(device)?;
    let began = Instant::now();
    (0..launches).for_each(launch);
    let handed_over = began.elapsed().as_secs_f64();
    wait(device)?;
    let all = began.elapsed().as_secs_f64();
    Ok(Burst { milliseconds: all * 1e3 / launches as f64, host_share: handed_over / all })
}

fn wait(device: &Device) -> Result<(), BenchError> {
    device.sync().map_err(|error| BenchError::Execution { reason: format!("{error:?}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_launch_of_both_is_made_and_their_difference_is_the_second_less_the_first() {
        let (slow, mut made) = (Duration::from_micros(300), [0, 0]);
        let [one, two] = &mut made;
        let (times, difference) = bursts_in_turn(
            &Device::flex(),
            Duration::ZERO,
            |_| *one += 1,
            |_| {
                std::thread::sleep(slow);
                *two += 1;
            },
        )
        .expect("times");
        assert_eq!(times[0].launch.sorted().len(), FEWEST_BURSTS);
        assert!(made.iter().all(|m| *m >= WARM_UP + TRIAL + 2 * FEWEST_BURSTS));
        assert!(difference.min() > 0.0);
        assert!(times.iter().all(|t| (0.0..=1.0).contains(&t.host_share)));
    }
}
