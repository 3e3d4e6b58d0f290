//! Retrieval: the rank of an image's own text among all texts, and of a text's own image among all images.

/// Ranks at which recall is measured.
pub const RANKS: [usize; 3] = [1, 5, 10];

/// Recall at each of [`RANKS`]: the share of queries whose own counterpart is among the best 1, 5 and 10, in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recall {
    /// Recall of texts for image queries.
    pub image_to_text: [f64; RANKS.len()],
    /// Recall of images for text queries.
    pub text_to_image: [f64; RANKS.len()],
}

/// Computes recall over pairs of features, f32 `[N, width]` each, where row i of one belongs to row i of the other.
///
/// A tie counts against the query: counterparts with equal scores are not found. Takes time `O(N^2 width)` and memory `O(1)`.
///
/// # Panics
/// Panics if `width` is 0 or `texts` is shorter than `images`.
#[must_use]
pub fn recall(images: &[f32], texts: &[f32], width: usize) -> Recall {
    Recall { image_to_text: one_way(images, texts, width), text_to_image: one_way(texts, images, width) }
}

fn one_way(queries: &[f32], others: &[f32], width: usize) -> [f64; RANKS.len()] {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let mut found = [0_usize; RANKS.len()];
    let count = queries.len() / width;
    for (i, query) in queries.chunks_exact(width).enumerate() {
        let own = dot(query, &others[i * width..(i + 1) * width]);
        let ahead = others
            .chunks_exact(width)
            .enumerate()
            .filter(|(j, other)| *j != i && dot(query, other) >= own)
            .count();
        for (found, rank) in found.iter_mut().zip(RANKS) {
            *found += usize::from(ahead < rank);
        }
    }
    found.map(|n| if count == 0 { 0.0 } else { n as f64 / count as f64 })
}
