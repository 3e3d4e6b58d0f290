//! What a report is made of.

use std::collections::BTreeMap;

/// What a report says about its rows as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReportSource {
    /// The page's title.
    pub(crate) title: String,
    /// The output, as `recaption filter` takes it; `None` where there is none to be filtered, as in a preview.
    pub(crate) output: Option<String>,
    /// The configuration keys that change rows, with their values.
    pub(crate) configuration: BTreeMap<String, String>,
    /// Digests of models, by role.
    pub(crate) digests: BTreeMap<String, String>,
    /// Further facts with their names, such as "images per second", in their order.
    pub(crate) facts: Vec<(String, String)>,
}

/// A row with a caption.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReportCaption {
    /// URL of the shard.
    pub(crate) shard: String,
    /// Key of the sample.
    pub(crate) key: String,
    /// The chosen caption.
    pub(crate) caption: String,
    /// Similarity of image and caption, [-1, 1].
    pub(crate) similarity: Option<f32>,
    /// Probability that image and caption match, [0, 1], if they were matched.
    pub(crate) itm: Option<f32>,
    /// The original caption.
    pub(crate) org_caption: Option<String>,
    /// Similarity of image and original caption, [-1, 1].
    pub(crate) org_similarity: Option<f32>,
    /// Probability that image and original caption match, [0, 1], if they were matched.
    pub(crate) org_itm: Option<f32>,
    /// All candidates with their similarities, the best first.
    pub(crate) candidates: Vec<(String, Option<f32>)>,
    /// Width of the image, pixels.
    pub(crate) width: u32,
    /// Height of the image, pixels.
    pub(crate) height: u32,
    /// The image as stored, in any format that a run decodes.
    pub(crate) image: Option<Vec<u8>>,
}

/// A sample without a caption.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReportReject {
    /// URL of the shard.
    pub(crate) shard: String,
    /// Key of the sample.
    pub(crate) key: String,
    /// The reason's name.
    pub(crate) reason: String,
    /// The reason in detail.
    pub(crate) detail: String,
    /// The caption that was not kept.
    pub(crate) caption: Option<String>,
    /// Similarity of image and that caption, [-1, 1].
    pub(crate) similarity: Option<f32>,
    /// The original caption.
    pub(crate) org_caption: Option<String>,
}
