//! Counts of samples by outcome.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Counts of the samples that were read, by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataCounts {
    /// Number of samples that became part of a batch.
    pub used: u64,
    /// Number of samples that cannot be used, by reason.
    pub bad: BTreeMap<String, u64>,
    /// Number of shards that could not be read to their end.
    pub failed_shards: u64,
    /// Number of texts that were truncated to the context length.
    pub texts_cut: u64,
}

impl DataCounts {
    /// Counts one more sample that cannot be used.
    pub fn add_bad(&mut self, reason: &str) {
        *self.bad.entry(reason.to_owned()).or_default() += 1;
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.used += other.used;
        self.failed_shards += other.failed_shards;
        self.texts_cut += other.texts_cut;
        for (reason, n) in &other.bad {
            *self.bad.entry(reason.clone()).or_default() += n;
        }
    }
}

impl fmt::Display for DataCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} used", self.used)?;
        for (reason, n) in &self.bad {
            write!(f, ", {n} {reason}")?;
        }
        if self.failed_shards > 0 {
            write!(f, ", {} shards failed", self.failed_shards)?;
        }
        Ok(())
    }
}
