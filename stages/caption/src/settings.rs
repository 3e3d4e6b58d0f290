//! Settings of a caption worker.

use recaption_onnx::caption::CaptionSettings;

use crate::filter::Filter;

/// What a caption worker generates and which of it becomes a row.
#[derive(Clone, Debug)]
pub struct CaptionWorkerSettings {
    /// Strategy, lengths, candidates per image and slots.
    pub caption: CaptionSettings,
    /// Seed of sampling; each image's own seed is derived from it and the sample's key.
    pub seed: u64,
    /// Whether captions begin with the prompt that the captioner was given.
    pub keep_prompt: bool,
    /// Text rules and threshold of similarity.
    pub filter: Filter,
    /// Candidates of an image that are matched with it, the most similar first, where the scorer has a matching head; 0 for none.
    pub itm_top_k: usize,
    /// Whether the original caption is matched too.
    pub match_original: bool,
    /// Whether rows carry the stored image.
    pub embed_images: bool,
    /// Whether results carry the scorer's features.
    pub keep_features: bool,
}
