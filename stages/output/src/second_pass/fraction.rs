//! An exact share of rows: 0.07 of 100 rows are 7, which a binary fraction would round up to 8.

use std::{fmt, str::FromStr};

/// Most digits after the decimal point.
const MAX_DIGITS: usize = 18;

/// An exact decimal fraction in (0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    numerator: u64,
    /// A power of ten.
    denominator: u64,
}

/// A text that is not a fraction in (0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a decimal fraction above 0 and up to 1, such as 0.3")]
pub struct FractionError;

impl Fraction {
    /// Returns this share of `n`, rounded up.
    #[must_use]
    pub fn of(self, n: u64) -> u64 {
        let share = (u128::from(n) * u128::from(self.numerator)).div_ceil(u128::from(self.denominator));
        // At most `n`, as the fraction is at most 1.
        u64::try_from(share).unwrap_or(n)
    }
}

impl FromStr for Fraction {
    type Err = FractionError;

    fn from_str(text: &str) -> Result<Self, FractionError> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let decimals = decimals.trim_end_matches('0');
        let digits = format!("{whole}{decimals}");
        let plain = !whole.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if !plain || decimals.len() > MAX_DIGITS {
            return Err(FractionError);
        }
        let numerator = digits.parse().map_err(|_| FractionError)?;
        let denominator = (0..decimals.len()).fold(1, |power, _| power * 10);
        let valid = numerator > 0 && numerator <= denominator;
        valid.then_some(Self { numerator, denominator }).ok_or(FractionError)
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.denominator == 1 {
            return write!(f, "{}", self.numerator);
        }
        let width = self.denominator.ilog10() as usize;
        write!(f, "0.{:0width$}", self.numerator)
    }
}
