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
/// probability of another sample is its softmax without the sample's own; N is at least 2.
#[must_use]
pub fn draw_negatives(
    text_to_image: &[f32],
    image_to_text: &[f32],
    count: usize,
    random: &mut Random,
) -> Negatives {
    let mut draw = |similarities: &[f32]| {
        (0..count).map(|own| other(&similarities[own * count..(own + 1) * count], own, random)).collect()
    };
    Negatives { images: draw(text_to_image), texts: draw(image_to_text) }
}

/// Draws an index of `row` other than `own`, with a probability proportional to the exponential.
fn other(row: &[f32], own: usize, random: &mut Random) -> usize {
    let others = || row.iter().enumerate().filter(|(i, _)| *i != own);
    let largest = others().map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max);
    let weight = |x: f32| f64::from(x - largest).exp();
    let total: f64 = others().map(|(_, x)| weight(*x)).sum();
    let mut left = random.fraction() * total;
    let mut chosen = own;
    for (i, x) in others() {
        chosen = i;
        left -= weight(*x);
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
        for _ in 0..2000 {
            let drawn = draw_negatives(&similarities, &similarities, 3, &mut random);
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
}
