//! What the reader yields.

use bytes::Bytes;
use recaption_schemas::OriginalCaption;
use tokio::sync::OwnedSemaphorePermit;

/// One image, still encoded, with its texts and metadata.
#[derive(Debug)]
pub struct Sample {
    /// Number of the shard within the run.
    pub shard: usize,
    /// Position in the shard, from 0.
    pub index: u64,
    /// Key, unique within the shard.
    pub key: String,
    /// The stored image, as encoded in the input.
    pub image: Bytes,
    /// File name suffix of the image, lower case, without the dot.
    pub suffix: String,
    /// Original caption of the input.
    pub org_caption: Option<OriginalCaption>,
    /// Metadata of the sample, a JSON object.
    pub meta: Option<String>,
    /// URL that the image was fetched from.
    pub url: Option<String>,
    /// Share of the byte budget, returned when dropped.
    pub permit: Option<OwnedSemaphorePermit>,
}
