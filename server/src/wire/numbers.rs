//! Numbers of a request, told in words that a client's author knows where they are none.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

use super::fields::whole;

/// A finite number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number(pub f32);

/// A whole number from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub usize);

/// A whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integer(pub i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_u64<E: Error>(self, found: u64) -> Result<Number, E> {
        Ok(Number(found as f32))
    }

    fn visit_i64<E: Error>(self, found: i64) -> Result<Number, E> {
        Ok(Number(found as f32))
    }

    fn visit_f64<E: Error>(self, found: f64) -> Result<Number, E> {
        let number = found as f32;
        if number.is_finite() {
            Ok(Number(number))
        } else {
            Err(E::invalid_value(Unexpected::Float(found), &"a number below 3.4e38"))
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0")
    }

    fn visit_u64<E: Error>(self, found: u64) -> Result<Count, E> {
        usize::try_from(found).map(Count).map_err(|_| E::invalid_value(Unexpected::Unsigned(found), &self))
    }

    fn visit_i64<E: Error>(self, found: i64) -> Result<Count, E> {
        usize::try_from(found).map(Count).map_err(|_| E::invalid_value(Unexpected::Signed(found), &self))
    }

    fn visit_f64<E: Error>(self, found: f64) -> Result<Count, E> {
        match whole(found) {
            Some(number) => self.visit_i64(number),
            None => Err(E::invalid_value(Unexpected::Float(found), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntegerVisitor)
    }
}

struct IntegerVisitor;

impl Visitor<'_> for IntegerVisitor {
    type Value = Integer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of 64 bits")
    }

    fn visit_u64<E: Error>(self, found: u64) -> Result<Integer, E> {
        i64::try_from(found).map(Integer).map_err(|_| E::invalid_value(Unexpected::Unsigned(found), &self))
    }

    fn visit_i64<E: Error>(self, found: i64) -> Result<Integer, E> {
        Ok(Integer(found))
    }

    fn visit_f64<E: Error>(self, found: f64) -> Result<Integer, E> {
        match whole(found) {
            Some(number) => Ok(Integer(number)),
            None => Err(E::invalid_value(Unexpected::Float(found), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for text in ["7", "7.0", "70e-1"] {
            assert_eq!(serde_json::from_str::<Count>(text).expect(text), Count(7));
            assert_eq!(serde_json::from_str::<Integer>(text).expect(text), Integer(7));
            assert_eq!(serde_json::from_str::<Number>(text).expect(text), Number(7.0));
        }
        assert_eq!(serde_json::from_str::<Integer>("-9223372036854775808").expect("i64"), Integer(i64::MIN));
    }

    #[test]
    fn other_values_are_refused_with_what_was_expected() {
        for text in ["-1", "0.5", "1e30", "\"1\"", "true", "[]", "{}"] {
            let error = serde_json::from_str::<Count>(text).expect_err(text).to_string();
            assert!(error.contains("expected a whole number from 0"), "{error}");
        }
        for text in ["9223372036854775808", "0.5", "\"1\""] {
            let error = serde_json::from_str::<Integer>(text).expect_err(text).to_string();
            assert!(error.contains("expected a whole number of 64 bits"), "{error}");
        }
        for text in ["1e39", "-1e300", "\"1\"", "false"] {
            let error = serde_json::from_str::<Number>(text).expect_err(text).to_string();
            assert!(error.contains("expected a number"), "{error}");
        }
    }
}
