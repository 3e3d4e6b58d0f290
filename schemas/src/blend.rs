//! The blend of synthetic and original captions, which fills the optional `text` column.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{ShardId, SplitMix64};

/// Draws, row by row, the synthetic or the original caption.
///
/// The draw is a hash of the seed, the shard's name and the key, so that it does not depend on workers, order or attempts. DALL·E 3 was
/// trained with 95 % synthetic captions, so that it does not learn the captioner's habits (Betker et al., "Improving Image Generation
/// with Better Captions", 2023).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blend {
    /// Probability of the synthetic caption, 0 to 1.
    pub synthetic: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Blend {
    /// Creates a blend; `None` if `synthetic` is not in 0 to 1.
    #[must_use]
    pub fn new(synthetic: f64, seed: u64) -> Option<Self> {
        (0.0..=1.0).contains(&synthetic).then_some(Self { synthetic, seed })
    }

    /// Returns whether the row `key` of the shard `shard` (its URL) takes its synthetic caption, if it has both.
    #[must_use]
    pub fn is_synthetic(&self, shard: &str, key: &str) -> bool {
        self.of_shard(shard).is_synthetic(key)
    }

    /// Returns the draws for the rows of one shard, by its URL.
    #[must_use]
    pub fn of_shard(&self, shard: &str) -> ShardBlend {
        let mut prefix = Sha256::new();
        prefix.update(format!("{}\n{}\n", self.seed, ShardId::from_url(shard)));
        ShardBlend { synthetic: self.synthetic, prefix }
    }

    /// Parses the value of the metadata entry [`metadata_keys::BLEND`](crate::metadata_keys::BLEND); `None` if it is not one.
    #[must_use]
    pub fn from_metadata(value: &str) -> Option<Self> {
        serde_json::from_str(value).ok()
    }

    /// Returns the value of the metadata entry [`metadata_keys::BLEND`](crate::metadata_keys::BLEND).
    #[must_use]
    pub fn to_metadata(&self) -> String {
        serde_json::json!({"synthetic": self.synthetic, "seed": self.seed}).to_string()
    }
}

/// The draws for the rows of one shard.
#[derive(Clone, Debug)]
pub struct ShardBlend {
    synthetic: f64,
    /// Hash of seed and shard.
    prefix: Sha256,
}

impl ShardBlend {
    /// Returns whether the row `key` takes its synthetic caption, if it has both.
    #[must_use]
    pub fn is_synthetic(&self, key: &str) -> bool {
        let digest = self.prefix.clone().chain_update(key).finalize();
        let bits = digest.iter().take(size_of::<u64>()).fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        SplitMix64::new(bits).next_fraction() < self.synthetic
    }

    /// Returns the text of a row: the caption that is drawn, or the synthetic one if there is no other.
    #[must_use]
    pub fn text<'a>(&self, key: &str, synthetic: &'a str, original: Option<&'a str>) -> &'a str {
        match original {
            Some(original) if !self.is_synthetic(key) => original,
            _ => synthetic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of synthetic captions over 100,000 keys in ten shards.
    fn share(blend: Blend) -> f64 {
        let drawn = (0..10_u32).flat_map(|shard| {
            let of_shard = blend.of_shard(&format!("s3://bucket/{shard:05}.tar"));
            (0..10_000_u32).map(move |key| of_shard.is_synthetic(&format!("{key:09}")))
        });
        drawn.filter(|synthetic| *synthetic).count() as f64 / 100_000.0
    }

    #[test]
    fn share_is_within_half_a_percent() {
        for synthetic in [0.65, 0.8, 0.9, 0.95] {
            for seed in [0, 1, 20_231_019] {
                let share = share(Blend::new(synthetic, seed).expect("a share"));
                assert!((share - synthetic).abs() < 0.005, "{share} instead of {synthetic}, seed {seed}");
            }
        }
        assert!(share(Blend::new(0.0, 0).expect("a share")) == 0.0);
        assert!(share(Blend::new(1.0, 0).expect("a share")) == 1.0);
        assert_eq!((Blend::new(1.1, 0), Blend::new(f64::NAN, 0)), (None, None));
    }

    #[test]
    fn draws_depend_on_seed_shard_and_key_alone() {
        let blend = |seed| Blend::new(0.5, seed).expect("a share");
        let draws = |seed, shard: &str| -> Vec<bool> {
            (0..64).map(|key| blend(seed).is_synthetic(shard, &format!("{key}"))).collect()
        };
        assert_eq!(draws(1, "s3://b/0.tar"), draws(1, "s3://b/0.tar"));
        assert_ne!(draws(1, "s3://b/0.tar"), draws(2, "s3://b/0.tar"));
        assert_ne!(draws(1, "s3://b/0.tar"), draws(1, "s3://b/1.tar"));
        // Outputs continue with these draws, so they never change.
        let fixed: String =
            draws(0, "s3://b/0.tar")[..16].iter().map(|s| if *s { '1' } else { '0' }).collect();
        assert_eq!(fixed, "0101011000110011");
    }

    #[test]
    fn rows_without_an_original_take_the_synthetic_caption() {
        let never = Blend::new(0.0, 0).expect("a share").of_shard("s3://b/0.tar");
        assert_eq!(never.text("k", "a red star", None), "a red star");
        assert_eq!(never.text("k", "a red star", Some("star.jpg")), "star.jpg");
    }

    #[test]
    fn metadata_names_the_blend() {
        let blend = Blend::new(0.95, 7).expect("a share");
        assert_eq!(Blend::from_metadata(&blend.to_metadata()), Some(blend));
        assert_eq!(Blend::from_metadata("{}"), None);
    }
}
