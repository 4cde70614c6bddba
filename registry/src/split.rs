//! Who is in an A/B test: a share, and a stable draw.

use serde::{Deserialize, Serialize};

use crate::{AdapterName, Digest, DigestBuilder};

/// A share in hundredths of a percent, 0 to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct BasisPoints(u16);

/// What a client is known by, hashed: the same client is always in the same part of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SplitKey(u64);

impl BasisPoints {
    /// All of it.
    pub const WHOLE: Self = Self(10_000);

    /// That many percent, rounded to a hundredth; `None` unless it is from 0 to 100.
    pub fn from_percent(percent: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then(|| Self((percent * 100.0).round() as u16))
    }

    /// In percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl TryFrom<u16> for BasisPoints {
    type Error = String;

    fn try_from(points: u16) -> Result<Self, String> {
        if points > Self::WHOLE.0 {
            Err(format!("found {points}, expected 0 to 10000"))
        } else {
            Ok(Self(points))
        }
    }
}

impl From<BasisPoints> for u16 {
    fn from(points: BasisPoints) -> Self {
        points.0
    }
}

impl SplitKey {
    /// The key of a client who calls himself `text`: the same on every server.
    pub fn of(text: &str) -> Self {
        Self(first_bytes(DigestBuilder::new("polylora split key, layout 1").field(text.as_bytes()).finish()))
    }

    /// Whether this client is among the share for whom `candidate` answers instead of what `name` has active. Whoever is
    /// in stays in when the share grows, and another candidate draws anew.
    pub fn falls_within(self, share: BasisPoints, name: &AdapterName, candidate: Digest) -> bool {
        let draw = DigestBuilder::new("polylora split, layout 1")
            .field(name.as_str().as_bytes())
            .field(&candidate.0)
            .number(self.0)
            .finish();
        let point = (u128::from(first_bytes(draw)) * u128::from(BasisPoints::WHOLE.0)) >> 64;
        point < u128::from(share.0)
    }
}

fn first_bytes(digest: Digest) -> u64 {
    u64::from_le_bytes(*digest.0.first_chunk().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> AdapterName {
        AdapterName::new("law").unwrap()
    }

    fn members(percent: f64, candidate: u8) -> Vec<usize> {
        let share = BasisPoints::from_percent(percent).unwrap();
        let within = |user: &usize| {
            SplitKey::of(&format!("user {user}")).falls_within(share, &name(), Digest([candidate; 32]))
        };
        (0..20_000).filter(within).collect()
    }

    #[test]
    fn the_share_is_kept_within_chance_and_nobody_leaves_when_it_grows() {
        assert_eq!((members(0.0, 1).len(), members(100.0, 1).len()), (0, 20_000));
        let (few, many) = (members(5.0, 1), members(30.0, 1));
        assert!((850..1150).contains(&few.len()) && (5700..6300).contains(&many.len()));
        assert!(few.iter().all(|user| many.binary_search(user).is_ok()));
    }

    #[test]
    fn another_candidate_draws_anew() {
        let (first, second) = (members(50.0, 1), members(50.0, 2));
        let both = first.iter().filter(|user| second.binary_search(user).is_ok()).count();
        assert!((4700..5300).contains(&both), "{both}");
    }

    #[test]
    fn a_share_is_from_nothing_to_all() {
        for wrong in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(BasisPoints::from_percent(wrong), None);
        }
        assert_eq!(BasisPoints::from_percent(12.34).map(BasisPoints::percent), Some(12.34));
        assert!(serde_json::from_str::<BasisPoints>("10001").is_err());
    }
}
