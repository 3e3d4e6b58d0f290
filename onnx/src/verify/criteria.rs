//! Bounds on differences, by precision.
//!
//! Bounds of fp16 and int8 are 1.5 to 10 times what was measured on the reference cases of `tests/data` (`onnx/tests/goldens.rs`
//! prints the numbers, `docs/src/verification.md` has a table), whose large random weights round worse than trained ones or more
//! layers do
//! (`onnx/tests/precision.rs`). One wrong constant exceeds them unless it changes less than the precision's own rounding
//! (`onnx/src/verify/tests.rs`). A single bound does not suffice: a cosine hides one wrong number among thousands, the largest
//! difference hides a small one in every row.

use super::compare::Comparison;
use crate::{model::Precision, runtime::Execution};

/// Largest absolute difference of features, fp32.
pub const FEATURE_TOLERANCE: f32 = 1e-5;
/// Largest absolute difference of logits, fp32.
const LOGIT_TOLERANCE: f32 = 1e-4;
/// Largest absolute difference of beam scores, fp32; nats per token.
const SCORE_TOLERANCE: f32 = 1e-4;
/// Smallest cosine of features, fp16.
const FP16_COSINE: f32 = 0.9995;
/// Smallest cosine of a row of logits, fp16.
const FP16_LOGIT_COSINE: f32 = 0.999;
/// Largest difference of a feature, fp16; standard deviations of the row.
const FP16_FEATURE_DEVIATION: f32 = 0.05;
/// Largest difference of a logit, fp16; standard deviations of the row.
const FP16_LOGIT_DEVIATION: f32 = 0.06;
/// Root mean square of the differences of features or logits, fp16; standard deviations of the row.
const FP16_ERROR: f32 = 0.005;
/// Logits closer than this may change ranks, fp16; standard deviations of the row.
const FP16_CHOICE_TOLERANCE: f32 = 0.05;
/// Largest absolute difference of beam scores, fp16; nats per token.
const FP16_SCORE_TOLERANCE: f32 = 0.01;
/// Smallest cosine of features, int8.
const INT8_COSINE: f32 = 0.995;
/// Smallest cosine of a row of logits, int8.
const INT8_LOGIT_COSINE: f32 = 0.99;
/// Largest difference of a feature, int8; standard deviations of the row.
const INT8_FEATURE_DEVIATION: f32 = 0.3;
/// Largest difference of a logit, int8; standard deviations of the row.
const INT8_LOGIT_DEVIATION: f32 = 0.5;
/// Root mean square of the differences of features or logits, int8; standard deviations of the row.
const INT8_ERROR: f32 = 0.05;
/// Logits closer than this may change ranks, int8; standard deviations of the row.
const INT8_CHOICE_TOLERANCE: f32 = 0.25;
/// Largest absolute difference of beam scores, int8; nats per token.
const INT8_SCORE_TOLERANCE: f32 = 0.06;

/// A bound for rows of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// Largest absolute difference of any number.
    Difference(f32),
    /// Bounds for a precision that rounds; all must hold.
    Rounded {
        /// Smallest cosine of a row.
        cosine: f32,
        /// Largest difference of any number, in standard deviations of its row.
        deviation: f32,
        /// Largest root mean square of all differences, in standard deviations of their rows.
        error: f32,
    },
}

impl Bound {
    /// Returns whether rows were compared and all of them are within the bound.
    pub(crate) fn holds(self, comparison: &Comparison) -> bool {
        comparison.is_complete()
            && match self {
                Self::Difference(max) => comparison.difference <= max,
                Self::Rounded { cosine, deviation, error } => {
                    comparison.cosine >= cosine
                        && comparison.deviation <= deviation
                        && comparison.error <= error
                }
            }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Difference(max) => write!(f, "difference at most {max:.0e}"),
            Self::Rounded { cosine, deviation, error } => {
                write!(f, "cosine at least {cosine}, differences at most {deviation} and {error}")
            }
        }
    }
}

/// All bounds of a precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Criteria {
    /// Bound for image and text features.
    pub(crate) features: Bound,
    /// Bound for logits.
    pub(crate) logits: Bound,
    /// Largest distance of a selected token's logit below the best one, in standard deviations of the row, where ids differ from
    /// the reference's; `None` where they must be equal.
    pub(crate) choice: Option<f32>,
    /// Largest absolute difference of beam scores, nats per token.
    pub(crate) score: f32,
}

impl Criteria {
    /// Returns the bounds for models in `precision` on `execution`.
    pub(crate) fn of(precision: Precision, execution: Execution) -> Self {
        match precision {
            // CUDA multiplies single precision in TF32, whose mantissa is as long as that of half precision.
            Precision::Fp32 if execution.is_gpu() => Self::of(Precision::Fp16, execution),
            Precision::Fp32 => Self {
                features: Bound::Difference(FEATURE_TOLERANCE),
                logits: Bound::Difference(LOGIT_TOLERANCE),
                choice: None,
                score: SCORE_TOLERANCE,
            },
            Precision::Fp16 => Self {
                features: Bound::Rounded {
                    cosine: FP16_COSINE,
                    deviation: FP16_FEATURE_DEVIATION,
                    error: FP16_ERROR,
                },
                logits: Bound::Rounded {
                    cosine: FP16_LOGIT_COSINE,
                    deviation: FP16_LOGIT_DEVIATION,
                    error: FP16_ERROR,
                },
                choice: Some(FP16_CHOICE_TOLERANCE),
                score: FP16_SCORE_TOLERANCE,
            },
            Precision::Int8 => Self {
                features: Bound::Rounded {
                    cosine: INT8_COSINE,
                    deviation: INT8_FEATURE_DEVIATION,
                    error: INT8_ERROR,
                },
                logits: Bound::Rounded {
                    cosine: INT8_LOGIT_COSINE,
                    deviation: INT8_LOGIT_DEVIATION,
                    error: INT8_ERROR,
                },
                choice: Some(INT8_CHOICE_TOLERANCE),
                score: INT8_SCORE_TOLERANCE,
            },
        }
    }
}
