//! What a shard's earlier rows say of its samples, for a retry: the samples that ended stay as they are, those that were
//! rejected for a reason that may pass are done again.
//!
//! Rows have no position, but both parts are in the shard's order, and a key that occurs again is always a reject after the
//! first. So walking the shard with one finger in each part finds every sample's row.

use arrow_array::{Array, RecordBatch, cast::AsArray};
use recaption_schemas::{PartInfo, RejectReason, ShardCommit};

use crate::{
    select::{PartReader, SelectError},
    store::Location,
};

/// What an earlier run made of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Was {
    /// A caption.
    Captioned,
    /// A reject, with its reason.
    Rejected(String),
}

/// What is to be done with a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: its row stays.
    Keep(Was),
    /// It is done again; its row goes.
    Again,
}

/// A shard's earlier rows, as far as a retry needs them: keys and reasons.
#[derive(Debug, Default)]
pub struct Former {
    captions: std::vec::IntoIter<String>,
    rejects: std::vec::IntoIter<(String, String)>,
    caption: Option<String>,
    reject: Option<(String, String)>,
    again: Vec<RejectReason>,
}

impl Former {
    /// Reads keys and reasons of the rows that `commit` vouches for; rejects for a reason of `again` are done again.
    ///
    /// # Errors
    /// When a part cannot be read or is not what the record says.
    pub async fn open(
        output: &Location,
        commit: &ShardCommit,
        again: &[RejectReason],
    ) -> Result<Self, SelectError> {
        let captions = columns(output, &commit.captions, &["key"]).await?;
        let rejects = columns(output, &commit.rejects, &["key", "reason"]).await?;
        let keys = captions.iter().flat_map(|batch| texts(batch, 0));
        let reasons = rejects.iter().flat_map(|batch| texts(batch, 0).zip(texts(batch, 1)));
        let (keys, reasons): (Vec<_>, Vec<_>) = (keys.collect(), reasons.collect());
        Ok(Self::new(keys, reasons, again))
    }

    fn new(captions: Vec<String>, rejects: Vec<(String, String)>, again: &[RejectReason]) -> Self {
        let (mut captions, mut rejects) = (captions.into_iter(), rejects.into_iter());
        let again = again.to_vec();
        Self { caption: captions.next(), reject: rejects.next(), captions, rejects, again }
    }

    /// What becomes of the shard's next sample; `None` when its row is not the next: the shard is not what it was.
    pub fn next(&mut self, key: &str) -> Option<Verdict> {
        if self.caption.as_deref() == Some(key) {
            self.caption = self.captions.next();
            return Some(Verdict::Keep(Was::Captioned));
        }
        let (_, reason) = self.reject.take_if(|(rejected, _)| rejected == key)?;
        self.reject = self.rejects.next();
        let again = self.again.iter().any(|r| r.as_str() == reason);
        Some(if again { Verdict::Again } else { Verdict::Keep(Was::Rejected(reason)) })
    }

    /// Whether every row was met.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.caption.is_none() && self.reject.is_none()
    }
}

async fn columns(
    output: &Location,
    part: &PartInfo,
    names: &[&str],
) -> Result<Vec<RecordBatch>, SelectError> {
    let mut reader = PartReader::open(output.child(&part.path), part, Some(names)).await?;
    let mut batches = Vec::new();
    while let Some(batch) = reader.next().await? {
        batches.push(batch);
    }
    Ok(batches)
}

fn texts(batch: &RecordBatch, column: usize) -> impl Iterator<Item = String> {
    let column = batch.column(column).as_string_opt::<i32>();
    column.into_iter().flat_map(|c| (0..c.len()).map(|row| c.value(row).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_finds_its_row_and_only_transient_rejects_are_done_again() {
        let rejects = [("b", "fetch"), ("a", "duplicate_key"), ("d", "model_error"), ("d", "duplicate_key")];
        let rejects = rejects.map(|(key, reason)| (key.to_owned(), reason.to_owned())).to_vec();
        let mut former = Former::new(vec!["a".into(), "c".into()], rejects, &[RejectReason::ModelError]);
        let kept = |reason: &str| Some(Verdict::Keep(Was::Rejected(reason.into())));
        assert_eq!(former.next("a"), Some(Verdict::Keep(Was::Captioned)));
        assert_eq!(former.next("b"), kept("fetch"));
        assert_eq!(former.next("a"), kept("duplicate_key"));
        assert_eq!(former.next("x"), None, "a sample without a row");
        assert_eq!(former.next("c"), Some(Verdict::Keep(Was::Captioned)));
        assert_eq!(former.next("d"), Some(Verdict::Again));
        assert!(!former.is_at_end());
        assert_eq!(former.next("d"), kept("duplicate_key"));
        assert!(former.is_at_end());
        assert_eq!(former.next("d"), None);
    }
}
