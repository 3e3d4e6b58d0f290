//! Rows of a list -> samples.

use recaption_schemas::{Reject, RejectReason};

use super::{Fetched, Fetcher, ListRow};
use crate::{
    read::{Found, Sample},
    webdataset::{IMAGE_SUFFIXES, Keys},
};

/// Rows as they come, with what was there before.
#[derive(Debug, Default)]
pub struct Rows {
    keys: Keys,
}

impl Rows {
    /// A row to be fetched, or the reject that it is.
    ///
    /// # Errors
    /// The reject of a row that cannot be fetched or whose key was there before.
    pub fn judge(&mut self, row: ListRow) -> Result<(ListRow, String), (u64, Reject)> {
        let duplicate = !self.keys.is_new(&row.key);
        match row.url.clone() {
            Err(why) => Err((row.index, reject(&row, RejectReason::UrlRefused, why))),
            Ok(_) if duplicate => {
                let why = "an earlier sample of this shard has the same key".to_owned();
                Err((row.index, reject(&row, RejectReason::DuplicateKey, why)))
            }
            Ok(url) => Ok((row, url)),
        }
    }
}

fn reject(row: &ListRow, reason: RejectReason, detail: String) -> Reject {
    let org_caption = row.caption.clone();
    Reject { key: row.key.clone(), reason, detail, caption: None, similarity: None, org_caption }
}

/// Fetches a row's image.
pub async fn fetch_row(shard: usize, (row, url): (ListRow, String), fetcher: Fetcher) -> Found {
    let index = row.index;
    match fetcher.fetch(&url).await {
        Ok(fetched) => Found::Sample(Sample {
            shard,
            index,
            suffix: suffix(&fetched, &url),
            image: fetched.bytes,
            key: row.key,
            org_caption: row.caption,
            meta: row.meta,
            url: Some(url),
            held: None,
        }),
        Err(error) => Found::Reject { shard, index, reject: reject(&row, error.reason(), error.to_string()) },
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
