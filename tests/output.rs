//! What lands on disk: the schema that trainers load, and the switches that change rows.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{collections::HashMap, fs::File, path::Path};

use image::{DynamicImage, ImageFormat, RgbImage};
use parquet::{
    arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    basic::Compression,
    file::metadata::{ParquetMetaData, RowGroupMetaData},
};
use recaption_schemas::sha256_hex;
use serde_json::{Value, json};
use support::{
    Dice, Place, model,
    output::{self, parts},
    shards::{Pack, SEED, jpeg},
};

/// Columns as Arrow sees them: name, type, and a question mark where a value may be missing. And the file's metadata.
fn schema(part: &Path) -> (Vec<String>, HashMap<String, String>) {
    let file = File::open(part).expect("a part can be opened");
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("a part is Parquet");
    let schema = builder.schema();
    let mark = |nullable: bool| if nullable { "?" } else { "" };
    let describe = schema
        .fields()
        .iter()
        .map(|field| format!("{} {}{}", field.name(), field.data_type(), mark(field.is_nullable())))
        .collect();
    (describe, schema.metadata().clone().into())
}

fn metadata(part: &Path) -> ParquetMetaData {
    let file = File::open(part).expect("a part can be opened");
    ParquetRecordBatchReaderBuilder::try_new(file).expect("a part is Parquet").metadata().as_ref().clone()
}

#[test]
fn columns_match_the_documented_schema() {
    let place = Place::new();
    let input = place.draw("in", 1, 3);
    place.run(&input, "out").ends(0);
    let [captions, rejects] = parts(&place.path("out")).try_into().expect("two parts");
    let (columns, about) = schema(&captions);
    let list = "List(non-null Struct(\"text\": non-null Utf8, \"similarity\": non-null Float32, \"logprob\": non-null Float32))";
    let wanted = [
        "key Utf8",
        "shard Utf8",
        "caption Utf8",
        "similarity Float32",
        "org_caption Utf8?",
        "org_similarity Float32?",
        &format!("candidates {list}"),
        "itm Float32?",
        "width Int32",
        "height Int32",
        "sha256 Utf8",
        "url Utf8?",
        "meta Utf8?",
    ];
    assert_eq!(columns, wanted);
    let digest = sha256_hex(&std::fs::read(model().join("model.json")).expect("the model's description"));
    assert_eq!(about["recaption.schema_version"], "2");
    assert_eq!(about["recaption.model"], digest);
    let decode: Value = serde_json::from_str(&about["recaption.decode"]).expect("decode parameters are JSON");
    assert_eq!(
        decode,
        json!({"strategy": "greedy", "candidates": 1, "max_tokens": 35, "min_tokens": 1, "seed": 0})
    );

    let (columns, also) = schema(&rejects);
    let wanted = [
        "key Utf8",
        "shard Utf8",
        "reason Utf8",
        "detail Utf8",
        "caption Utf8?",
        "similarity Float32?",
        "org_caption Utf8?",
    ];
    assert_eq!(columns, wanted);
    assert_eq!(also, about);

    place.run(&input, "embedded").set("output.images=embed").ends(0);
    let (columns, about) = schema(&parts(&place.path("embedded"))[0]);
    assert_eq!(columns.last().map(String::as_str), Some("image Struct(\"bytes\": Binary, \"path\": Utf8)?"));
    assert_eq!(columns.len(), 14);
    let features: Value = serde_json::from_str(&about["huggingface"]).expect("features are JSON");
    assert_eq!(features["info"]["features"]["image"], json!({"_type": "Image"}));
}

#[test]
fn columns_hold_the_documented_values() {
    let place = Place::new();
    let meta = r#"{ "url": "https://images.example/a.jpg?w=1",  "caption": "from the JSON", "n": 1.50 }"#;
    let shard = Pack::new()
        .file("a/full.one.jpg", jpeg(1))
        .file("a/full.one.txt", "  alt text\n")
        .file("a/full.one.json", meta)
        .file("jsononly.jpg", jpeg(2))
        .file("jsononly.json", meta)
        .file("notjson.jpg", jpeg(3))
        .file("notjson.json", "{ not json")
        .close();
    let input = place.write("in dir/what ever.v1.tar", shard);
    place.run(&input, "out").ends(0);
    let rows = output::read(&place.path("out"));
    let [full, json_only, not_json] = rows.captions.as_slice() else { panic!("three rows: {rows:?}") };
    assert_eq!(full.key, "a/full");
    assert!(full.shard.starts_with("file:///") && full.shard.ends_with("ever.v1.tar"), "{}", full.shard);
    assert_eq!(full.sha256, sha256_hex(&jpeg(1)));
    assert_eq!(full.org_caption.as_deref(), Some("alt text"), "without white space around it");
    assert_eq!(full.meta.as_deref(), Some(meta), "untouched");
    assert_eq!(full.url.as_deref(), Some("https://images.example/a.jpg?w=1"));
    assert_eq!((json_only.org_caption.as_deref(), json_only.url.is_some()), (Some("from the JSON"), true));
    assert_eq!((not_json.meta.as_deref(), not_json.url.as_deref()), (None, None), "meta is valid JSON");
    for row in &rows.captions {
        let [(text, similarity, logprob)] = row.candidates.as_slice() else {
            panic!("one candidate: {row:?}")
        };
        assert_eq!((text, similarity), (&row.caption, &row.similarity), "the best candidate is the caption");
        assert!(logprob.get() <= 0.0 && similarity.get().abs() <= 1.0, "{row:?}");
        assert_eq!(row.caption, row.caption.trim());
        assert!(!row.caption.is_empty() && !row.caption.contains("  "), "{:?}", row.caption);
        assert_eq!((row.itm, &row.image), (None, &None));
    }
    // Names of files are safe whatever the input is called.
    let names: Vec<String> = parts(&place.path("out"))
        .iter()
        .map(|p| p.file_name().map_or_else(String::new, |n| n.display().to_string()))
        .collect();
    assert!(
        names.iter().all(|name| name.starts_with("part-what_ever-")
            && name.len() == "part-what_ever-0123456789abcdef-0123456789abcdef.parquet".len()),
        "{names:?}"
    );
}

