//! `ShardRef -> Sample`: streams one shard and hands on its samples. A shard is never in memory.
//!
//! Async, on tokio; parsing a chunk blocks for microseconds, Parquet is decoded on blocking threads. Bounded by the channel's
//! capacity and by the byte budget that every sample draws on until its bytes are dropped. What cannot become a sample
//! becomes a reject here; a broken tail is one reject. Nothing is dropped.
//!
//! | file | what |
//! |---|---|
//! | `format` | what a shard is |
//! | `open`, `unpack` | its bytes in order, unpacked |
//! | `archive` (with [`crate::tar`], [`crate::webdataset`]) | members -> samples |
//! | `folder` (with `metadata`) | image files and their sidecars -> samples |
//! | `table` | rows of Parquet -> samples |
//! | `list` (with [`crate::fetch`]) | addresses -> samples |
//! | `split` | a long list -> parts, before anything is read |

mod archive;
mod folder;
mod format;
mod list;
mod metadata;
mod open;
mod sniff;
mod split;
mod table;
mod tally;
mod unpack;

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use recaption_messages::{
    ByteBudget, Closed, PreviousRows, ReadCounters, ReadError, ReadSink, ReadStop, RetryDecision, Sample,
    SampleResult, ShardContents,
};
use recaption_schemas::{FailureClass, InputCounts, OriginalCaption, Reject, RejectReason, redact_text};
use recaption_store::{ErrorKind, user_message};

use crate::{
    fetch::Fetcher,
    shards::{CONTENT_TAG, ShardRef, content},
    tar::{BLOCK_BYTES, TarLimits},
    told::CaptionPicker,
};

pub(crate) use folder::looks_like_image;
pub(crate) use format::is_parquet_name;
pub use format::{InputFormat, ListKind, is_image_name, is_list_name, is_shard_name};
pub use metadata::{MetadataCache, MetadataKind};
pub use split::{LISTS, ROWS_PER_SHARD, Split, Splitter, StalePart};
pub use tally::Announced;
use tally::Tally;

/// How shards are read.
#[derive(Clone, Debug)]
pub struct ReadSettings {
    /// What is told of their format.
    pub format: InputFormat,
    /// Archive limits; the largest member is also the largest image of other formats.
    pub tar: TarLimits,
    /// Names of columns, where rows are read.
    pub columns: Columns,
    /// Fetches what lists name; without it they cannot be read.
    pub fetcher: Option<Fetcher>,
    /// Rows of a list that make one shard, where lists are split; 0 splits none.
    pub rows_per_shard: u64,
    /// Which of several captions of a sample is taken.
    pub captions: CaptionPicker,
    /// Which of several images of a webdataset sample is captioned: suffixes, the best first, before the usual order.
    pub image_suffixes: Vec<String>,
    /// What was said of the inputs.
    pub announced: Announced,
    /// Metadata files of image folders that were read.
    pub metadata: MetadataCache,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self {
            format: InputFormat::default(),
            tar: TarLimits::default(),
            columns: Columns::default(),
            fetcher: None,
            rows_per_shard: ROWS_PER_SHARD,
            captions: CaptionPicker::default(),
            image_suffixes: Vec::new(),
            announced: Announced::default(),
            metadata: MetadataCache::default(),
        }
    }
}

/// Names of columns; those that are not told are looked for by their usual names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Image bytes.
    pub image: Option<String>,
    /// What the input says.
    pub caption: Option<String>,
    /// Where the image comes from.
    pub url: Option<String>,
    /// Key.
    pub key: Option<String>,
}

/// A shard to read, and what reading needs.
pub struct ReadRequest<'a> {
    /// Number of the shard within the run.
    pub number: usize,
    /// The shard.
    pub shard: &'a ShardRef,
    /// How shards are read.
    pub settings: &'a ReadSettings,
    /// Bound on the image bytes in flight.
    pub budget: &'a ByteBudget,
    /// Counts bytes and samples as they arrive.
    pub counters: &'a ReadCounters,
    /// Rows of an earlier run, in a retry: only samples that are processed again are then sent on.
    pub previous: Option<PreviousRows>,
    /// Takes what is found.
    pub sink: &'a ReadSink,
}

