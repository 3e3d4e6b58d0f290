//! Pictures and ids that need no files. All is arithmetic, so both sides get the same bytes.

/// Pictures that are made.
pub const PICTURES: usize = 3;

/// Pictures unlike one another, u8 RGB `[PICTURES, side, side, 3]`: a gradient of colours, a disc, a chequered pattern.
pub fn pictures(side: usize) -> Vec<u8> {
    let make: [fn(f32, f32) -> [f32; 3]; PICTURES] = [
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
    let mut pixels = Vec::with_capacity(PICTURES * side * side * 3);
    for picture in make {
        for y in 0..side {
            for x in 0..side {
                pixels.extend(picture(at(x), at(y)).map(|v| (v * 255.0).clamp(0.0, 255.0) as u8));
            }
        }
    }
    pixels
}

/// An id of the vocabulary that is no special one (those are 0 and the last two), the same for the same numbers.
pub fn word(vocabulary: usize, numbers: [usize; 3]) -> i64 {
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
    fn pictures_differ_and_words_are_words() {
        let pixels = pictures(32);
        let pictures: Vec<&[u8]> = pixels.chunks_exact(32 * 32 * 3).collect();
        assert_eq!(pictures.len(), PICTURES);
        for (i, picture) in pictures.iter().enumerate() {
            assert!(picture.iter().max() > Some(&200) && picture.iter().min() < Some(&60));
            assert!(pictures[..i].iter().all(|other| other != picture));
        }
        for n in 0..1000 {
            assert!((1..=7).contains(&word(10, [n, 2, 3])));
        }
        assert_ne!(word(50_000, [0, 1, 2]), word(50_000, [0, 2, 1]));
    }
}
