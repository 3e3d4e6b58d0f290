//! Image files and their sidecars -> samples. A folder that directly holds images is one shard; its files, sorted by name,
//! are what the members of a tar are.
//!
//! `metadata.jsonl` (Hugging Face's imagefolder) tells of files by `file_name`: its text is the caption where the image has
//! no sidecar, its line the sample's JSON.

use std::{collections::HashMap, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::{GetOptions, ObjectMeta};
use serde_json::Value;

use super::{ReadError, Reading, ShardEnd, archive::Samples};
use crate::{
    store::StoreKind,
    tar::{Member, MemberData, MemberKind},
    webdataset::{RawSample, Tail},
};

/// Name of the file that tells of the others.
pub const METADATA_FILE: &str = "metadata.jsonl";
/// Files asked for at the same time.
const PREFETCH: usize = 8;
/// Largest metadata file, bytes: it is held in memory.
const MAX_METADATA_BYTES: u64 = 256 << 20;
/// Keys of a metadata line that hold the caption, the best first.
const CAPTION_KEYS: [&str; 4] = ["text", "caption", "TEXT", "alt_text"];

/// What the metadata file says of one image.
struct Line {
    caption: Option<String>,
    json: String,
}

/// Reads a folder's files.
pub async fn read(reading: Reading<'_>) -> Result<Option<ShardEnd>, ReadError> {
    let files = reading.shard.files.clone().unwrap_or_default();
    let mut lines = HashMap::new();
    if let Some(meta) = files.iter().find(|meta| meta.location.filename() == Some(METADATA_FILE)) {
        if meta.size > MAX_METADATA_BYTES {
            let what = format!("{METADATA_FILE} has {} bytes, more than {MAX_METADATA_BYTES}", meta.size);
            return Err(reading.data(&what));
        }
        lines = parse(&get(reading, meta).await?).map_err(|e| reading.data(&e))?;
    }
    let mut samples = Samples::new(reading);
    let rest: Vec<ObjectMeta> =
        files.iter().filter(|meta| meta.location.filename() != Some(METADATA_FILE)).cloned().collect();
    let mut members = stream::iter(rest).map(|meta| member(reading, meta)).buffered(PREFETCH);
    // What the metadata says of the open sample.
    let mut told: Option<Line> = None;
    while let Some(member) = members.next().await {
        let member = member?;
        let line = lines.remove(&member.name);
        if let Some(mut raw) = samples.assembler.push(member) {
            tell(&mut raw, told.take());
            if !samples.emit(raw).await? {
                return Ok(None);
            }
        }
        told = told.or(line);
    }
    if let Some(mut raw) = samples.assembler.finish(Tail::Whole) {
        tell(&mut raw, told);
        if !samples.emit(raw).await? {
            return Ok(None);
        }
    }
    let ignored = samples.assembler.ignored().total();
    Ok(Some(ShardEnd::whole(samples.emitted, ignored)))
}

/// A file as a member of an archive would be.
async fn member(reading: Reading<'_>, meta: ObjectMeta) -> Result<Member, ReadError> {
    let data = if meta.size > reading.settings.tar.max_member_bytes {
        MemberData::TooLarge { size: meta.size }
    } else {
        MemberData::Bytes(get(reading, &meta).await?)
    };
    let name = meta.location.filename().unwrap_or_default().to_owned();
    Ok(Member { name, offset: 0, size: meta.size, kind: MemberKind::File(data) })
}

/// Adds to a sample what its sidecars do not say.
fn tell(raw: &mut RawSample, line: Option<Line>) {
    let Some(line) = line else { return };
    if raw.caption.is_none() {
        raw.caption = line.caption;
    }
    if raw.json.is_none() {
        raw.json = Some(line.json);
    }
}

async fn get(reading: Reading<'_>, meta: &ObjectMeta) -> Result<Bytes, ReadError> {
    let location = &reading.shard.location;
    let etag = if location.kind == StoreKind::Http { None } else { meta.e_tag.clone() };
    let got = location.store.get_opts(&meta.location, GetOptions::new().with_if_match(etag)).await;
    let bytes = match got {
        Ok(got) => got.bytes().await,
        Err(error) => Err(error),
    };
    let bytes = bytes.map_err(|e| reading.transport(&e))?;
    reading.bytes_read.fetch_add(bytes.len() as u64, Relaxed);
    Ok(bytes)
}

/// Lines by `file_name`.
fn parse(bytes: &[u8]) -> Result<HashMap<String, Line>, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("{METADATA_FILE} is not UTF-8: {e}"))?;
    let mut lines = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let failed = |what: &str| format!("{METADATA_FILE}, line {}: {what}", number + 1);
        let value: Value = serde_json::from_str(line).map_err(|e| failed(&e.to_string()))?;
        let Some(name) = value.get("file_name").and_then(Value::as_str) else {
            return Err(failed("no `file_name`"));
        };
        let caption = CAPTION_KEYS.iter().find_map(|key| value.get(*key)?.as_str()).map(str::to_owned);
        // Of a file in a folder below only that folder's own metadata tells.
        lines.insert(name.trim_start_matches("./").to_owned(), Line { caption, json: line.to_owned() });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_found_by_file_name_and_mistakes_by_line() {
        let lines = parse(
            b"{\"file_name\": \"a.png\", \"text\": \"a cat\"}\n\n{\"file_name\": \"./b.png\", \"n\": 1}\n",
        );
        let lines = lines.expect("metadata");
        assert_eq!(lines["a.png"].caption.as_deref(), Some("a cat"));
        assert_eq!(lines["b.png"].json, "{\"file_name\": \"./b.png\", \"n\": 1}");
        for (text, word) in [("{", "line 1"), ("{}\n", "`file_name`"), ("{\"file_name\": 1}", "`file_name`")]
        {
            let error = parse(text.as_bytes()).err().expect(text);
            assert!(error.contains(word), "{error}");
        }
        let deep = format!("{{\"file_name\": \"a\", \"x\": {}1{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(parse(deep.as_bytes()).err().expect("too deep").contains("recursion limit"));
    }
}
