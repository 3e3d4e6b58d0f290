//! The last decision about a captioned sample: row or reject. Pure, no threads.
//!
//! The chosen caption is the most similar candidate that violates no text rule; the threshold of similarity applies to it. Where the
//! scorer has a matching head, the most similar of these are matched with the image, and the one that matches best is chosen.

use std::sync::Arc;

use recaption_messages::SampleOutcome;
use recaption_schemas::{Candidate, CaptionRow, MatchProbability, Reject, RejectReason, Similarity};

use crate::rules::{TextRules, describe_violations};

/// Thresholds and rules that a caption must meet. The default keeps everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Smallest similarity of image and chosen caption, in [-1, 1]; the threshold itself is kept. `None` keeps all.
    pub min_similarity: Option<f32>,
    /// Smallest probability that image and chosen caption match, in [0, 1], likewise; for a scorer with a matching head.
    pub min_itm: Option<f32>,
    /// Rules that the chosen caption must not violate.
    pub rules: Arc<TextRules>,
}

impl Filter {
    /// Returns the positions of the candidates to match with their image, `most` at most, the most similar first: those that may be
    /// chosen, which violate no rule and reach the threshold of similarity, each text once. `candidates` are texts and similarities
    /// in any order.
    #[must_use]
    pub fn to_match(&self, candidates: &[(&str, Similarity)], most: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by(|a, b| candidates[*b].1.get().total_cmp(&candidates[*a].1.get()));
        let violations = self.rules.check_each(order.iter().map(|at| candidates[*at].0));
        let mut chosen: Vec<usize> = Vec::new();
        for (at, violation) in order.iter().zip(violations) {
            let (text, similarity) = candidates[*at];
            if chosen.len() == most || self.min_similarity.is_some_and(|least| similarity.get() < least) {
                break;
            }
            if violation.is_none() && chosen.iter().all(|other| candidates[*other].0 != text) {
                chosen.push(*at);
            }
        }
        chosen
    }

    /// Chooses among a row's candidates, then keeps or rejects the row.
    #[must_use]
    pub fn apply(&self, mut row: CaptionRow) -> SampleOutcome {
        if let Some(position) = row.candidates.best_match() {
            row.candidates.choose(position);
            return self.apply_min_itm(row);
        }
        let skipped = match self.rules.choose(&row.candidates) {
            Ok(position) => {
                row.candidates.choose(position);
                position
            }
            Err(violations) => {
                let best = row.candidates.best().clone();
                return reject(row, best, RejectReason::CaptionRule, describe_violations(&violations));
            }
        };
        let similarity = row.candidates.chosen().similarity.get();
        match self.min_similarity {
            Some(least) if similarity < least => {
                let mut detail = format!("similarity {similarity:.4} is below filter.min_similarity {least}");
                if skipped > 0 {
                    detail.push_str(&format!("; {skipped} more similar candidates break a rule"));
                }
                let chosen = row.candidates.chosen().clone();
                reject(row, chosen, RejectReason::BelowSimilarity, detail)
            }
            _ => SampleOutcome::Caption(Box::new(row)),
        }
    }

    /// Keeps or rejects a row whose chosen caption was matched.
    fn apply_min_itm(&self, row: CaptionRow) -> SampleOutcome {
        let matched = row.candidates.as_slice().iter().filter(|candidate| candidate.itm.is_some()).count();
        let itm = row.candidates.chosen().itm.map(MatchProbability::get);
        match (itm, self.min_itm) {
            (Some(itm), Some(least)) if itm < least => {
                let mut detail = format!("itm {itm:.4} is below filter.min_itm {least}");
                if matched > 1 {
                    detail.push_str(&format!("; the best of {matched} candidates that were matched"));
                }
                let chosen = row.candidates.chosen().clone();
                reject(row, chosen, RejectReason::BelowItm, detail)
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
            itm: None,
        });
        CaptionRow {
            key: "k".into(),
            candidates: Candidates::new(candidates.collect()).expect("one"),
            org_caption: Some("cat.jpg".into()),
            org_similarity: None,
            org_itm: None,
            width: 1,
            height: 1,
            sha256: String::new(),
            url: None,
            meta: None,
            image: None,
        }
    }

    fn filter(min_similarity: Option<f32>, settings: RuleSettings) -> Filter {
        Filter { min_similarity, min_itm: None, rules: Arc::new(TextRules::new(settings).expect("valid")) }
    }

    #[test]
    fn similarity_at_the_threshold_is_kept() {
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
    fn best_candidate_within_rules_is_chosen() {
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
    fn candidates_to_match_may_be_chosen() {
        let similar = |s| Similarity::new(s).expect("finite");
        let candidates = [
            ("a cat", similar(0.3)),
            ("a big red cat", similar(0.9)),
            ("cat", similar(0.4)),
            ("cat", similar(0.4)),
            ("dog", similar(0.1)),
        ];
        let rules = RuleSettings { max_words: Some(2), ..RuleSettings::default() };
        assert_eq!(filter(None, rules.clone()).to_match(&candidates, 9), [2, 0, 4]);
        assert_eq!(filter(None, rules.clone()).to_match(&candidates, 2), [2, 0]);
        assert_eq!(filter(Some(0.3), rules.clone()).to_match(&candidates, 9), [2, 0]);
        assert_eq!(filter(Some(0.5), rules).to_match(&candidates, 9), [] as [usize; 0]);
        assert_eq!(Filter::default().to_match(&candidates, 1), [1]);
        assert_eq!(Filter::default().to_match(&candidates, 0), [] as [usize; 0]);
    }

    #[test]
    fn best_match_is_chosen_and_held_to_min_itm() {
        let matched = |logits: [Option<f32>; 3]| {
            let mut row = row(&[("a", 0.5), ("b", 0.4), ("c", 0.3)]);
            let mut all = row.candidates.as_slice().to_vec();
            for (candidate, logit) in all.iter_mut().zip(logits) {
                candidate.itm = logit.and_then(|logit| MatchProbability::of_logits([0.0, logit]));
            }
            row.candidates = Candidates::new(all).expect("three");
            row
        };
        let filter = Filter { min_itm: Some(0.5), ..Filter::default() };
        let SampleOutcome::Caption(kept) = filter.apply(matched([Some(-1.0), Some(0.0), None])) else {
            panic!("rejected at the threshold")
        };
        assert_eq!(kept.candidates.chosen().text, "b");
        let SampleOutcome::Reject(reject) = filter.apply(matched([Some(-2.0), Some(-1.0), None])) else {
            panic!("kept")
        };
        assert_eq!(
            (reject.reason, reject.caption.as_deref(), reject.similarity),
            (RejectReason::BelowItm, Some("b"), Some(0.4))
        );
        assert_eq!(
            reject.detail,
            "itm 0.2689 is below filter.min_itm 0.5; the best of 2 candidates that were matched"
        );
    }

    #[test]
    fn reject_names_rule_and_setting() {
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
