//! `recaption report`: an output's rows -> [`ReportBuilder`] -> page.
//!
//! Every part is read once, in narrow columns, for the statistics; what else is shown is read for the sampled rows alone. Images come
//! from the rows, or else from the inputs, which may be gone: then a page has the reason instead.
//!
//! | file | what |
//! |---|---|
//! | `job` | what is asked for |
//! | `parts` | commit records -> the parts that are read |
//! | `facts` | what records say about the output |
//! | `rows` | parts -> rows |
//! | `details` | candidates and stored images of the sampled rows |
//! | `images` | the sampled rows' images in the inputs |

mod details;
mod facts;
mod images;
mod job;
mod parts;
mod rows;

use std::time::Instant;

use anyhow::Context;
use object_store::{Attribute, PutOptions};
use recaption_output::layout::REPORT;
use recaption_store::{Location, StoreError, StoreKind, Stores};

use self::{details::add_details, images::add_images, parts::parts_of, rows::read_rows};
use super::builder::ReportBuilder;
use crate::config::ConfigError;

pub(crate) use self::{
    images::DEFAULT_IMAGE_BYTES,
    job::{ReportJob, ReportTarget},
};

/// What was reported.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ReportSummary {
    /// The output.
    output: String,
    /// The file that was written: a path, or a URL where it is in the output.
    pub(crate) file: String,
    /// Its size.
    bytes: usize,
    /// Captions of the output.
    captions: u64,
    /// Rejects of the output.
    rejects: u64,
    /// Captions in the sample.
    samples: usize,
    /// Those with a thumbnail.
    images: usize,
    /// Seconds.
    seconds: f64,
}

/// Writes the report of an output. Inputs that are gone are no error.
///
/// # Errors
/// Returns an error when the output has no commit record or cannot be read, or the page cannot be written.
pub(crate) async fn report(job: &ReportJob) -> anyhow::Result<ReportSummary> {
    report_over(Stores::new(job.stores), job).await
}

/// As [`report()`], over given stores.
///
/// # Errors
/// As [`report()`].
pub(crate) async fn report_over(mut stores: Stores, job: &ReportJob) -> anyhow::Result<ReportSummary> {
    let began = Instant::now();
    let output = stores.locate(&job.output)?;
    if output.kind == StoreKind::Http {
        let what = "a web server cannot be listed, and the shards of an output are found by listing";
        return Err(ConfigError { origin: output.url(), what: what.to_owned() }.into());
    }
    let found = parts_of(&output).await?;
    let source = facts::source(&job.output, &output, &found).await?;
    let mut builder = ReportBuilder::with_samples(source, job.seed, job.samples);
    read_rows(&output, &found.parts, &mut builder).await?;
    let hints = add_details(&output, &found.parts, &mut builder, job.images).await?;
    if job.images {
        add_images(&mut stores, (job, &output), &hints, &mut builder).await;
    }
    let report = tokio::task::spawn_blocking(move || builder.finish()).await.context("a thumbnail failed")?;
    let html = report.to_html()?;
    let bytes = html.len();
    let file = match &job.target {
        ReportTarget::File(file) => {
            write(file, &html)?;
            file.display().to_string()
        }
        ReportTarget::Output => put(&output.child(REPORT), html).await?,
    };
    Ok(ReportSummary {
        output: output.url(),
        file,
        bytes,
        captions: report.statistics.captions,
        rejects: report.statistics.rejects(),
        samples: report.captions.len(),
        images: report.captions.iter().filter(|sampled| sampled.has_image()).count(),
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Puts the page into a store, where it replaces an older one whole. Returns its URL.
async fn put(location: &Location, html: String) -> anyhow::Result<String> {
    let mut options = PutOptions::default();
    // Files have no attributes.
    if location.kind != StoreKind::Local {
        options.attributes.insert(Attribute::ContentType, "text/html; charset=utf-8".into());
    }
    let put = location.store.put_opts(&location.path, html.into_bytes().into(), options).await;
    let failed = |source| StoreError::Store { url: location.url(), source };
    put.map_err(failed).context("cannot write the report")?;
    Ok(location.url())
}

/// Writes the file under another name first, so that an older report stays whole until it is replaced.
fn write(file: &std::path::Path, html: &str) -> anyhow::Result<()> {
    let failed = || format!("cannot write the report {}", file.display());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let staged = file.with_file_name(name);
    let written = std::fs::write(&staged, html).and_then(|()| std::fs::rename(&staged, file));
    if written.is_err() {
        // The error is that of writing.
        let _ = std::fs::remove_file(&staged);
    }
    written.with_context(failed)
}

impl std::fmt::Display for ReportSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "output    {}", self.output)?;
        writeln!(f, "rows      {} captions, {} rejects", self.captions, self.rejects)?;
        writeln!(f, "sample    {} captions, {} with an image", self.samples, self.images)?;
        writeln!(f, "report    {} ({:.1} MB) in {:.1} s", self.file, self.bytes as f64 / 1e6, self.seconds)
    }
}
