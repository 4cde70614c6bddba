//! The order of tokens from the likeliest down, as a number.

/// A token and its logit in one number that is the smaller the higher the logit; of equal logits that of the lower id is
/// the smaller. So the order of tokens is total, and sorting them means sorting whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RankKey(u64);

const SIGN: u32 = 1 << 31;

impl RankKey {
    /// `logit` is not NaN.
    #[inline]
    pub fn new(token: u32, logit: f32) -> Self {
        // Adding 0 makes the two zeros one.
        let bits = (logit + 0.0).to_bits();
        // Now the bits rise with the number; then they are turned round.
        let rising = if bits & SIGN == 0 { bits | SIGN } else { !bits };
        Self(u64::from(!rising) << 32 | u64::from(token))
    }

    pub fn token(self) -> u32 {
        self.0 as u32
    }

    pub fn logit(self) -> f32 {
        let rising = !((self.0 >> 32) as u32);
        f32::from_bits(if rising & SIGN != 0 { rising ^ SIGN } else { !rising })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_order_as_logits_downwards_then_as_ids(
            a in prop_oneof![any::<f32>(), Just(0.0), Just(-0.0), Just(f32::NEG_INFINITY)],
            b in prop_oneof![any::<f32>(), Just(0.0), Just(-0.0)],
            ids in any::<(u32, u32)>(),
        ) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            let (first, second) = (RankKey::new(ids.0, a), RankKey::new(ids.1, b));
            let expected = b.partial_cmp(&a).unwrap().then(ids.0.cmp(&ids.1));
            prop_assert_eq!(first.cmp(&second), expected);
            prop_assert_eq!((first.token(), first.logit()), (ids.0, a));
        }
    }
}
