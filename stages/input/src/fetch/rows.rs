//! Rows of a list -> samples.

use recaption_messages::Sample;
use recaption_schemas::{OriginalCaption, Reject, RejectReason};

use super::{Fetched, Fetcher};
use crate::{
    keys::{AssignedKey, DUPLICATE_KEY},
    lists::ListRow,
    webdataset::IMAGE_SUFFIXES,
};

/// A row whose image is to be fetched.
#[derive(Debug)]
pub(crate) struct FetchRow {
    /// Position in the shard.
    pub(crate) index: u64,
    /// Key.
    pub(crate) key: String,
    /// URL of the image.
    pub(crate) url: String,
    /// Original caption of the list.
    pub(crate) caption: Option<OriginalCaption>,
    /// The other columns, as a JSON object.
    pub(crate) meta: Option<String>,
}

impl FetchRow {
    /// Validates a row of a list.
    ///
    /// # Errors
    /// The reject of a malformed row, or of one whose declared key is a duplicate.
    pub(crate) fn new(
        row: ListRow,
        AssignedKey { key, is_duplicate }: AssignedKey,
        caption: Option<OriginalCaption>,
    ) -> Result<Self, Box<Reject>> {
        let reject = |key, reason, detail, caption| Err(Box::new(reject(key, reason, detail, caption)));
        match row.url {
            Err(why) => reject(key, RejectReason::UrlRefused, why, caption),
            Ok(_) if is_duplicate => {
                reject(key, RejectReason::DuplicateKey, DUPLICATE_KEY.to_owned(), caption)
            }
            Ok(url) => Ok(Self { index: row.index, key, url, caption, meta: row.meta }),
        }
    }
}

fn reject(key: String, reason: RejectReason, detail: String, caption: Option<OriginalCaption>) -> Reject {
    Reject::new(key, reason, detail).with_org_caption(caption)
}

/// A fetched sample, or the position and the reject of a row whose image cannot be fetched.
pub(crate) type FetchResult = Result<Sample, (u64, Box<Reject>)>;

/// Fetches the image of a row of shard number `shard`.
///
/// # Errors
/// The reject of a row whose image cannot be fetched.
pub(crate) async fn fetch_row(shard: usize, row: FetchRow, fetcher: Fetcher) -> FetchResult {
    let FetchRow { index, key, url, caption, meta } = row;
    match fetcher.fetch(&url).await {
        Ok(fetched) => Ok(Sample {
            shard,
            index,
            suffix: image_suffix(&fetched, &url),
            image: fetched.bytes,
            key,
            org_caption: caption,
            meta,
            url: Some(url),
            permit: None,
        }),
        Err(error) => Err((index, Box::new(reject(key, error.reason(), error.to_string(), caption)))),
    }
}

/// Returns the suffix of an image: by its content type, or else by its URL; empty if neither shows one.
fn image_suffix(fetched: &Fetched, url: &str) -> String {
    let by_type = fetched.content_type.as_deref().and_then(|kind| match kind.strip_prefix("image/")? {
        "jpeg" | "jpg" | "pjpeg" => Some("jpg"),
        "png" | "x-png" => Some("png"),
        "webp" => Some("webp"),
        "gif" => Some("gif"),
        "bmp" | "x-ms-bmp" => Some("bmp"),
        "tiff" => Some("tiff"),
        _ => None,
    });
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let by_url =
        path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, s)| s.to_lowercase());
    let by_url = by_url.filter(|suffix| IMAGE_SUFFIXES.contains(&suffix.as_str()));
    by_type.map(str::to_owned).or(by_url).unwrap_or_default()
}
