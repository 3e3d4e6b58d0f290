//! The report of an output: one HTML file that loads nothing from elsewhere.
//!
//! ```text
//! rows of an output, or results of a preview -> ReportBuilder -> Report -> HTML
//! ```
//!
//! [`ReportBuilder`] takes every caption and reject once, counts over all of them in bounded memory, and keeps a sample by seed.
//! Nothing in a page is trusted: captions, keys and details come from datasets of the web.

mod builder;
mod source;

pub(crate) use builder::{Report, ReportBuilder};
pub(crate) use source::{ReportCaption, ReportReject, ReportSource};
