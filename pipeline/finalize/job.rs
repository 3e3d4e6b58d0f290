//! The request.

use crate::config::RunConfig;

/// What is finalized.
#[derive(Clone, Debug)]
pub(crate) struct FinalizeJob {
    /// Inputs and how they are read; of a run's settings no others are used.
    pub(crate) config: RunConfig,
    /// Where the inputs are from, in words: a run or a file.
    pub(crate) origin: String,
    /// Whether the output must have been made with this configuration, as far as no model decides it.
    pub(crate) must_match: bool,
    /// The page, if one is written.
    pub(crate) page: Option<PageOptions>,
}

/// How the page is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageOptions {
    /// Whether it shows images.
    pub(crate) images: bool,
}
