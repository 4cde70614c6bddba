//! How long something may take.

use std::time::Duration;

use super::value::Setting;

/// Longest time that a setting can name: a day.
const LONGEST: f64 = 86_400.0;
/// Shortest: below it nothing arrives in time.
const SHORTEST: f64 = 0.001;

/// A time after which a client is no longer waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(pub Duration);

impl Timeout {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Setting for Timeout {
    const EXPECTED: &'static str = "a number of seconds from 0.001 to 86400";

    fn parse(text: &str) -> Option<Self> {
        let seconds: f64 = text.trim().parse().ok()?;
        // Also refuses what is no number.
        (SHORTEST..=LONGEST).contains(&seconds).then(|| Self(Duration::from_secs_f64(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_number_of_seconds_and_never_none() {
        assert_eq!(Timeout::parse("10"), Some(Timeout::seconds(10)));
        assert_eq!(Timeout::parse(" 0.25 "), Some(Timeout(Duration::from_millis(250))));
        for wrong in ["0", "-1", "86401", "nan", "inf", "1s", ""] {
            assert_eq!(Timeout::parse(wrong), None, "{wrong}");
        }
    }
}
