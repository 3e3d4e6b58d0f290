//! Generated captions of an image, and their scores.

/// The cosine of two unit vectors: finite, in [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Similarity(f32);

impl Similarity {
    /// Wraps a dot product of unit vectors, clamped to [-1, 1] against rounding; `None` if it is not finite.
    #[must_use]
    pub fn new(cosine: f32) -> Option<Self> {
        cosine.is_finite().then(|| Self(cosine.clamp(-1.0, 1.0)))
    }

    /// Returns the value, in [-1, 1].
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }
}

/// The probability that an image and a text match (ITM): in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct MatchProbability(f32);

impl MatchProbability {
    /// Computes the softmax of the matching head's two logits, no match and match, in f64; `None` if one is not finite.
    ///
    /// ```
    /// use recaption_schemas::MatchProbability;
    ///
    /// assert_eq!(MatchProbability::of_logits([1.0, 1.0]).map(MatchProbability::get), Some(0.5));
    /// assert!(MatchProbability::of_logits([f32::NAN, 0.0]).is_none());
    /// ```
    #[must_use]
    pub fn of_logits([other, matched]: [f32; 2]) -> Option<Self> {
        let difference = f64::from(other) - f64::from(matched);
        difference.is_finite().then(|| Self((1.0 / (1.0 + difference.exp())) as f32))
    }

    /// Returns the value, in [0, 1].
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }
}

/// A generated caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Detokenised and cleaned text.
    pub text: String,
    /// Cosine of image and text, [-1, 1].
    pub similarity: Similarity,
    /// Sum of the model's log-probabilities of the generated tokens, including the end token; natural logarithm, <= 0.
    pub logprob: f32,
    /// Probability that image and text match, if the scorer has a matching head and this candidate was matched.
    pub itm: Option<MatchProbability>,
}

/// The candidates of an image, the best first; one of them is chosen. Never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    all: Vec<Candidate>,
    /// Always below `all.len()`.
    chosen: usize,
}

impl Candidates {
    /// Sorts candidates by similarity, the best first; equal ones keep their order. The best is chosen. `None` if there are none.
    #[must_use]
    pub fn new(mut candidates: Vec<Candidate>) -> Option<Self> {
        if candidates.is_empty() {
            return None;
        }
        candidates.sort_by(|a, b| b.similarity.get().total_cmp(&a.similarity.get()));
        Some(Self { all: candidates, chosen: 0 })
    }

    /// Chooses the candidate at a position of [`Candidates::as_slice`], if a text rule forbids a more similar one or it matches
    /// the image better. Returns `false` and
    /// changes nothing if there is no such position.
    pub fn choose(&mut self, position: usize) -> bool {
        let there = position < self.all.len();
        if there {
            self.chosen = position;
        }
        there
    }

    /// Returns the position of the candidate that matches the image best, of those that were matched; of equal ones the most similar.
    #[must_use]
    pub fn best_match(&self) -> Option<usize> {
        let matched = self.all.iter().enumerate().filter_map(|(i, one)| Some((i, one.itm?.get())));
        // The first of equal ones stays.
        matched.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(i, _)| i)
    }

    /// Returns the chosen candidate: `caption`, `similarity` and `itm` of the row.
    #[must_use]
    pub fn chosen(&self) -> &Candidate {
        &self.all[self.chosen]
    }

    /// Returns the candidate of the highest similarity, chosen or not.
    #[must_use]
    pub fn best(&self) -> &Candidate {
        &self.all[0]
    }

    /// Returns all candidates, the best first.
    #[must_use]
    pub fn as_slice(&self) -> &[Candidate] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_sorted_by_similarity() {
        let make = |text: &str, s: f32| Candidate {
            text: text.into(),
            similarity: Similarity::new(s).expect("finite"),
            logprob: -1.0,
            itm: None,
        };
        let mut c = Candidates::new(vec![make("a", 0.1), make("b", 0.5), make("c", 0.5)]).expect("three");
        assert_eq!(c.as_slice().iter().map(|c| c.text.as_str()).collect::<Vec<_>>(), ["b", "c", "a"]);
        assert_eq!((c.chosen().text.as_str(), c.best().text.as_str()), ("b", "b"));
        assert!(c.choose(2));
        assert_eq!((c.chosen().text.as_str(), c.best().text.as_str()), ("a", "b"));
        assert_eq!(c.as_slice().len(), 3, "what is not chosen is still listed");
        assert!(!c.choose(3));
        assert!(Candidates::new(vec![]).is_none());
        assert!(Similarity::new(f32::NAN).is_none());
        assert_eq!(Similarity::new(1.000_001).map(Similarity::get), Some(1.0));
    }

    #[test]
    fn best_match_is_the_most_similar_of_the_most_probable() {
        let make = |text: &str, s: f32, logit: Option<f32>| Candidate {
            text: text.into(),
            similarity: Similarity::new(s).expect("finite"),
            logprob: -1.0,
            itm: logit.and_then(|logit| MatchProbability::of_logits([0.0, logit])),
        };
        let all = vec![
            make("a", 0.1, Some(2.0)),
            make("b", 0.2, Some(2.0)),
            make("c", 0.3, Some(-1.0)),
            make("d", 0.4, None),
        ];
        let best = |all: &[Candidate]| {
            let candidates = Candidates::new(all.to_vec()).expect("some");
            candidates.best_match().map(|at| candidates.as_slice()[at].text.clone())
        };
        assert_eq!(best(&all).as_deref(), Some("b"));
        assert_eq!(best(&all[3..]), None, "none was matched");
        let certain = [[-1000.0, 1000.0], [1000.0, -1000.0]].map(MatchProbability::of_logits);
        assert_eq!(certain.map(|one| one.map(MatchProbability::get)), [Some(1.0), Some(0.0)]);
    }
}
