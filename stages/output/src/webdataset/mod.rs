//! Rows and images -> webdataset: for every sample its stored image, `.txt` and `.json`, in a tar of deterministic bytes.
//!
//! The JSON has both captions as `caption` and `org_caption`, between which open_clip's `--json-text-key` and
//! `--json-text-key-probs` choose. Keys are distinct over all shards of a dataset, and safe as names: they derive from the shard's
//! name and the sample's key, which is data.

mod key;
mod reader;
mod sample;
mod writer;

pub use key::{image_suffix, safe_key, sample_key};
pub use reader::WebdatasetReader;
pub use sample::WebdatasetSample;
pub use writer::WebdatasetWriter;
