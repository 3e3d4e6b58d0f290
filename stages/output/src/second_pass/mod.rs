//! The second pass over a finished output: rows are kept, left out or marked by a similarity that they have.
//!
//! ```text
//! commit records -> the score's column of every part -> threshold -> captions parts -> parts of the new dataset
//! ```
//! No image is read and no model is loaded. Only shards with a commit record exist. Memory holds one row group per shard in
//! progress and two histograms, whatever the size of the dataset. The source is never written to.

mod copy;
mod error;
mod fraction;
mod selection;
mod source;
mod threshold;

pub use copy::{CopyCounts, CopyJob, CopyTask, copy_shard};
pub use error::SecondPassError;
pub use fraction::{Fraction, FractionError};
pub use selection::{Cutoff, PassRecord, ScoreColumn, Selection};
pub use source::{SourceDataset, SourceShard};
pub use threshold::{CoarseHistogram, FineHistogram};
