//! Hard negatives of matching: for every text another's image, and for every image another's text, by similarity.

use crate::random::Random;

/// One negative per text and one per image, by index in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negatives {
    /// Image that is put with each text.
    pub images: Vec<usize>,
    /// Text that is put with each image.
    pub texts: Vec<usize>,
}

/// Draws negatives from a batch: `text_to_image` and `image_to_text` are similarities by temperature, `[N, N]`, row-major. The
/// probability of another sample is its softmax without the sample's own and without those of the same text, which are no negatives;
/// where all texts are the same, without the own alone. N is at least 2.
#[must_use]
pub fn draw_negatives(
    text_to_image: &[f32],
    image_to_text: &[f32],
    texts: &[Vec<i64>],
    random: &mut Random,
) -> Negatives {
    let count = texts.len();
    let mut draw = |similarities: &[f32]| {
        let row = |own: usize| &similarities[own * count..(own + 1) * count];
        let others = |own: usize| {
            let different: Vec<usize> = (0..count).filter(|i| texts[*i] != texts[own]).collect();
            if different.is_empty() { (0..count).filter(|i| *i != own).collect() } else { different }
        };
        (0..count).map(|own| one_of(&others(own), row(own), random)).collect()
    };
    Negatives { images: draw(text_to_image), texts: draw(image_to_text) }
}

/// Draws one of `others`, with a probability proportional to the exponential in `row`.
fn one_of(others: &[usize], row: &[f32], random: &mut Random) -> usize {
    let largest = others.iter().map(|i| row[*i]).fold(f32::NEG_INFINITY, f32::max);
    let weight = |i: usize| f64::from(row[i] - largest).exp();
    let total: f64 = others.iter().map(|i| weight(*i)).sum();
    let mut left = random.fraction() * total;
    let mut chosen = 0;
    for i in others {
        chosen = *i;
        left -= weight(*i);
        if left < 0.0 {
            break;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negatives_follow_similarity_and_are_never_the_own() {
        let similarities = [9.0, 0.0, 2.0, 0.0, 9.0, 0.0, -200.0, 0.0, 9.0];
        let mut random = Random::new(1, &[]);
        let mut counts = [[0; 3]; 3];
        let texts = [vec![1], vec![2], vec![3]];
        for _ in 0..2000 {
            let drawn = draw_negatives(&similarities, &similarities, &texts, &mut random);
            for own in 0..3 {
                counts[own][drawn.images[own]] += 1;
                assert_ne!(drawn.texts[own], own);
            }
        }
        assert_eq!((counts[0][0], counts[1][1], counts[2][2]), (0, 0, 0));
        // e^2 / (1 + e^2) = 0.88; equal; e^-200.
        assert!((1700..1830).contains(&counts[0][2]), "{counts:?}");
        assert!((900..1100).contains(&counts[1][0]), "{counts:?}");
        assert_eq!(counts[2][0], 0);
    }

    #[test]
    fn same_text_is_no_negative() {
        let mut random = Random::new(2, &[]);
        // The second sample is by far the most similar to the first, and has its text.
        let similarities = [9.0, 8.0, -5.0, 8.0, 9.0, -5.0, 0.0, 0.0, 9.0];
        for _ in 0..100 {
            let drawn =
                draw_negatives(&similarities, &similarities, &[vec![1, 4], vec![1, 4], vec![1]], &mut random);
            assert_eq!((drawn.images[0], drawn.texts[1]), (2, 2));
            assert!(drawn.images[2] < 2);
            // Where there is no other text, another sample.
            let same =
                draw_negatives(&similarities, &similarities, &[vec![1], vec![1], vec![1]], &mut random);
            assert!((0..3).all(|own| same.images[own] != own && same.texts[own] != own));
        }
    }
}
