//! How the rows of a batch choose their adapters.

use std::fmt;
use std::ops::RangeInclusive;

use clap::ValueEnum;

use crate::Random;

/// Adapters that `Uniform` and `Zipf` choose from.
const ADAPTERS: usize = 13;

/// How the rows of a batch choose their adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Popularity {
    /// All rows the same.
    One,
    /// Every segment another.
    Distinct,
    /// 13 adapters with as many rows each.
    Uniform,
    /// 13 adapters, the k-th with a share of 1/k.
    Zipf,
}

impl fmt::Display for Popularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Popularity::One => "one",
            Popularity::Distinct => "distinct",
            Popularity::Uniform => "uniform",
            Popularity::Zipf => "zipf",
        })
    }
}

impl Popularity {
    /// Segments of `rows` rows in all, each with an adapter of its own: their lengths. `each` says how long segments are
    /// where all are distinct; the last is what is left.
    pub fn segments(self, rows: usize, each: RangeInclusive<usize>) -> Vec<usize> {
        match self {
            Popularity::One => vec![rows],
            Popularity::Distinct => {
                let (mut random, mut left, mut lengths) = (Random::new(rows as u64), rows, vec![]);
                while left > 0 {
                    let length = each.start() + random.below(each.end() - each.start() + 1);
                    lengths.push(length.min(left));
                    left -= length.min(left);
                }
                lengths
            }
            Popularity::Uniform => shares(rows, |_| 1.0),
            Popularity::Zipf => shares(rows, |k| 1.0 / k as f64),
        }
    }
}

/// `rows` split by the weights of the adapters from the first on; those that get none are left out.
fn shares(rows: usize, weight: impl Fn(usize) -> f64) -> Vec<usize> {
    let total: f64 = (1..=ADAPTERS).map(&weight).sum();
    let (mut sum, mut given, mut lengths) = (0.0, 0, vec![]);
    for k in 1..=ADAPTERS {
        sum += weight(k);
        let until = (sum / total * rows as f64).round() as usize;
        lengths.push(until - given);
        given = until;
    }
    lengths.retain(|length| *length > 0);
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cover_the_rows_and_none_is_empty() {
        for popularity in [Popularity::One, Popularity::Distinct, Popularity::Uniform, Popularity::Zipf] {
            for rows in [1, 13, 32, 512, 1600, 12_800] {
                for each in [1..=1, 64..=1000] {
                    let lengths = popularity.segments(rows, each);
                    assert_eq!(lengths.iter().sum::<usize>(), rows, "{popularity} {rows}");
                    assert!(lengths.iter().all(|l| *l > 0));
                }
            }
        }
    }

    #[test]
    fn popularities_are_what_they_are_called() {
        assert_eq!(Popularity::Distinct.segments(5, 1..=1), [1; 5]);
        assert_eq!(Popularity::Uniform.segments(13 * 7, 1..=1), [7; 13]);
        let zipf = Popularity::Zipf.segments(12_800, 1..=1);
        assert_eq!(zipf.len(), 13);
        assert!(zipf.windows(2).all(|w| w[0] >= w[1]));
        assert!(zipf[0].abs_diff(2 * zipf[1]) <= 2);
        let long = Popularity::Distinct.segments(12_800, 64..=1000);
        assert!(long[..long.len() - 1].iter().all(|l| (64..=1000).contains(l)));
    }
}
