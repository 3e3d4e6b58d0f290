//! `recaption preview`: captions a sample of the configured input as a run would, and writes nothing to the output.

mod record;

pub use self::record::{PREVIEW_FORMAT, PreviewRecord};
