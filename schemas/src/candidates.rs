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

/// A generated caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Detokenised and cleaned text.
    pub text: String,
    /// Cosine of image and text, [-1, 1].
    pub similarity: Similarity,
    /// Sum of the model's log-probabilities of the generated tokens, including the end token; natural logarithm, <= 0.
    pub logprob: f32,
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

    /// Chooses the candidate at a position of [`Candidates::as_slice`], if a text rule forbids a better one. Returns `false` and
    /// changes nothing if there is no such position.
    pub fn choose(&mut self, position: usize) -> bool {
        let there = position < self.all.len();
        if there {
            self.chosen = position;
        }
        there
    }

    /// Returns the chosen candidate: `caption` and `similarity` of the row.
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
}
