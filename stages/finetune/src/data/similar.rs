//! Groups of similar texts in a batch (grouped mini-batches: Byun et al. 2022, "GRIT-VLP"), so that the negatives that it holds are hard.
//! There a whole batch is one group, and similarity is the model's, of the last epoch; here a batch holds several groups, so that its other
//! texts differ, and similarity is that of words, which needs no model.

use std::collections::{HashMap, HashSet};

use super::example::Example;
use crate::random::Random;

/// Examples among which a group's are chosen, per example of the group: many alt texts are the same, and a group holds each once.
const CHOICE: usize = 8;

/// Orders shuffled examples so that every `size` of them, from the first on, have similar captions: the first that is left and those
/// most similar to it, none twice as far as there are others, group by group, in random order. What is left over comes last.
///
/// Similarity is the cosine of the captions' sets of words, each weighted by its rarity (inverse document frequency).
pub(super) fn group_similar(examples: Vec<Example>, size: usize, random: &mut Random) -> Vec<Example> {
    let words = Words::new(&examples);
    let mut left: Vec<usize> = (0..examples.len()).collect();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    while left.len() >= size.max(2) {
        let order = most_similar(&words.similarities(left[0], &left), CHOICE * size);
        let order = different(&order, size - 1, |at| examples[left[at]].caption.as_str());
        let mut is_taken = vec![false; left.len()];
        [0].iter().chain(&order).for_each(|at| is_taken[*at] = true);
        groups.push([0].iter().chain(&order).map(|at| left[*at]).collect());
        let mut taken = is_taken.into_iter();
        left.retain(|_| taken.next() == Some(false));
    }
    random.shuffle(&mut groups);
    let mut examples: Vec<Option<Example>> = examples.into_iter().map(Some).collect();
    groups.iter().flatten().chain(&left).filter_map(|i| examples[*i].take()).collect()
}

/// Returns the places of the `count` largest of `similarity` but the first, largest first. Among equal ones the first comes first, so the
/// order is the same in every run.
fn most_similar(similarity: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (1..similarity.len()).collect();
    let larger = |a: &usize, b: &usize| similarity[*b].total_cmp(&similarity[*a]).then(a.cmp(b));
    if count < order.len() {
        order.select_nth_unstable_by(count, larger);
        order.truncate(count);
    }
    order.sort_by(larger);
    order
}

/// Returns the first `count` of `order` whose captions differ from that of the first example, 0, and from each other's; where there are
/// fewer, also others.
fn different<'a>(order: &[usize], count: usize, caption: impl Fn(usize) -> &'a str) -> Vec<usize> {
    let mut seen = HashSet::from([caption(0)]);
    let (mut chosen, same): (Vec<usize>, Vec<usize>) =
        order.iter().partition(|at| seen.insert(caption(**at)));
    chosen.extend(same);
    chosen.truncate(count);
    chosen
}

/// The words of some captions.
struct Words {
    /// Words of each caption, by number, each once.
    captions: Vec<Vec<usize>>,
    /// Weight of each word, squared.
    weights: Vec<f64>,
    /// Length of each caption's vector.
    norms: Vec<f64>,
}

impl Words {
    fn new(examples: &[Example]) -> Self {
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut number = |word: &str| {
            let next = numbers.len();
            *numbers.entry(word.to_lowercase()).or_insert(next)
        };
        let words = |caption: &str| -> Vec<usize> {
            let parts = caption.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
            let mut found: Vec<usize> = parts.map(&mut number).collect();
            found.sort_unstable();
            found.dedup();
            found
        };
        let captions: Vec<Vec<usize>> = examples.iter().map(|e| e.caption.as_str()).map(words).collect();
        let mut counts = vec![0_usize; numbers.len()];
        captions.iter().flatten().for_each(|word| counts[*word] += 1);
        let rarity = |count: &usize| ((1.0 + examples.len() as f64) / *count as f64).ln().powi(2);
        let weights: Vec<f64> = counts.iter().map(rarity).collect();
        let norm = |caption: &Vec<usize>| caption.iter().map(|word| weights[*word]).sum::<f64>().sqrt();
        let norms = captions.iter().map(norm).collect();
        Self { captions, weights, norms }
    }

    /// Returns the cosines of one caption and others.
    fn similarities(&self, one: usize, others: &[usize]) -> Vec<f64> {
        let mut shared = vec![0.0; self.weights.len()];
        self.captions[one].iter().for_each(|word| shared[*word] = self.weights[*word]);
        let cosine = |other: &usize| {
            let dot: f64 = self.captions[*other].iter().map(|word| shared[*word]).sum();
            dot / (self.norms[one] * self.norms[*other]).max(f64::MIN_POSITIVE)
        };
        others.iter().map(cosine).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(captions: &[&str]) -> Vec<Example> {
        let example = |(i, caption): (usize, &&str)| Example {
            shard: 0,
            index: i as u64,
            key: i.to_string(),
            image: bytes::Bytes::new(),
            suffix: "jpg".into(),
            caption: (*caption).to_owned(),
        };
        captions.iter().enumerate().map(example).collect()
    }

    fn grouped(captions: &[&str], size: usize) -> Vec<u64> {
        let ordered = group_similar(examples(captions), size, &mut Random::new(1, &[]));
        ordered.iter().map(|example| example.index).collect()
    }

    #[test]
    fn captions_with_the_same_rare_words_are_together() {
        let captions = [
            "a red circle",
            "a dog",
            "a Circle, red",
            "a dog and a dog",
            "one red circle",
            "dog!",
            "free shipping",
        ];
        let order = grouped(&captions, 3);
        let mut groups = [order[..3].to_vec(), order[3..6].to_vec()];
        groups.iter_mut().for_each(|group| group.sort_unstable());
        groups.sort_unstable();
        assert_eq!(groups, [[0, 2, 4], [1, 3, 5]]);
        assert_eq!(order[6], 6, "what is left over comes last");
        assert_eq!(order, grouped(&captions, 3), "the same in every run");
    }

    #[test]
    fn group_holds_a_text_once_where_there_are_others() {
        let captions = ["red circle", "red circle", "red circle", "red square", "blue circle", "dog", "cat"];
        let order = grouped(&captions, 3);
        let group = order.chunks(3).find(|group| group.contains(&0)).expect("a group of the first");
        assert_eq!(group, [0, 3, 4]);
        // Where there are no others, the same text again.
        assert_eq!(grouped(&["dog", "dog", "dog"], 3), [0, 1, 2]);
    }

    #[test]
    fn every_example_is_kept_once() {
        for (count, size) in [(0, 4), (1, 1), (3, 1), (5, 8), (17, 4)] {
            let captions: Vec<String> = (0..count).map(|i| format!("word{} common", i % 5)).collect();
            let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
            let mut order = grouped(&captions, size);
            order.sort_unstable();
            assert!(order.into_iter().eq(0..count), "{count} by {size}");
        }
        // Captions without words are alike.
        assert_eq!(grouped(&["", "!!", ""], 2).len(), 3);
    }
}
