//! The report of an output: one HTML file that loads nothing from elsewhere.
//!
//! ```text
//! rows of an output, or results of a preview -> ReportBuilder -> Report -> HTML
//! ```
//!
//! [`ReportBuilder`] takes every caption and reject once, counts over all of them in bounded memory, and keeps a sample by seed.
//! Nothing in a page is trusted: captions, keys and details come from datasets of the web.
//!
//! | file | what |
//! |---|---|
//! | `source`, `content` | what goes in, what comes out |
//! | `builder` | rows -> statistics and sample |
//! | `statistics`, `histogram`, `texts`, `frequent` | counts over all rows |
//! | `sample`, `thumbnail` | the rows that are shown, and their images |
//! | `page` | the HTML |
//! | `output` | `recaption report`: the rows of an output, and images from its inputs |

mod builder;
mod content;
mod frequent;
mod histogram;
mod output;
mod page;
mod sample;
mod source;
mod statistics;
mod texts;
mod thumbnail;

pub(crate) use builder::{DEFAULT_SAMPLES, MAX_SAMPLES, ReportBuilder};
pub(crate) use output::{DEFAULT_IMAGE_BYTES, ReportJob, ReportTarget, report, report_over};
pub(crate) use source::{ReportCaption, ReportReject, ReportSource};