#[test]
fn embedded_images_are_the_stored_bytes() {
    let place = Place::new();
    let formats = [("jpg", ImageFormat::Jpeg), ("png", ImageFormat::Png), ("webp", ImageFormat::WebP)];
    let files =
        formats.map(|(suffix, format)| (format!("picture.{suffix}"), support::shards::encoded(1, format)));
    let shard = files
        .iter()
        .fold(Pack::new(), |pack, (name, bytes)| pack.file(&format!("{}-{name}", &name[8..]), bytes));
    let input = place.write("in/images.tar", shard.close());
    place.run(&input, "plain").ends(0);
    place.run(&input, "embedded").set("output.images=embed").ends(0);
    let (plain, embedded) = (output::read(&place.path("plain")), output::read(&place.path("embedded")));
    for ((row, plain), (name, bytes)) in embedded.captions.iter().zip(&plain.captions).zip(&files) {
        let (stored, path) = row.image.as_ref().expect("an image");
        assert_eq!((path, stored == bytes), (&format!("{}-{name}", &name[8..]), true));
        assert_eq!(sha256_hex(stored), row.sha256);
        assert_eq!(&output::Caption { image: None, ..row.clone() }, plain);
    }
    assert_eq!(embedded.captions.len(), 3);
}

#[test]
fn captions_below_the_threshold_become_rejects() {
    let place = Place::new();
    let input = place.draw("in", 2, 20);
    place.run(&input, "all").ends(0);
    let all = output::read(&place.path("all")).captions;
    let mut similarities: Vec<f32> = all.iter().map(|row| row.similarity.get()).collect();
    similarities.sort_by(f32::total_cmp);
    // The threshold is itself kept.
    let threshold = similarities[similarities.len() / 2];
    place.run(&input, "some").arg("--min-similarity").arg(threshold.to_string()).ends(0);
    let some = output::read(&place.path("some"));
    let (kept, dropped): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|row| row.similarity.get() >= threshold);
    assert_eq!(some.captions, kept);
    assert_eq!(some.rejects.len(), dropped.len());
    assert!(!kept.is_empty() && !dropped.is_empty());
    for (reject, row) in some.rejects.iter().zip(&dropped) {
        assert_eq!(reject.reason, "below_similarity");
        assert_eq!((&reject.key, &reject.shard), (&row.key, &row.shard));
        assert_eq!((reject.caption.as_ref(), reject.similarity), (Some(&row.caption), Some(row.similarity)));
        assert_eq!(reject.org_caption, row.org_caption);
        assert!(reject.detail.contains("filter.min_similarity"), "{}", reject.detail);
    }
}

/// Uncompressed bytes that a row group may have at most, by the contract.
const MOST: i64 = 100_000_000;

#[test]
fn row_groups_stay_small_when_rows_compress_well() {
    let place = Place::new();
    // 18 pictures of 9 MB that zstd makes next to nothing of: 162 MB in one shard.
    let mut dice = Dice::new(SEED);
    let mut pack = Pack::new();
    for n in 0..18 {
        let mut picture = RgbImage::from_pixel(2_000, 1_500, image::Rgb([n * 10, 90, 200]));
        picture.put_pixel(n.into(), 0, image::Rgb([dice.throw() as u8, 0, 0]));
        let mut file = std::io::Cursor::new(Vec::new());
        DynamicImage::ImageRgb8(picture)
            .write_to(&mut file, ImageFormat::Bmp)
            .expect("pictures can be encoded");
        pack = pack.file(&format!("flat{n:02}.bmp"), file.into_inner());
    }
    let input = place.write("in/flat.tar", pack.close());
    place.run(&input, "out").set("output.images=embed").ends(0);
    let part = &parts(&place.path("out"))[0];
    let metadata = metadata(part);
    let sizes: Vec<i64> = metadata.row_groups().iter().map(RowGroupMetaData::total_byte_size).collect();
    assert_eq!(metadata.file_metadata().num_rows(), 18);
    assert!(sizes.iter().sum::<i64>() > MOST, "the shard is too small to show anything: {sizes:?}");
    assert!(sizes.iter().all(|size| *size < MOST), "{sizes:?}");
    let columns = metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
    assert!(columns.into_iter().all(|column| matches!(column.compression(), Compression::ZSTD(_))));
}
