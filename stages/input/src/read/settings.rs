//! How shards are read.

use super::{counts::UsageLog, metadata::MetadataCache};
use crate::{
    captions::CaptionSelection, columns::Columns, fetch::Fetcher, format::InputFormat,
    setting_names::SettingNames, tar::TarLimits,
};

/// Default number of a list's rows per shard: that of img2dataset.
pub const ROWS_PER_SHARD: u64 = 10_000;

/// How shards are read.
#[derive(Clone, Debug)]
pub struct ReadSettings {
    /// Format of the inputs.
    pub format: InputFormat,
    /// Limits of archives. The largest member is also the largest image of other formats.
    pub tar: TarLimits,
    /// Names of columns in tables and lists.
    pub columns: Columns,
    /// Fetches the images of lists. Without it, lists cannot be read.
    pub fetcher: Option<Fetcher>,
    /// Rows of a list per shard; 0 splits no list.
    pub rows_per_shard: u64,
    /// Which of several captions of a sample is the original caption.
    pub captions: CaptionSelection,
    /// Suffixes of the image that is captioned if a webdataset sample has several, the best first. The usual order follows.
    pub image_suffixes: Vec<String>,
    /// Logs how inputs are used, once per kind of input.
    pub usage_log: UsageLog,
    /// Cache of the metadata files of image folders.
    pub metadata: MetadataCache,
    /// Names of these settings in messages.
    pub setting_names: SettingNames,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self {
            format: InputFormat::default(),
            tar: TarLimits::default(),
            columns: Columns::default(),
            fetcher: None,
            rows_per_shard: ROWS_PER_SHARD,
            captions: CaptionSelection::default(),
            image_suffixes: Vec::new(),
            usage_log: UsageLog::default(),
            metadata: MetadataCache::default(),
            setting_names: SettingNames::default(),
        }
    }
}
