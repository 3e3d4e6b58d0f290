//! Errors of training data.

/// The reason why there are no batches.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The inputs cannot be listed.
    #[error(transparent)]
    List(#[from] recaption_input::shards::ListError),
    /// An output of `recaption run` cannot be read.
    #[error("training data: {0}")]
    Output(String),
    /// No sample could be used.
    #[error(
        "training data: not one usable sample in {shards} shard(s): {counts}; `data.caption` is `{caption}`{failure}"
    )]
    Nothing {
        /// Number of shards that were read.
        shards: usize,
        /// Counts by reason.
        counts: String,
        /// The configured place of captions.
        caption: String,
        /// The first failure of a shard, as a clause, or empty.
        failure: String,
    },
    /// The loader's thread ended early, which is a bug.
    #[error("internal error: the loader's thread ended: {0}")]
    Broken(String),
}
