//! `Scored -> CaptionRow | Reject`: the last decision about a sample. Pure, no threads.

use recaption_schemas::{CaptionRow, Reject, RejectReason};

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Filter {
    /// Smallest similarity of image and chosen caption, [-1, 1]; `None` keeps all.
    pub min_similarity: Option<f32>,
}

/// How a sample ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A row of `captions/`.
    Caption(Box<CaptionRow>),
    /// A row of `rejects/`.
    Reject(Box<Reject>),
}

impl Filter {
    /// Keeps or rejects one row.
    #[must_use]
    pub fn apply(&self, row: CaptionRow) -> Outcome {
        let best = row.candidates.best();
        match self.min_similarity {
            Some(least) if best.similarity.get() < least => Outcome::Reject(Box::new(Reject {
                reason: RejectReason::BelowSimilarity,
                detail: format!(
                    "similarity {:.4} is below filter.min_similarity {least}",
                    best.similarity.get()
                ),
                caption: Some(best.text.clone()),
                similarity: Some(best.similarity.get()),
                key: row.key,
                org_caption: row.org_caption,
            })),
            _ => Outcome::Caption(Box::new(row)),
        }
    }
}

#[cfg(test)]
mod tests {
    use recaption_schemas::{Candidate, Candidates, Similarity};

    use super::*;

    fn row(similarity: f32) -> CaptionRow {
        let candidate = Candidate {
            text: "a cat".into(),
            similarity: Similarity::new(similarity).expect("finite"),
            logprob: -1.0,
        };
        CaptionRow {
            key: "k".into(),
            candidates: Candidates::new(vec![candidate]).expect("one"),
            org_caption: Some("cat.jpg".into()),
            org_similarity: None,
            width: 1,
            height: 1,
            sha256: String::new(),
            url: None,
            meta: None,
            image: None,
        }
    }

    #[test]
    fn the_threshold_itself_is_kept() {
        let filter = Filter { min_similarity: Some(0.25) };
        assert!(matches!(filter.apply(row(0.25)), Outcome::Caption(_)));
        let Outcome::Reject(reject) = filter.apply(row(0.2)) else { panic!("kept") };
        assert_eq!(reject.reason, RejectReason::BelowSimilarity);
        assert_eq!(
            (reject.caption.as_deref(), reject.org_caption.as_deref()),
            (Some("a cat"), Some("cat.jpg"))
        );
        assert!(matches!(Filter::default().apply(row(-1.0)), Outcome::Caption(_)));
    }
}
