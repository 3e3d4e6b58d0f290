//! `Scored -> CaptionRow | Reject`: the last decision about a sample. Pure, no threads.
//!
//! The caption chosen is the best candidate that breaks no text rule; the threshold of similarity applies to it.

use std::sync::Arc;

use recaption_messages::SampleOutcome;
use recaption_schemas::{Candidate, CaptionRow, Reject, RejectReason};

use crate::rules::{TextRules, describe};

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Smallest similarity of image and chosen caption, [-1, 1]; `None` keeps all.
    pub min_similarity: Option<f32>,
    /// What a chosen caption may not be; the default allows all.
    pub rules: Arc<TextRules>,
}

impl Filter {
    /// Chooses among a row's candidates, then keeps or rejects it.
    #[must_use]
    pub fn apply(&self, mut row: CaptionRow) -> SampleOutcome {
        let refused = match self.rules.choose(&row.candidates) {
            Ok(position) => {
                row.candidates.choose(position);
                position
            }
            Err(broken) => {
                let best = row.candidates.best().clone();
                return reject(row, best, RejectReason::CaptionRule, describe(&broken));
            }
        };
        let similarity = row.candidates.chosen().similarity.get();
        match self.min_similarity {
            Some(least) if similarity < least => {
                let mut detail = format!("similarity {similarity:.4} is below filter.min_similarity {least}");
                if refused > 0 {
                    detail.push_str(&format!("; {refused} more similar candidates break a rule"));
                }
                let chosen = row.candidates.chosen().clone();
                reject(row, chosen, RejectReason::BelowSimilarity, detail)
            }
            _ => SampleOutcome::Caption(Box::new(row)),
        }
    }
}

fn reject(row: CaptionRow, caption: Candidate, reason: RejectReason, detail: String) -> SampleOutcome {
    let reject = Reject::new(row.key, reason, detail)
        .with_caption(caption.text, Some(caption.similarity.get()))
        .with_org_caption(row.org_caption);
    SampleOutcome::Reject(Box::new(reject))
}

#[cfg(test)]
mod tests {
    use recaption_schemas::{Candidate, Candidates, Similarity};

    use super::*;
    use crate::rules::RuleSettings;

    fn row(candidates: &[(&str, f32)]) -> CaptionRow {
        let candidates = candidates.iter().map(|(text, similarity)| Candidate {
            text: (*text).into(),
            similarity: Similarity::new(*similarity).expect("finite"),
            logprob: -1.0,
        });
        CaptionRow {
            key: "k".into(),
            candidates: Candidates::new(candidates.collect()).expect("one"),
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

    fn filter(min_similarity: Option<f32>, settings: RuleSettings) -> Filter {
        Filter { min_similarity, rules: Arc::new(TextRules::new(settings).expect("valid")) }
    }

    #[test]
    fn the_threshold_itself_is_kept() {
        let filter = filter(Some(0.25), RuleSettings::default());
        assert!(matches!(filter.apply(row(&[("a cat", 0.25)])), SampleOutcome::Caption(_)));
        let SampleOutcome::Reject(reject) = filter.apply(row(&[("a cat", 0.2)])) else { panic!("kept") };
        assert_eq!(reject.reason, RejectReason::BelowSimilarity);
        assert_eq!(
            (reject.caption.as_deref(), reject.org_caption.as_deref()),
            (Some("a cat"), Some("cat.jpg"))
        );
        assert!(matches!(Filter::default().apply(row(&[("a cat", -1.0)])), SampleOutcome::Caption(_)));
    }

    #[test]
    fn the_best_candidate_that_breaks_no_rule_is_chosen_and_all_are_listed() {
        let filter = filter(Some(0.25), RuleSettings { max_words: Some(2), ..RuleSettings::default() });
        let SampleOutcome::Caption(kept) =
            filter.apply(row(&[("a big cat", 0.5), ("a cat", 0.3), ("cat", 0.4)]))
        else {
            panic!("rejected")
        };
        assert_eq!(kept.candidates.chosen().text, "cat");
        let listed: Vec<&str> = kept.candidates.as_slice().iter().map(|c| c.text.as_str()).collect();
        assert_eq!(listed, ["a big cat", "cat", "a cat"]);
        // The threshold applies to the chosen one, not to the best.
        let SampleOutcome::Reject(reject) = filter.apply(row(&[("a big cat", 0.5), ("cat", 0.1)])) else {
            panic!("kept")
        };
        assert_eq!((reject.reason, reject.caption.as_deref()), (RejectReason::BelowSimilarity, Some("cat")));
    }

    #[test]
    fn a_sample_without_a_candidate_left_tells_rule_and_setting() {
        let filter = filter(None, RuleSettings { max_words: Some(2), junk: true, ..RuleSettings::default() });
        let candidates = [("a big cat", 0.5), ("a red cat", 0.4), ("cat.jpg", 0.3)];
        let SampleOutcome::Reject(reject) = filter.apply(row(&candidates)) else { panic!("kept") };
        assert_eq!(reject.reason, RejectReason::CaptionRule);
        assert_eq!((reject.caption.as_deref(), reject.similarity), (Some("a big cat"), Some(0.5)));
        assert_eq!(
            reject.detail,
            "all 3 candidates break a rule: rules.max_words 2, rules.junk 1; the best: rules.max_words = 2 (the caption has 3 words)"
        );
        let SampleOutcome::Reject(reject) = filter.apply(row(&candidates[..1])) else { panic!("kept") };
        assert_eq!(reject.detail, "rules.max_words = 2 (the caption has 3 words)");
    }
}
