//! Which rows a second pass selects.

use recaption_schemas::RejectReason;
use serde::Serialize;

use super::fraction::Fraction;

/// The column of scores that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreColumn {
    /// Cosine of image and chosen caption. Every row has it.
    Similarity,
    /// Cosine of image and original caption. Rows without an original caption have none.
    OrgSimilarity,
    /// Probability that image and chosen caption match. Rows of scorers without a matching head have none.
    Itm,
    /// Probability that image and original caption match. Rows without an original caption have none.
    OrgItm,
}

impl ScoreColumn {
    /// Returns the column's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Similarity => "similarity",
            Self::OrgSimilarity => "org_similarity",
            Self::Itm => "itm",
            Self::OrgItm => "org_itm",
        }
    }

    /// Returns whether scores are matching probabilities.
    #[must_use]
    pub fn is_matching(self) -> bool {
        matches!(self, Self::Itm | Self::OrgItm)
    }

    /// Returns the reason of a row that is not selected.
    #[must_use]
    pub fn reason(self) -> RejectReason {
        match self {
            Self::Similarity | Self::OrgSimilarity => RejectReason::BelowSimilarity,
            Self::Itm | Self::OrgItm => RejectReason::BelowItm,
        }
    }
}

/// How the threshold is determined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cutoff {
    /// The best share of the rows that have a score, rounded up to whole rows. Rows equal to the last of them stay too.
    KeepTop(Fraction),
    /// Rows whose score is at least this, as with the threshold of a run.
    AtLeast(f32),
}

/// A selection of rows whose threshold is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The column that decides.
    pub by: ScoreColumn,
    /// How the threshold was determined.
    pub cutoff: Cutoff,
    /// Smallest score that is kept; `None` when no row has a score.
    pub threshold: Option<f32>,
    /// If set, all rows are kept and the selected ones are marked in a column of this name.
    pub column: Option<String>,
}

/// A selection as the metadata of parts and the record of the pass hold it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassRecord {
    /// The column that decides.
    pub by: &'static str,
    /// Share of rows to keep, if that was given.
    pub keep_top: Option<String>,
    /// Smallest score to keep, if that was given.
    pub min_similarity: Option<String>,
    /// Smallest matching probability to keep, if that was given; left out otherwise, as in records that are older.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_itm: Option<String>,
    /// Smallest score that is kept. Exact: the shortest decimal of a 32-bit number may be above it in 64 bits, in which SQL
    /// compares.
    pub threshold: Option<f64>,
    /// The column that marks selected rows, if all are kept.
    pub column: Option<String>,
}

impl Selection {
    /// Returns whether a row with this score is selected. A row without a score is not.
    #[must_use]
    pub fn keeps(&self, score: Option<f32>) -> bool {
        matches!((score, self.threshold), (Some(score), Some(threshold)) if score >= threshold)
    }

    /// Returns the record of the selection.
    #[must_use]
    pub fn record(&self) -> PassRecord {
        let (keep_top, least) = match self.cutoff {
            Cutoff::KeepTop(fraction) => (Some(fraction.to_string()), None),
            Cutoff::AtLeast(least) => (None, Some(least.to_string())),
        };
        let (min_similarity, min_itm) = match self.by {
            ScoreColumn::Similarity | ScoreColumn::OrgSimilarity => (least, None),
            ScoreColumn::Itm | ScoreColumn::OrgItm => (None, least),
        };
        let (by, threshold, column) = (self.by.as_str(), self.threshold.map(f64::from), self.column.clone());
        PassRecord { by, keep_top, min_similarity, min_itm, threshold, column }
    }

    /// Returns the selection in one line, equal for equal selections: the value of a configuration key of the new dataset.
    #[must_use]
    pub fn describe(&self) -> String {
        let threshold = self.threshold.map_or("none".to_owned(), |t| f64::from(t).to_string());
        let (threshold, top) = match self.cutoff {
            Cutoff::KeepTop(fraction) => (threshold, format!(" (top {fraction})")),
            Cutoff::AtLeast(least) => (least.to_string(), String::new()),
        };
        let column = self.column.as_ref().map_or(String::new(), |name| format!(", marked in {name}"));
        format!("{} >= {threshold}{top}{column}", self.by.as_str())
    }

    /// Returns why a row is left out, for the `detail` of its reject. Rows keep the options' names, which earlier versions wrote.
    pub(super) fn reject_detail(&self, score: Option<f32>) -> String {
        let by = self.by.as_str();
        match (score, self.cutoff) {
            (None, _) if self.by == ScoreColumn::Itm => format!("no {by}: the caption was not matched"),
            (None, _) => format!("no {by}: the input had no caption"),
            (Some(score), Cutoff::AtLeast(least)) => {
                let option = if self.by.is_matching() { "--min-itm" } else { "--min-similarity" };
                format!("{by} {score:.4} is below {option} {least}")
            }
            (Some(score), Cutoff::KeepTop(top)) => {
                let threshold = self.threshold.unwrap_or(score);
                format!("{by} {score:.4} is below {threshold:.4}, the threshold of --keep-top {top}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