/// What reading a shard needs beside the shard.
#[derive(Clone, Copy)]
struct Reading<'a> {
    number: usize,
    shard: &'a ShardRef,
    settings: &'a ReadSettings,
    budget: &'a ByteBudget,
    bytes_read: &'a AtomicU64,
    samples_read: &'a AtomicU64,
    previous: Option<&'a Mutex<PreviousRows>>,
    tally: &'a Tally,
    sink: &'a ReadSink,
}

impl Reading<'_> {
    /// An error of this shard. Web servers' errors quote the URL, whose secrets are removed.
    fn error(&self, what: &str, class: FailureClass) -> ReadError {
        ReadError { url: self.shard.url.clone(), what: redact_text(what), class, is_retryable: false }
    }

    fn transport(&self, error: &object_store::Error) -> ReadError {
        if matches!(error, object_store::Error::NotFound { .. }) {
            return self.error(&user_message(error), FailureClass::Missing);
        }
        let is_retryable = ErrorKind::of(error).is_retryable();
        ReadError { is_retryable, ..self.error(&user_message(error), FailureClass::Transport) }
    }

    fn data(&self, what: &str) -> ReadError {
        self.error(what, FailureClass::Data)
    }

    /// Sends a sample to the decoder, once the budget has room for its bytes.
    async fn send(&self, mut sample: Sample) -> Result<(), Closed> {
        let texts = [
            sample.org_caption.as_ref().map(OriginalCaption::as_str),
            sample.meta.as_deref(),
            sample.url.as_deref(),
        ];
        let bytes = sample.image.len() + texts.into_iter().flatten().map(str::len).sum::<usize>();
        sample.permit = self.budget.acquire(bytes).await;
        self.send_held(sample).await
    }

    /// Sends a sample that holds its share of the budget to the decoder.
    async fn send_held(&self, sample: Sample) -> Result<(), Closed> {
        self.samples_read.fetch_add(1, Relaxed);
        self.sink.send_sample(sample).await
    }

    /// Rejects the sample at `index`.
    async fn reject(&self, index: u64, reject: Reject) -> Result<(), Closed> {
        self.samples_read.fetch_add(1, Relaxed);
        self.sink.send_result(SampleResult::rejected(self.number, index, reject)).await
    }

    /// Returns whether the next sample keeps its row of an earlier run, and reports it if so.
    async fn keep_previous(&self, index: u64, key: &str) -> Result<bool, ReadStop> {
        let Some(previous) = self.previous else { return Ok(false) };
        let decision = previous.lock().unwrap_or_else(PoisonError::into_inner).decide(key);
        match decision {
            Some(RetryDecision::Reprocess) => Ok(false),
            Some(RetryDecision::Keep(outcome)) => {
                self.samples_read.fetch_add(1, Relaxed);
                self.sink.send_result(SampleResult::kept(self.number, index, outcome)).await?;
                Ok(true)
            }
            None => Err(self.data(OTHER_SAMPLES).into()),
        }
    }

    /// Rejects the damaged end of a shard as one sample.
    async fn reject_tail(&self, index: u64, key: String, detail: String) -> Result<(), ReadStop> {
        if self.keep_previous(index, &key).await? {
            return Ok(());
        }
        let reason = RejectReason::DamagedShard;
        let reject = Reject { key, reason, detail, caption: None, similarity: None, org_caption: None };
        Ok(self.reject(index, reject).await?)
    }
}

/// Where a retry's shard does not fit its rows.
const OTHER_SAMPLES: &str =
    "its samples are not those that its rows were made of: replace its rows with `recaption run --overwrite`";

