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

use std::sync::{Mutex, PoisonError, atomic::AtomicU64};

use recaption_messages::{ByteBudget, PreviousRows, ReadItem, RetryDecision, Sample, ShardContents};
use recaption_schemas::{FailureClass, InputCounts, OriginalCaption, Reject, RejectReason, redact_text};
use recaption_store::{ErrorKind, user_message};
use tokio::sync::mpsc;

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

/// Why a shard could not be read.
#[derive(Debug, thiserror::Error)]
#[error("shard {url}: {what}")]
pub struct ReadError {
    /// The shard, redacted.
    pub url: String,
    /// What happened.
    pub what: String,
    /// Data or transport.
    pub class: FailureClass,
    /// Whether another attempt, now, may go better.
    pub is_retryable: bool,
}

/// What reading a shard needs beside the shard.
#[derive(Clone, Copy)]
struct Reading<'a> {
    number: usize,
    shard: &'a ShardRef,
    settings: &'a ReadSettings,
    budget: &'a ByteBudget,
    bytes_read: &'a AtomicU64,
    former: Option<&'a Mutex<PreviousRows>>,
    tally: &'a Tally,
    to: &'a mpsc::Sender<ReadItem>,
}

/// Whether a sample stays as an earlier run left it.
enum Stays {
    /// It does not, or there was no earlier run.
    No,
    /// It does, and that was told; to nobody, when `false`.
    Told(bool),
}

impl Reading<'_> {
    /// Errors of web servers quote the address, with its secrets.
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

    /// Hands a sample on, once there is room for its bytes; `false` when nobody takes it.
    async fn send(&self, mut sample: Sample) -> bool {
        let texts = [
            sample.org_caption.as_ref().map(OriginalCaption::as_str),
            sample.meta.as_deref(),
            sample.url.as_deref(),
        ];
        let bytes = sample.image.len() + texts.into_iter().flatten().map(str::len).sum::<usize>();
        sample.permit = self.budget.acquire(bytes).await;
        self.to.send(ReadItem::Sample(sample)).await.is_ok()
    }

    /// Hands a reject on; `false` when nobody takes it.
    async fn reject(&self, index: u64, reject: Reject) -> bool {
        self.to.send(ReadItem::Reject { shard: self.number, index, reject }).await.is_ok()
    }

    /// Asks the earlier rows about the next sample.
    async fn stays(&self, index: u64, key: &str) -> Result<Stays, ReadError> {
        let Some(former) = self.former else { return Ok(Stays::No) };
        let verdict = former.lock().unwrap_or_else(PoisonError::into_inner).decide(key);
        match verdict {
            Some(RetryDecision::Reprocess) => Ok(Stays::No),
            Some(RetryDecision::Keep(was)) => {
                let kept = ReadItem::Kept { shard: self.number, index, previous: was };
                Ok(Stays::Told(self.to.send(kept).await.is_ok()))
            }
            None => Err(self.data(OTHER_SAMPLES)),
        }
    }

    /// The one reject of a broken tail; `false` when nobody takes it.
    async fn reject_tail(&self, index: u64, key: String, detail: String) -> Result<bool, ReadError> {
        if let Stays::Told(taken) = self.stays(index, &key).await? {
            return Ok(taken);
        }
        let reason = RejectReason::DamagedShard;
        let reject = Reject::new(key, reason, detail);
        Ok(self.reject(index, reject).await)
    }
}

/// Where a retry's shard does not fit its rows.
const OTHER_SAMPLES: &str =
    "its samples are not those that its rows were made of: replace its rows with `recaption run --overwrite`";

/// Streams `shard`, the run's shard `number`, and sends everything found; a closed channel stops the reading, and `None`
/// comes back. Adds the bytes that arrive to `bytes_read`. With the rows of an earlier run, in `former`, only samples that are
/// to be done again are read out, and of the others it is told that they stay.
///
/// # Errors
/// When the shard is missing or unreadable, is nothing that can be read, or changed while it was read. Rows already sent are
/// then worth nothing: the shard is not committed.
pub async fn read_shard(
    number: usize,
    shard: &ShardRef,
    settings: &ReadSettings,
    budget: &ByteBudget,
    bytes_read: &AtomicU64,
    former: Option<PreviousRows>,
    to: &mpsc::Sender<ReadItem>,
) -> Result<Option<ShardContents>, ReadError> {
    let (former, tally) = (former.map(Mutex::new), Tally::default());
    let reading =
        Reading { number, shard, settings, budget, bytes_read, former: former.as_ref(), tally: &tally, to };
    let mut end = read_any(reading).await?;
    if let Some(end) = &mut end {
        end.input = tally.counts();
        tell_extra_images(reading, &end.input);
    }
    let fits = former.as_ref().is_none_or(|f| f.lock().unwrap_or_else(PoisonError::into_inner).is_at_end());
    if end.is_some() && !fits { Err(reading.data(OTHER_SAMPLES)) } else { Ok(end) }
}

/// Reads what is asked for piece by piece. Where no version of it can be asked for, its content is looked at once more: pieces
/// of two versions are worth nothing.
async fn unmixed(
    reading: Reading<'_>,
    read: impl Future<Output = Result<Option<ShardContents>, ReadError>>,
) -> Result<Option<ShardContents>, ReadError> {
    let end = read.await?;
    let tag = reading.shard.etag.as_deref().and_then(|tag| tag.strip_prefix(CONTENT_TAG));
    let Some(sum) = tag.filter(|_| end.is_some()) else { return Ok(end) };
    let (_, now) = content(&reading.shard.location).await.map_err(|e| reading.transport(&e))?;
    if now != sum {
        let error = reading.error("it was changed while it was read", FailureClass::Transport);
        return Err(error);
    }
    Ok(end)
}

/// One warning for each shard whose samples have several images.
fn tell_extra_images(reading: Reading<'_>, input: &InputCounts) {
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

async fn read_any(reading: Reading<'_>) -> Result<Option<ShardContents>, ReadError> {
    let (shard, settings) = (reading.shard, reading.settings);
    if let Some(why) = &shard.missing {
        let class = if shard.absent { FailureClass::Missing } else { FailureClass::Transport };
        return Err(reading.error(why, class));
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
        )),
        InputFormat::Folder => Err(reading.data("it is no folder, which input.format = \"folder\" wants")),
        InputFormat::Auto | InputFormat::Webdataset => {
            let Some(first) = open::first(reading).await? else { return archive::read_empty(reading) };
            if settings.format == InputFormat::Auto && first.bytes.starts_with(format::PARQUET_MAGIC) {
                return unmixed(reading, table::read(reading)).await;
            }
            // What is long enough for a header is told by the parser.
            if first.bytes.len() < BLOCK_BYTES
                && let Some(what) = sniff::not_a_tar(&first.bytes)
            {
                return Err(reading.data(&what));
            }
            archive::read(reading, first).await
        }
    }
}
