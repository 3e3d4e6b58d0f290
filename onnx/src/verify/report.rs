//! What a verification reports.

use super::{compare::Comparison, criteria::Bound};
use crate::runtime::RuntimeError;

/// Why a model cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The golden files cannot be read or do not fit the model.
    #[error("golden {path}: {what}")]
    Golden {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The model cannot be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Result of comparing one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStatus {
    /// All values are within the tolerance.
    Pass,
    /// Some value is outside the tolerance.
    Fail,
    /// The model has no output for it, or the golden does not have it.
    Unchecked,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Name of the golden's tensor, or of what else was compared.
    pub tensor: &'static str,
    /// Result of the comparison.
    pub status: CheckStatus,
    /// Measured differences and bounds, or why nothing was checked.
    pub detail: String,
}

/// Returns whether a model passed: something was compared, and nothing failed.
#[must_use]
pub fn passed(checks: &[Check]) -> bool {
    checks.iter().any(|check| check.status == CheckStatus::Pass)
        && checks.iter().all(|check| check.status != CheckStatus::Fail)
}

impl Check {
    /// Reports a tensor that was compared.
    pub(super) fn new(tensor: &'static str, passed: bool, detail: String) -> Self {
        let status = if passed { CheckStatus::Pass } else { CheckStatus::Fail };
        Self { tensor, status, detail }
    }

    /// Reports rows of numbers that were compared with a bound.
    pub(super) fn of_rows(tensor: &'static str, comparison: &Comparison, bound: Bound) -> Self {
        Self::new(tensor, bound.holds(comparison), format!("{comparison} ({bound})"))
    }

    /// Reports a tensor that was not compared, and why.
    pub(super) fn unchecked(tensor: &'static str, reason: &str) -> Self {
        Self { tensor, status: CheckStatus::Unchecked, detail: reason.into() }
    }
}
