//! The entry point: detects the format of a shard and reads it.

use std::sync::{Mutex, PoisonError};

use recaption_messages::{ReadError, ReadStop, ShardContents};
use recaption_schemas::{FailureClass, InputCounts};

use super::{
    archive,
    context::{DIFFERENT_SAMPLES, ReadContext, ReadRequest},
    counts::SharedCounts,
    folder, list, open, sniff, table,
};
use crate::{
    format::{InputFormat, ListKind, PARQUET_MAGIC, is_parquet_name},
    shards::{LookupError, ShardSource, VersionTag, content_digest},
    tar::BLOCK_BYTES,
};

/// Names of extra images that are logged for a shard.
const MAX_LOGGED_NAMES: usize = 5;

/// Streams a shard and sends its samples and rejects to the request's sink.
///
/// # Errors
/// When the shard is missing or unreadable, of no known format, or changed while it was read: rows already sent are then
/// worthless, and the shard must not be committed. When the sink is closed.
pub async fn read_shard(request: ReadRequest<'_>) -> Result<ShardContents, ReadStop> {
    let ReadRequest { number, shard, settings, budget, counters, previous, sink } = request;
    let (previous, counts) = (previous.map(Mutex::new), SharedCounts::default());
    let context = ReadContext {
        number,
        shard,
        settings,
        budget,
        bytes_read: &counters.bytes,
        samples_read: &counters.samples,
        clock: &counters.clock,
        previous: previous.as_ref(),
        counts: &counts,
        sink,
    };
    let mut contents = read_any(context).await?;
    contents.input = counts.get();
    warn_of_extra_images(context, &contents.input);
    match &previous {
        Some(rows) if !rows.lock().unwrap_or_else(PoisonError::into_inner).is_at_end() => {
            Err(context.data_error(DIFFERENT_SAMPLES).into())
        }
        _ => Ok(contents),
    }
}

/// Detects the format and reads the shard.
async fn read_any(context: ReadContext<'_>) -> Result<ShardContents, ReadStop> {
    match &context.shard.source {
        ShardSource::Unavailable { error, .. } => Err(unavailable(context, error).into()),
        ShardSource::Folder { files, .. } => folder::read(context, files).await,
        ShardSource::Object(_) | ShardSource::ListPart { .. } => read_object(context).await,
    }
}

/// Returns the error of a shard that could not be looked up.
pub(super) fn unavailable(context: ReadContext<'_>, error: &LookupError) -> ReadError {
    let class = if error.is_missing { FailureClass::Missing } else { FailureClass::Transport };
    context.error(&error.message, class)
}

/// How a shard that is one object is read.
pub(super) enum ObjectFormat {
    /// As Parquet.
    Table,
    /// As a list of URLs in text.
    List(ListKind),
    /// As a tar, compressed or not, unless it begins as Parquet.
    Archive,
}

/// Returns how a shard that is one object is read, by its name and the settings.
///
/// # Errors
/// When the settings do not fit the name.
pub(super) fn object_format(context: ReadContext<'_>) -> Result<ObjectFormat, ReadError> {
    let name = context.shard.name();
    match (context.settings.format, ListKind::of_name(name)) {
        (InputFormat::Parquet, _) => Ok(ObjectFormat::Table),
        (InputFormat::Auto | InputFormat::UrlList, _) if is_parquet_name(name) => Ok(ObjectFormat::Table),
        (InputFormat::Auto | InputFormat::UrlList, Some(kind)) => Ok(ObjectFormat::List(kind)),
        (InputFormat::UrlList, None) => {
            let what = "the kind of list is unknown, since its name ends in none of .csv, .tsv, .jsonl, .txt, .parquet: \
                        rename it";
            Err(context.data_error(what))
        }
        (InputFormat::Folder, _) => {
            let name = context.settings.setting_names.format;
            Err(context.data_error(&format!("it is not a folder, which {name} = \"folder\" requires")))
        }
        (InputFormat::Auto | InputFormat::Webdataset, _) => Ok(ObjectFormat::Archive),
    }
}

async fn read_object(context: ReadContext<'_>) -> Result<ShardContents, ReadStop> {
    match object_format(context)? {
        ObjectFormat::Table => unchanged(context, table::read(context)).await,
        ObjectFormat::List(kind) => unchanged(context, list::read(context, kind)).await,
        ObjectFormat::Archive => read_archive(context).await,
    }
}

/// Reads a tar, or what a shard of unknown name is by its first bytes.
async fn read_archive(context: ReadContext<'_>) -> Result<ShardContents, ReadStop> {
    let Some(start) = open::open_shard(context).await? else { return archive::read_empty(context) };
    if context.settings.format == InputFormat::Auto && start.bytes.starts_with(PARQUET_MAGIC) {
        return unchanged(context, table::read(context)).await;
    }
    check_tar_start(context, &start.bytes)?;
    archive::read(context, start).await
}

/// Rejects what is too short for a tar header and known to be something else; the parser explains what is longer.
pub(super) fn check_tar_start(context: ReadContext<'_>, start: &[u8]) -> Result<(), ReadError> {
    match sniff::not_a_tar(start).filter(|_| start.len() < BLOCK_BYTES) {
        Some(what) => Err(context.data_error(&what)),
        None => Ok(()),
    }
}

/// Reads a shard in several requests, and checks that all saw the same version. Requests cannot depend on a version that is
/// known by its content only, so that the content is read once more.
async fn unchanged(
    context: ReadContext<'_>,
    read: impl Future<Output = Result<ShardContents, ReadStop>>,
) -> Result<ShardContents, ReadStop> {
    let contents = read.await?;
    if let Some(VersionTag::Content(expected)) = context.shard.version().map(|version| &version.tag) {
        let (_, sha256) =
            content_digest(&context.shard.location).await.map_err(|e| context.store_error(&e))?;
        if sha256 != *expected {
            return Err(context.error("it changed while it was read", FailureClass::Transport).into());
        }
    }
    Ok(contents)
}

/// Logs a warning if samples of a shard have several images.
fn warn_of_extra_images(context: ReadContext<'_>, input: &InputCounts) {
    if input.extra_images > 0 {
        let names = input.extra_image_names.iter().take(MAX_LOGGED_NAMES);
        let first = names.map(String::as_str).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            shard = context.shard.url,
            extra_images = input.extra_images,
            first,
            setting = context.settings.setting_names.image_suffixes,
            "samples with several images: captioning one image of each, chosen by that setting and then by suffix; a folder of \
             these files would caption all"
        );
    }
}
