//! The second pass over a finished output: rows are kept, left out or marked by a similarity that is already there.
//!
//! ```text
//! commit records -> the score's column of every part -> threshold -> captions parts -> parts of the new dataset
//! ```
//! No image is read and no model is loaded. Only shards with a commit record exist. What is held is one row group per
//! shard in work and two histograms, whatever the size of the dataset. The source is never written to.

mod copy;
mod fraction;
mod reader;
mod source;
mod threshold;

use serde::Serialize;

pub use copy::{Copied, CopyJob, CopyTask, copy_shard};
pub use fraction::{Fraction, FractionError};
pub use reader::PartReader;
pub use source::{Source, SourceShard};
pub use threshold::{Coarse, Fine};

use crate::write::WriteError;
use recaption_store::StoreError;

/// Why a second pass failed.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A new part.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A part that is not what its commit record says, or no such Parquet.
    #[error("{part}: {what}")]
    Part {
        /// The part's URL.
        part: String,
        /// What is wrong with it.
        what: String,
    },
    /// A source whose shards do not belong together.
    #[error("{source_url}: {what}")]
    Source {
        /// The source's URL.
        source_url: String,
        /// What is wrong and what to do.
        what: String,
    },
}

/// The column that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Cosine of image and chosen caption; every row has it.
    Similarity,
    /// Cosine of image and original caption; rows without an original caption have none.
    OrgSimilarity,
}

impl Score {
    /// The column's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Similarity => "similarity",
            Self::OrgSimilarity => "org_similarity",
        }
    }
}

/// Where the cut is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// The best share of the rows that have the score, rounded up to whole rows; rows equal to the last of them stay too.
    KeepTop(Fraction),
    /// Rows whose score is at least this, as `filter.min_similarity` of a run.
    AtLeast(f32),
}

/// A decision about rows, ready to be applied: the threshold is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The column that decides.
    pub by: Score,
    /// Where the cut is.
    pub cut: Cut,
    /// Smallest score that is kept; `None` when no row has the score.
    pub threshold: Option<f32>,
    /// Keep all rows and mark the selected ones in a column of this name.
    pub column: Option<String>,
}

/// A selection as it is written down: in the parts' metadata and in the record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pass {
    /// The column that decides.
    pub by: &'static str,
    /// Share of rows to keep, when that was asked for.
    pub keep_top: Option<String>,
    /// Smallest score to keep, when that was asked for.
    pub min_similarity: Option<String>,
    /// Smallest score that is kept. Exact: the shortest decimal of a 32-bit number may be above it in 64 bits, where SQL
    /// compares.
    pub threshold: Option<f64>,
    /// The column that marks selected rows, when all are kept.
    pub column: Option<String>,
}

impl Selection {
    /// Whether a row of this score is selected. A row without the score never is.
    #[must_use]
    pub fn keeps(&self, score: Option<f32>) -> bool {
        matches!((score, self.threshold), (Some(score), Some(threshold)) if score >= threshold)
    }

    /// As it is written down.
    #[must_use]
    pub fn pass(&self) -> Pass {
        let (keep_top, min_similarity) = match self.cut {
            Cut::KeepTop(fraction) => (Some(fraction.to_string()), None),
            Cut::AtLeast(least) => (None, Some(least.to_string())),
        };
        let (by, threshold, column) = (self.by.as_str(), self.threshold.map(f64::from), self.column.clone());
        Pass { by, keep_top, min_similarity, threshold, column }
    }

    /// One line, equal for equal selections: the value of a configuration key of the new dataset.
    #[must_use]
    pub fn describe(&self) -> String {
        let threshold = self.threshold.map_or("none".to_owned(), |t| f64::from(t).to_string());
        let (threshold, top) = match self.cut {
            Cut::KeepTop(fraction) => (threshold, format!(" (top {fraction})")),
            Cut::AtLeast(least) => (least.to_string(), String::new()),
        };
        let column = self.column.as_ref().map_or(String::new(), |name| format!(", marked in {name}"));
        format!("{} >= {threshold}{top}{column}", self.by.as_str())
    }

    /// Why a row is left out, for the rejects' `detail`.
    fn left_out(&self, score: Option<f32>) -> String {
        let by = self.by.as_str();
        match (score, self.cut) {
            (None, _) => format!("no {by}: the input had no caption"),
            (Some(score), Cut::AtLeast(least)) => {
                format!("{by} {score:.4} is below --min-similarity {least}")
            }
            (Some(score), Cut::KeepTop(top)) => {
                let threshold = self.threshold.unwrap_or(score);
                format!("{by} {score:.4} is below {threshold:.4}, the threshold of --keep-top {top}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
