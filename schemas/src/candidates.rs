//! Generated captions of one image, and their scores.

/// Cosine of two unit vectors, finite and within [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Similarity(f32);

impl Similarity {
    /// From a dot product of unit vectors. Rounding may carry it a little over 1: clamped. `None` when not finite.
    #[must_use]
    pub fn new(cosine: f32) -> Option<Self> {
        cosine.is_finite().then(|| Self(cosine.clamp(-1.0, 1.0)))
    }

    /// The value, in [-1, 1].
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }
}

/// One generated caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Decoded and tidied text.
    pub text: String,
    /// Cosine of image and text.
    pub similarity: Similarity,
    /// Sum of the model's own log-probabilities of the generated tokens, end token included; natural logarithm, <= 0.
    pub logprob: f32,
}

/// All candidates of one image, best first, one of them chosen. Never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    all: Vec<Candidate>,
    /// Always below `all.len()`.
    chosen: usize,
}

impl Candidates {
    /// Sorts by similarity, best first; the order generated breaks ties. The best is chosen. `None` when empty.
    #[must_use]
    pub fn new(mut candidates: Vec<Candidate>) -> Option<Self> {
        if candidates.is_empty() {
            return None;
        }
        candidates.sort_by(|a, b| b.similarity.get().total_cmp(&a.similarity.get()));
        Some(Self { all: candidates, chosen: 0 })
    }

    /// Chooses the candidate at this position of [`Candidates::as_slice`], where a text rule forbids a better one. `false`,
    /// and nothing changes, when there is no such position.
    pub fn choose(&mut self, position: usize) -> bool {
        let there = position < self.all.len();
        if there {
            self.chosen = position;
        }
        there
    }

    /// The chosen one: what becomes `caption` and `similarity`.
    #[must_use]
    pub fn chosen(&self) -> &Candidate {
        &self.all[self.chosen]
    }

    /// The one of the highest similarity, chosen or not.
    #[must_use]
    pub fn best(&self) -> &Candidate {
        &self.all[0]
    }

    /// All, best first.
    #[must_use]
    pub fn as_slice(&self) -> &[Candidate] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_comes_first_and_ties_keep_their_order() {
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
