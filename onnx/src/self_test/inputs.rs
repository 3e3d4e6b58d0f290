//! Images and ids, computed so that no files are needed and both sides get the same bytes.

/// Number of images.
pub(super) const IMAGES: usize = 3;

/// Returns images that differ from each other, u8 RGB `[IMAGES, side, side, 3]`: a gradient of colours, a disc, a chequered pattern.
pub(super) fn images(side: usize) -> Vec<u8> {
    let make: [fn(f32, f32) -> [f32; 3]; IMAGES] = [
        |x, y| [x, y, 1.0 - x],
        |x, y| {
            let inside = (x - 0.4).powi(2) + (y - 0.55).powi(2) < 0.09;
            if inside { [0.95, 0.75, 0.1] } else { [0.1, 0.15, 0.4 + 0.3 * y] }
        },
        |x, y| {
            let even = ((x * 7.0) as usize + (y * 5.0) as usize).is_multiple_of(2);
            if even { [0.9, 0.2 + 0.5 * x, 0.85] } else { [0.05, 0.35, 0.1] }
        },
    ];
    let at = |i: usize| (i as f32 + 0.5) / side as f32;
    let mut pixels = Vec::with_capacity(IMAGES * side * side * 3);
    for image in make {
        for y in 0..side {
            for x in 0..side {
                pixels.extend(image(at(x), at(y)).map(|v| (v * 255.0).clamp(0.0, 255.0) as u8));
            }
        }
    }
    pixels
}

/// Returns an id of the vocabulary that is not special (0 and the last two are), determined by `numbers`.
pub(super) fn word_id(vocabulary: usize, numbers: [usize; 3]) -> i64 {
    let words = vocabulary.saturating_sub(3).max(1) as u64;
    let mixed = numbers.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |state, n| {
        (state ^ (*n as u64 + 1)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
    });
    1 + (mixed % words) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_differ_and_ids_are_not_special() {
        let pixels = images(32);
        let images: Vec<&[u8]> = pixels.chunks_exact(32 * 32 * 3).collect();
        assert_eq!(images.len(), IMAGES);
        for (i, image) in images.iter().enumerate() {
            assert!(image.iter().max() > Some(&200) && image.iter().min() < Some(&60));
            assert!(images[..i].iter().all(|other| other != image));
        }
        for n in 0..1000 {
            assert!((1..=7).contains(&word_id(10, [n, 2, 3])));
        }
        assert_ne!(word_id(50_000, [0, 1, 2]), word_id(50_000, [0, 2, 1]));
    }
}