/// Streams a shard and sends everything found to the request's sink.
///
/// # Errors
/// When the shard is missing or unreadable, of no known format, or changed while it was read: rows already sent are then
/// worthless, and the shard must not be committed. When the sink is closed.
pub async fn read_shard(request: ReadRequest<'_>) -> Result<ShardContents, ReadStop> {
    let ReadRequest { number, shard, settings, budget, counters, previous, sink } = request;
    let (previous, tally) = (previous.map(Mutex::new), Tally::default());
    let reading = Reading {
        number,
        shard,
        settings,
        budget,
        bytes_read: &counters.bytes,
        samples_read: &counters.samples,
        previous: previous.as_ref(),
        tally: &tally,
        sink,
    };
    let mut contents = read_any(reading).await?;
    contents.input = tally.counts();
    warn_of_extra_images(reading, &contents.input);
    let fits = previous.as_ref().is_none_or(|p| p.lock().unwrap_or_else(PoisonError::into_inner).is_at_end());
    if fits { Ok(contents) } else { Err(reading.data(OTHER_SAMPLES).into()) }
}

/// Reads what is asked for piece by piece. Where no version of it can be asked for, its content is looked at once more: pieces
/// of two versions are worth nothing.
async fn unmixed(
    reading: Reading<'_>,
    read: impl Future<Output = Result<ShardContents, ReadStop>>,
) -> Result<ShardContents, ReadStop> {
    let end = read.await?;
    let tag = reading.shard.etag.as_deref().and_then(|tag| tag.strip_prefix(CONTENT_TAG));
    let Some(sum) = tag else { return Ok(end) };
    let (_, now) = content(&reading.shard.location).await.map_err(|e| reading.transport(&e))?;
    if now != sum {
        let error = reading.error("it was changed while it was read", FailureClass::Transport);
        return Err(error.into());
    }
    Ok(end)
}

/// One warning for each shard whose samples have several images.
fn warn_of_extra_images(reading: Reading<'_>, input: &InputCounts) {
    if input.extra_images > 0 {
        let first = input.extra_image_names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            shard = reading.shard.url,
            extra_images = input.extra_images,
            first,
            "samples with several images: one of each is captioned, by input.image_suffixes and then by suffix; a folder \
             of these files would caption all"
        );
    }
}

async fn read_any(reading: Reading<'_>) -> Result<ShardContents, ReadStop> {
    let (shard, settings) = (reading.shard, reading.settings);
    if let Some(why) = &shard.missing {
        let class = if shard.absent { FailureClass::Missing } else { FailureClass::Transport };
        return Err(reading.error(why, class).into());
    }
    if shard.files.is_some() {
        return folder::read(reading).await;
    }
    let name = shard.name();
    match settings.format {
        InputFormat::Parquet => unmixed(reading, table::read(reading)).await,
        InputFormat::Auto | InputFormat::UrlList if is_parquet_name(name) => {
            unmixed(reading, table::read(reading)).await
        }
        InputFormat::UrlList | InputFormat::Auto if ListKind::of_name(name).is_some() => {
            let kind = ListKind::of_name(name).unwrap_or(ListKind::Text);
            unmixed(reading, list::read(reading, kind)).await
        }
        InputFormat::UrlList => Err(reading.data(
            "what kind of list it is cannot be told by its name, which ends in none of .csv, .tsv, .jsonl, .txt, .parquet: \
             rename it",
        ).into()),
        InputFormat::Folder => Err(reading.data("it is no folder, which input.format = \"folder\" wants").into()),
        InputFormat::Auto | InputFormat::Webdataset => {
            let Some(first) = open::first(reading).await? else { return archive::read_empty(reading) };
            if settings.format == InputFormat::Auto && first.bytes.starts_with(format::PARQUET_MAGIC) {
                return unmixed(reading, table::read(reading)).await;
            }
            // What is long enough for a header is told by the parser.
            if first.bytes.len() < BLOCK_BYTES
                && let Some(what) = sniff::not_a_tar(&first.bytes)
            {
                return Err(reading.data(&what).into());
            }
            archive::read(reading, first).await
        }
    }
}
