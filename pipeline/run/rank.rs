//! A seeded order of shards that depends on each shard's name alone.

use recaption_schemas::{ShardId, sha256_hex};

/// Hex digits of a digest that make a rank: 64 bits.
const RANK_DIGITS: usize = 16;

/// Returns a shard's place in the seeded order, uniform over all 64-bit numbers.
pub(super) fn rank(seed: u64, shard: &ShardId) -> u64 {
    let digest = sha256_hex(format!("{seed}\n{}", shard.as_str()).as_bytes());
    u64::from_str_radix(&digest[..RANK_DIGITS], 16).unwrap_or(0)
}
