//! Rows of a list -> samples.

use recaption_schemas::{OriginalCaption, Reject, RejectReason};

use super::{Fetched, Fetcher, ListRow};
use crate::{
    label::{DUPLICATE_KEY, Labelled},
    webdataset::IMAGE_SUFFIXES,
};
use recaption_messages::Sample;

/// A row whose image is to be fetched.
pub struct FetchRow {
    /// Position in the shard.
    pub index: u64,
    /// Its key.
    pub key: String,
    /// Where the image is.
    pub url: String,
    /// What the list says.
    pub caption: Option<OriginalCaption>,
    /// Everything else of the row, a JSON object.
    pub meta: Option<String>,
}

impl FetchRow {
    /// A row to be fetched, or the reject that it is.
    ///
    /// # Errors
    /// The reject of a row that cannot be fetched or whose key was there before.
    pub fn of(
        row: ListRow,
        labelled: Labelled,
        caption: Option<OriginalCaption>,
    ) -> Result<Self, Box<Reject>> {
        let Labelled { key, duplicate } = labelled;
        let refused = match (&row.url, duplicate) {
            (Err(why), _) => Some((RejectReason::UrlRefused, why.clone())),
            (Ok(_), true) => Some((RejectReason::DuplicateKey, DUPLICATE_KEY.to_owned())),
            (Ok(_), false) => None,
        };
        match (refused, row.url) {
            (Some((reason, detail)), _) => Err(Box::new(reject(key, reason, detail, caption))),
            (None, url) => {
                Ok(Self { index: row.index, key, url: url.unwrap_or_default(), caption, meta: row.meta })
            }
        }
    }
}

fn reject(key: String, reason: RejectReason, detail: String, caption: Option<OriginalCaption>) -> Reject {
    Reject { key, reason, detail, caption: None, similarity: None, org_caption: caption.map(String::from) }
}

/// A fetched sample, or the position and the reject of a row whose image cannot be fetched.
pub type FetchResult = Result<Sample, (u64, Box<Reject>)>;

/// Fetches a row's image.
pub async fn fetch_row(shard: usize, row: FetchRow, fetcher: Fetcher) -> FetchResult {
    let FetchRow { index, key, url, caption, meta } = row;
    match fetcher.fetch(&url).await {
        Ok(fetched) => Ok(Sample {
            shard,
            index,
            suffix: suffix(&fetched, &url),
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

/// By the server's word where it is one for an image, else by the address.
fn suffix(fetched: &Fetched, url: &str) -> String {
    let told = fetched.content_type.as_deref().and_then(|kind| match kind.strip_prefix("image/")? {
        "jpeg" | "jpg" | "pjpeg" => Some("jpg"),
        "png" | "x-png" => Some("png"),
        "webp" => Some("webp"),
        "gif" => Some("gif"),
        "bmp" | "x-ms-bmp" => Some("bmp"),
        "tiff" => Some("tiff"),
        _ => None,
    });
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let named = path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, s)| s.to_lowercase());
    let named = named.filter(|suffix| IMAGE_SUFFIXES.contains(&suffix.as_str()));
    told.map(str::to_owned).or(named).unwrap_or_default()
}
