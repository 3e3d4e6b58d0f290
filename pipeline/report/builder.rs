//! Collects what a report shows.

use std::{collections::BTreeMap, fmt::Write};

use super::source::{ReportCaption, ReportReject, ReportSource};

/// Takes captions and rejects, in any order.
#[derive(Debug)]
pub(crate) struct ReportBuilder {
    source: ReportSource,
    seed: u64,
    captions: u64,
    reasons: BTreeMap<String, u64>,
}

/// A finished report.
#[derive(Debug)]
pub(crate) struct Report {
    builder: ReportBuilder,
}

impl ReportBuilder {
    /// Begins a report whose sample is drawn by `seed`.
    #[must_use]
    pub(crate) fn new(source: ReportSource, seed: u64) -> Self {
        Self { source, seed, captions: 0, reasons: BTreeMap::new() }
    }

    /// Adds a row with a caption.
    pub(crate) fn add_caption(&mut self, caption: ReportCaption) {
        drop(caption);
        self.captions += 1;
    }

    /// Adds a sample without a caption.
    pub(crate) fn add_reject(&mut self, reject: ReportReject) {
        *self.reasons.entry(reject.reason).or_default() += 1;
    }

    /// Ends the report.
    #[must_use]
    pub(crate) fn finish(self) -> Report {
        Report { builder: self }
    }
}

impl Report {
    /// Returns the page.
    ///
    /// # Errors
    /// Returns an error when the page cannot be formatted.
    pub(crate) fn to_html(&self) -> anyhow::Result<String> {
        let mut html = String::new();
        let title = self.builder.source.title.replace('&', "&amp;").replace('<', "&lt;");
        write!(html, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>")?;
        write!(
            html,
            "<h1>{title}</h1><p>{} captions, seed {}</p>",
            self.builder.captions, self.builder.seed
        )?;
        for (reason, count) in &self.builder.reasons {
            write!(html, "<p>{count} {reason}</p>")?;
        }
        Ok(html)
    }
}
