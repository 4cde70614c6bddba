//! What was hoped for, beside what was found. No bench fails by it.

use std::fmt;

use crate::Row;

/// A figure with its bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Aim {
    what: String,
    found: f64,
    bound: Bound,
    /// How far the figure itself may be off, in its own unit: what misses the bound by less is said to be within noise.
    noise: f64,
}

/// What became of an aim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bound holds.
    Met,
    /// It does not, by less than the noise of the figure.
    WithinNoise,
    /// It does not.
    Missed,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    /// `found` should be at least `least`.
    pub fn at_least(what: impl Into<String>, found: f64, least: f64) -> Self {
        Self { what: what.into(), found, bound: Bound::AtLeast(least), noise: 0.0 }
    }

    /// `found` should be at most `most`.
    pub fn at_most(what: impl Into<String>, found: f64, most: f64) -> Self {
        Self { what: what.into(), found, bound: Bound::AtMost(most), noise: 0.0 }
    }

    /// The same with the noise of the figure.
    #[must_use]
    pub fn with_noise(self, noise: f64) -> Self {
        Self { noise: noise.abs(), ..self }
    }

    /// Whether it is met; what is not a number never is.
    pub fn verdict(&self) -> Verdict {
        let short_by = match self.bound {
            Bound::AtLeast(least) => least - self.found,
            Bound::AtMost(most) => self.found - most,
        };
        match short_by {
            by if by <= 0.0 => Verdict::Met,
            by if by <= self.noise => Verdict::WithinNoise,
            _ => Verdict::Missed,
        }
    }

    /// As a line of a table.
    pub fn row(&self) -> Row {
        let (sign, bound) = match self.bound {
            Bound::AtLeast(least) => (">=", least),
            Bound::AtMost(most) => ("<=", most),
        };
        let row = Row::default().text("aim", &self.what).number("found", self.found, 3);
        row.text("bound", format!("{sign} {bound:.3}")).text("verdict", self.verdict())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Met => "met",
            Verdict::WithinNoise => "met within noise",
            Verdict::Missed => "**missed**",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_at_its_bound_and_no_number_meets_none() {
        assert_eq!(Aim::at_least("a", 0.85, 0.85).verdict(), Verdict::Met);
        assert_eq!(Aim::at_most("a", 1.31, 1.3).verdict(), Verdict::Missed);
        assert_eq!(Aim::at_least("a", f64::NAN, 0.0).verdict(), Verdict::Missed);
        assert_eq!(Aim::at_most("a", f64::NAN, 1.0).with_noise(1.0).verdict(), Verdict::Missed);
    }

    #[test]
    fn noise_excuses_no_more_than_itself() {
        let aim = |found| Aim::at_least("a", found, 1.0).with_noise(0.02).verdict();
        assert_eq!([aim(1.0), aim(0.985), aim(0.97)], [Verdict::Met, Verdict::WithinNoise, Verdict::Missed]);
    }
}
