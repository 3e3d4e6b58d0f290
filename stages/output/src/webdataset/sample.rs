//! One sample as the members of a tar.

use bytes::Bytes;
use serde::Serialize;

use super::key::image_suffix;
use crate::caption_rows::CaptionRows;

/// Bytes of a tar block.
pub(super) const BLOCK_BYTES: usize = 512;
/// Members of every sample: image, text, JSON.
pub(super) const MEMBERS: usize = 3;

/// A sample to be written.
#[derive(Clone, Copy, Debug)]
pub struct WebdatasetSample<'a> {
    /// Key in the dataset, from [`super::sample_key`].
    pub key: &'a str,
    /// The stored image.
    pub image: &'a Bytes,
    /// Content of the `.txt` member.
    pub text: &'a str,
    /// The rows of its batch.
    pub rows: &'a CaptionRows,
    /// Its row.
    pub row: usize,
}

/// The `.json` member. All entries are always present, so that readers infer one type; but `itm` and `org_itm` where the scorer
/// matches captions and original captions, then of every sample that has one.
#[derive(Serialize)]
struct SampleJson<'a> {
    key: &'a str,
    shard: &'a str,
    caption: &'a str,
    similarity: f32,
    org_caption: Option<&'a str>,
    org_similarity: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    itm: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_itm: Option<f32>,
    text: &'a str,
    width: i32,
    height: i32,
    sha256: &'a str,
    url: Option<&'a str>,
    meta: Option<&'a str>,
}

impl WebdatasetSample<'_> {
    /// Returns the members of the sample as the bytes of a tar.
    pub(super) fn members(&self) -> std::io::Result<Vec<Bytes>> {
        let (rows, row) = (self.rows, self.row);
        let json = SampleJson {
            key: rows.key(row),
            shard: rows.shard(row),
            caption: rows.caption(row),
            similarity: rows.similarity(row),
            org_caption: rows.org_caption(row),
            org_similarity: rows.org_similarity(row),
            itm: rows.itm(row),
            org_itm: rows.org_itm(row),
            text: self.text,
            width: rows.width(row),
            height: rows.height(row),
            sha256: rows.sha256(row),
            url: rows.url(row),
            meta: rows.meta(row),
        };
        let mut chunks = Vec::with_capacity(2 * MEMBERS + 1);
        let image_name = format!("{}.{}", self.key, image_suffix(self.image));
        chunks.push(header(&image_name, self.image.len())?.into());
        chunks.push(self.image.clone());
        let mut rest = padding(self.image.len());
        for (suffix, content) in
            [("txt", self.text.as_bytes().to_vec()), ("json", serde_json::to_vec(&json)?)]
        {
            rest.extend(header(&format!("{}.{suffix}", self.key), content.len())?);
            rest.extend(&content);
            rest.extend(padding(content.len()));
        }
        chunks.push(rest.into());
        Ok(chunks)
    }
}

/// Returns a header that depends on name and size alone.
fn header(name: &str, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes as u64);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

/// Returns the zeros that fill the last block.
fn padding(bytes: usize) -> Vec<u8> {
    vec![0; bytes.next_multiple_of(BLOCK_BYTES) - bytes]
}
