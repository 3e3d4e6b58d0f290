//! Why the inputs cannot be listed.

use recaption_store::StoreError;

/// Why the inputs cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// An error of a store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A malformed pattern.
    #[error("input pattern `{pattern}`: {problem}")]
    Pattern {
        /// The pattern, redacted.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A pattern without a match.
    #[error("input pattern `{pattern}` matches no shard; looked for {looked_for}")]
    NoMatch {
        /// The pattern, redacted.
        pattern: String,
        /// Which files would match.
        looked_for: &'static str,
    },
    /// No shard can be looked up.
    #[error("none of the {shards} input shards can be found; the first, {url}: {error}")]
    AllUnavailable {
        /// Number of shards.
        shards: usize,
        /// URL of the first shard, redacted.
        url: String,
        /// Error of the first shard.
        error: String,
    },
    /// Two shards would write the same files.
    #[error("shards {0} and {1} have the same name in the output; rename one")]
    Collision(String, String),
    /// Two inputs have the same redacted URL.
    #[error(
        "two inputs are {0} and differ only in query or user info, which are left out of every name because they may \
         hold secrets; give each shard a path of its own"
    )]
    Ambiguous(String),
}
