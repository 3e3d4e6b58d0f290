//! Rows and images -> webdataset: for every sample its stored image, `.txt` and `.json`, in a tar of deterministic bytes.
//!
//! The JSON has both captions as `caption` and `org_caption`, between which open_clip's `--json-text-key` and
//! `--json-text-key-probs` choose. Keys are distinct over all shards of a dataset, and safe as names: they derive from the shard's
//! name and the sample's key, which is data.

mod key;
mod reader;
mod sample;
mod writer;

pub use key::{image_suffix, safe_key, sample_key};
pub use reader::WebdatasetReader;
pub use sample::WebdatasetSample;
pub use writer::WebdatasetWriter;

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use bytes::Bytes;
    use recaption_schemas::{
        AddedColumns, Candidate, Candidates, CaptionRow, CaptionTable, EmbeddedImage, Similarity,
        caption_schema,
    };
    use recaption_store::{Location, Stores};

    use super::{WebdatasetReader, WebdatasetSample, WebdatasetWriter, sample_key};
    use crate::{CaptionRows, object_writer::PartTarget};

    fn rows(images: &[usize]) -> CaptionRows {
        let schema =
            Arc::new(caption_schema(AddedColumns { image: true, ..AddedColumns::default() }, HashMap::new()));
        let mut table = CaptionTable::new(schema, "s3://b/0.tar".into());
        for (n, bytes) in images.iter().enumerate() {
            let similarity = Similarity::new(0.3).expect("finite");
            let candidate = Candidate { text: format!("caption {n}"), similarity, logprob: -1.0, itm: None };
            table.push(&CaptionRow {
                key: format!("{n}/x"),
                candidates: Candidates::new(vec![candidate]).expect("one"),
                org_caption: None,
                org_similarity: None,
                org_itm: None,
                width: 1,
                height: 1,
                sha256: String::new(),
                url: None,
                meta: None,
                image: Some(EmbeddedImage { bytes: vec![n as u8; *bytes], path: String::new() }),
            });
        }
        CaptionRows::of(&table.finish().expect("rows")).expect("columns")
    }

    async fn push(writer: &mut WebdatasetWriter, rows: &CaptionRows, row: usize) {
        let (key, image) = (sample_key("0-x", rows.key(row)), rows.image(row).expect("an image"));
        let sample = WebdatasetSample { key: &key, image: &image, text: rows.caption(row), rows, row };
        writer.push(&sample).await.expect("written");
    }

    fn writer(output: &Location) -> WebdatasetWriter {
        WebdatasetWriter::new(PartTarget { output, table: "webdataset", shard: "0-x", fingerprint: "f" })
    }

    #[tokio::test]
    async fn copied_samples_are_those_that_were_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Stores::default().locate(&folder.path().to_string_lossy()).expect("a path");
        // Sizes on both sides of a block, and a part above what one request holds.
        let rows = rows(&[0, 1, 511, 512, 513, 17 << 20]);
        let mut whole = writer(&output);
        for row in 0..rows.rows() {
            push(&mut whole, &rows, row).await;
        }
        let whole = whole.finish().await.expect("written").info();
        let mut earlier = WebdatasetReader::open(&output, &whole).await.expect("a part");
        let mut copy = writer(&output);
        copy.copy(&mut earlier, 6).await.expect("read").expect("written");
        let copy = copy.finish().await.expect("written").info();
        assert_eq!((copy.sha256, copy.rows, copy.bytes), (whole.sha256.clone(), 6, whole.bytes));
        assert!(writer(&output).copy(&mut earlier, 1).await.is_err(), "there is no seventh sample");

        // New samples stand between those that stay.
        let mut first = writer(&output);
        for row in [0, 2, 3] {
            push(&mut first, &rows, row).await;
        }
        let first = first.finish().await.expect("written").info();
        let (mut earlier, mut retried) =
            (WebdatasetReader::open(&output, &first).await.expect("a part"), writer(&output));
        retried.copy(&mut earlier, 1).await.expect("read").expect("written");
        push(&mut retried, &rows, 1).await;
        retried.copy(&mut earlier, 2).await.expect("read").expect("written");
        for row in [4, 5] {
            push(&mut retried, &rows, row).await;
        }
        let retried = retried.finish().await.expect("written").info();
        assert_eq!(retried.sha256, whole.sha256);
    }

    #[test]
    fn headers_are_those_of_a_plain_ustar() {
        let rows = rows(&[3]);
        let image = Bytes::from_static(&[0xFF, 0xD8, 0xFF]);
        let sample = WebdatasetSample { key: "shard/key", image: &image, text: "text", rows: &rows, row: 0 };
        let bytes: Vec<u8> = sample.members().expect("members").concat();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names = archive.entries().expect("entries").map(|entry| {
            let entry = entry.expect("an entry");
            assert_eq!((entry.header().mtime().ok(), entry.header().mode().ok()), (Some(0), Some(0o644)));
            entry.path().expect("a path").display().to_string()
        });
        assert_eq!(names.collect::<Vec<_>>(), ["shard/key.jpg", "shard/key.txt", "shard/key.json"]);
    }
}
