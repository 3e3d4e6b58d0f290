//! The same images, keys and captions give the same rows in every format. Damage and errors of each format.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field};
use parquet::{
    arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties, file::reader::FileReader,
};
use support::{
    Place,
    output::{self, Caption},
    program::recaption,
    shards::{Pack, jpeg, scenes},
};

const SCENES: u32 = 40;

/// A sample of a shard of scenes.
struct Sample {
    key: String,
    jpg: Vec<u8>,
    txt: String,
    json: String,
}

fn samples() -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    let tar = scenes(0, SCENES);
    for entry in tar::Archive::new(&tar[..]).entries().expect("a tar") {
        let mut entry = entry.expect("a member");
        let name = String::from_utf8(entry.path_bytes().into_owned()).expect("UTF-8");
        let (key, suffix) = name.split_once('.').expect("a suffix");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("bytes");
        if samples.last().is_none_or(|sample| sample.key != key) {
            samples.push(Sample { key: key.into(), jpg: vec![], txt: String::new(), json: String::new() });
        }
        let sample = samples.last_mut().expect("one");
        match suffix {
            "jpg" => sample.jpg = bytes,
            "txt" => sample.txt = String::from_utf8(bytes).expect("UTF-8"),
            "json" => sample.json = String::from_utf8(bytes).expect("UTF-8"),
            other => panic!("what is a .{other}?"),
        }
    }
    assert_eq!(samples.len(), SCENES as usize);
    samples
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).expect("memory")
}

fn texts(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(values.into_iter().map(Some).collect::<StringArray>())
}

fn binaries<'a>(values: impl IntoIterator<Item = Option<&'a [u8]>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<BinaryArray>())
}

/// Writes a table with row groups of ten rows.
fn write_table(path: &Path, columns: Vec<(&str, ArrayRef)>, compression: Compression) {
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(10))
        .build();
    fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");
}

/// Hugging Face's image feature.
fn image_feature(samples: &[Sample]) -> ArrayRef {
    let bytes = binaries(samples.iter().map(|s| Some(&s.jpg[..])));
    let paths = texts(samples.iter().map(|s| format!("{}.jpg", s.key)));
    let field = |name, kind| Arc::new(Field::new(name, kind, true));
    Arc::new(StructArray::from(vec![
        (field("bytes", DataType::Binary), bytes),
        (field("path", DataType::Utf8), paths),
    ]))
}

/// Returns the rows of a run over `input`, without the shard's name and, unless `with_meta`, the sample's JSON.
fn rows(place: &Place, input: &Path, out: &str, with_meta: bool) -> Vec<Caption> {
    place.run(input, out).ends(0);
    let mut rows = output::read(&place.path(out)).captions;
    for row in &mut rows {
        row.shard.clear();
        if !with_meta {
            row.meta = None;
        }
    }
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows
}

/// A shard of scenes, its samples, and its rows with and without the samples' JSON.
struct Fixture {
    place: Place,
    samples: Vec<Sample>,
    tar: Vec<u8>,
    shard: PathBuf,
    wanted: Vec<Caption>,
    without_meta: Vec<Caption>,
}

fn fixture() -> Fixture {
    let place = Place::new();
    let tar = scenes(0, SCENES);
    let shard = place.write("plain/00000.tar", &tar);
    let wanted = rows(&place, &shard, "out-plain", true);
    assert_eq!(wanted.len(), SCENES as usize);
    let mut without_meta = wanted.clone();
    without_meta.iter_mut().for_each(|row| row.meta = None);
    Fixture { place, samples: samples(), tar, shard, wanted, without_meta }
}

#[test]
fn compressed_tars_give_the_same_rows() {
    let Fixture { place, tar, wanted, .. } = fixture();
    let half = tar.len() / 1024 * 512;
    for (name, bytes) in [
        ("00000.tar.gz", gzip(&tar)),
        ("00000.tgz", [gzip(&tar[..half]), gzip(&tar[half..])].concat()),
        ("00000.tar.zst", zstd(&tar)),
        ("frames.tar.zst", [zstd(&tar[..half]), zstd(&tar[half..])].concat()),
        ("called-tar-but-packed.tar", gzip(&tar)),
        ("no-extension", zstd(&tar)),
    ] {
        let input = place.write(&format!("packed/{name}"), bytes);
        assert_eq!(rows(&place, &input, &format!("out-{name}"), true), wanted, "{name}");
    }
}

#[test]
fn folders_give_the_rows_of_a_tar() {
    let Fixture { place, samples, wanted, without_meta, .. } = fixture();
    for sample in &samples {
        place.write(&format!("folder/a/{}.jpg", sample.key), &sample.jpg);
        place.write(&format!("folder/a/{}.txt", sample.key), &sample.txt);
        place.write(&format!("folder/a/{}.json", sample.key), &sample.json);
        place.write(&format!("imagefolder/{}.jpg", sample.key), &sample.jpg);
    }
    place.write("folder/a/.DS_Store", "x");
    let folder = place.path("folder");
    assert_eq!(rows(&place, &folder, "out-folder", true), wanted, "a folder of folders with sidecars");
    let lines = samples.iter().map(|s| {
        serde_json::json!({"file_name": format!("{}.jpg", s.key), "text": s.txt, "n": 1}).to_string() + "\n"
    });
    place.write("imagefolder/metadata.jsonl", lines.collect::<String>());
    let imagefolder = place.path("imagefolder");
    assert_eq!(rows(&place, &imagefolder, "out-imagefolder", false), without_meta, "imagefolder");
    // As Parquet, and as CSV.
    fs::remove_file(imagefolder.join("metadata.jsonl")).expect("it was there");
    let names = texts(samples.iter().map(|s| format!("{}.jpg", s.key)));
    let captions = texts(samples.iter().map(|s| s.txt.clone()));
    let table = imagefolder.join("metadata.parquet");
    write_table(&table, vec![("file_name", names), ("text", captions)], Compression::SNAPPY);
    for format in ["auto", "folder"] {
        place.run(&imagefolder, format).set(&format!("input.format={format}")).ends(0);
        let mut found = output::read(&place.path(format)).captions;
        found.iter_mut().for_each(|row| (row.shard, row.meta) = (String::new(), None));
        found.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(found, without_meta, "{format}");
    }
    fs::remove_file(table).expect("it was there");
    let lines = samples.iter().map(|s| format!("{}.jpg,\"{}\"\r\n", s.key, s.txt.replace('"', "\"\"")));
    place.write("imagefolder/metadata.csv", format!("file_name,text\r\n{}", lines.collect::<String>()));
    assert_eq!(rows(&place, &imagefolder, "out-csv", false), without_meta, "metadata.csv");
}

#[test]
fn tables_give_the_rows_of_a_tar() {
    let Fixture { place, samples, wanted, without_meta, .. } = fixture();
    let key = || texts(samples.iter().map(|s| s.key.clone()));
    let caption = || texts(samples.iter().map(|s| s.txt.clone()));
    let jpg = || binaries(samples.iter().map(|s| Some(&s.jpg[..])));
    let json = || texts(samples.iter().map(|s| s.json.clone()));
    let table = place.path("parquet/hf.parquet");
    write_table(&table, vec![("image", image_feature(&samples)), ("text", caption())], Compression::SNAPPY);
    assert_eq!(rows(&place, &table, "out-hf", false), without_meta, "Hugging Face's image feature");
    let table = place.path("parquet/img2dataset.parquet");
    let columns = vec![("caption", caption()), ("key", key()), ("json", json()), ("jpg", jpg())];
    write_table(&table, columns, Compression::ZSTD(Default::default()));
    assert_eq!(rows(&place, &table, "out-img2dataset", true), wanted, "img2dataset's columns");
    let odd = place.path("parquet/odd");
    write_table(&odd, vec![("k", key()), ("said", caption()), ("photo", jpg())], Compression::LZ4_RAW);
    place
        .run(&odd, "out-odd")
        .set("input.image_column=photo")
        .set("input.caption_column=said")
        .set("input.key_column=k")
        .ends(0);
    let mut configured = output::read(&place.path("out-odd")).captions;
    configured.iter_mut().for_each(|row| {
        row.shard.clear();
        row.meta = None;
    });
    assert_eq!(configured, without_meta, "configured columns, in a file without a suffix");
}

#[test]
fn own_output_and_lists_of_shards_give_the_same_rows() {
    let Fixture { place, shard, wanted, .. } = fixture();
    place.run(&shard, "embedded").set("output.images=embed").ends(0);
    let own = place.path("embedded/captions");
    place.run(&own, "out-own").set("input.caption_column=org_caption").ends(0);
    let mut own = output::read(&place.path("out-own")).captions;
    own.iter_mut().for_each(|row| row.shard.clear());
    assert_eq!(own, wanted, "its own output");

    let list = format!("# shards\n\n{}\n", shard.display());
    place.write("list.txt", list);
    let said = recaption().dir(place.root()).arg("run").arg("--model").arg(support::model());
    said.args(["--input", "@list.txt", "--output", "out-list"]).ends(0);
    let mut listed = output::read(&place.path("out-list")).captions;
    listed.iter_mut().for_each(|row| row.shard.clear());
    assert_eq!(listed, wanted, "a list of shards");
}

/// Returns the only reject of an output with `kept` captions.
#[track_caller]
fn one_reject(place: &Place, out: &str, kept: usize) -> output::Rejected {
    let mut rows = output::read(&place.path(out));
    assert_eq!((rows.captions.len(), rows.rejects.len()), (kept, 1), "{:#?}", rows.rejects);
    rows.rejects.remove(0)
}

#[test]
fn truncated_gzip_keeps_whole_samples() {
    let place = Place::new();
    let tar = scenes(0, SCENES);
    for (name, packed) in [("cut.tar.gz", gzip(&tar)), ("cut.tar.zst", zstd(&tar))] {
        let cut = place.write(name, &packed[..packed.len() * 3 / 4]);
        let out = format!("out-{name}");
        place.run(&cut, &out).ends(3);
        let rows = output::read(&place.path(&out));
        let kept = rows.captions.len();
        assert!((10..SCENES as usize).contains(&kept), "{name}: {kept}");
        let reject = one_reject(&place, &out, kept);
        assert_eq!(reject.reason, "damaged_shard");
        assert!(reject.detail.contains("of the unpacked tar"), "{}", reject.detail);
    }
    let nonsense = place.write("nonsense.tar.gz", gzip(&[b'x'; 4096]));
    place.run(&nonsense, "out-nonsense").ends(3).warns("it is text");
}

#[test]
fn decompression_bomb_is_one_reject() {
    let place = Place::new();
    // A member of 4 GB of zeros between two images: a few hundred kilobytes of zstd.
    let mut tar = Pack::new().file("000.jpg", jpeg(0)).close();
    tar.truncate(tar.len() - 1024);
    let mut header = tar::Header::new_ustar();
    header.set_path("001.jpg").expect("a name");
    header.set_size(4 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.write_all(&tar).expect("memory");
    encoder.write_all(header.as_bytes()).expect("memory");
    let zeros = vec![0; 16 << 20];
    for _ in 0..256 {
        encoder.write_all(&zeros).expect("memory");
    }
    encoder.write_all(&Pack::new().file("002.jpg", jpeg(2)).close()).expect("memory");
    let bomb = place.write("bomb.tar.zst", encoder.finish().expect("memory"));
    place.run(&bomb, "out").ends(0);
    let reject = one_reject(&place, "out", 2);
    assert_eq!((reject.key.as_str(), reject.reason.as_str()), ("001", "too_large"));
}

#[test]
fn tables_reject_rows_and_name_missing_columns() {
    let place = Place::new();
    let pictures: Vec<Vec<u8>> = (0..6).map(jpeg).collect();
    let mut images: Vec<Option<&[u8]>> = pictures.iter().map(|bytes| Some(&bytes[..])).collect();
    images[1] = None;
    images[4] = Some(b"no picture");
    let keys = ["a", "b", "a", "c", "d", "e"].map(str::to_owned);
    let table = place.path("rows.parquet");
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5, 6]));
    write_table(
        &table,
        vec![("jpg", binaries(images)), ("key", texts(keys)), ("n", numbers)],
        Compression::UNCOMPRESSED,
    );
    place.run(&table, "out").ends(0);
    let rows = output::read(&place.path("out"));
    assert_eq!(rows.captions.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["a", "c", "e"]);
    assert_eq!(rows.captions[1].meta.as_deref(), Some("{\"n\":4}"));
    let reasons: Vec<(&str, &str)> =
        rows.rejects.iter().map(|r| (r.key.as_str(), r.reason.as_str())).collect();
    assert_eq!(reasons, [("b", "missing_image"), ("a", "duplicate_key"), ("d", "corrupt_image")]);

    let table = place.path("none.parquet");
    write_table(&table, vec![("title", texts(["x".to_owned()]))], Compression::UNCOMPRESSED);
    place.run(&table, "out-none").ends(3).warns("there are: title").warns("input.image_column");
    place.run(&table, "out-told").set("input.image_column=picture").ends(3).warns("no column `picture`");
    place.run(&table, "out-type").set("input.image_column=title").ends(3).warns("is of type Utf8");
    let table = place.write("cut.parquet", &fs::read(place.path("rows.parquet")).expect("bytes")[..500]);
    place.run(&table, "out-cut").ends(3).warns("cannot read the Parquet file");
}

#[test]
fn damaged_page_keeps_the_other_row_groups() {
    let place = Place::new();
    let samples = samples();
    let table = place.path("table.parquet");
    write_table(&table, vec![("image", image_feature(&samples))], Compression::SNAPPY);
    let mut bytes = fs::read(&table).expect("bytes");
    let reader = parquet::file::reader::SerializedFileReader::new(File::open(&table).expect("a file"));
    let reader = reader.expect("a footer");
    let column = reader.metadata().row_group(2).column(0);
    let page = column.data_page_offset() as usize;
    bytes[page..page + 10].fill(0xFF);
    fs::write(&table, bytes).expect("bytes");
    place.run(&table, "out").ends(3);
    let rows = output::read(&place.path("out"));
    assert_eq!((rows.captions.len(), rows.rejects.len()), (30, 10), "{:#?}", rows.rejects);
    for (row, reject) in (20..).zip(&rows.rejects) {
        assert_eq!((reject.key.clone(), reject.reason.as_str()), (format!("{row:09}"), "damaged_shard"));
        assert!(reject.detail.contains("(10 rows from row 20 of 40 not read)"), "{}", reject.detail);
    }
}

#[test]
fn patterns_without_a_match_name_the_expected_files() {
    let place = Place::new();
    place.write("empty/notes.md", "x");
    let empty: PathBuf = place.path("empty");
    place.run(&empty, "out").ends(2).warns("matches no shard").warns(".tar.zst and .parquet files");
    place.run(&empty, "out").set("input.format=folder").ends(2).warns("looked for images");
    place.write("images/a.jpg", jpeg(0));
    place.run(place.path("images/*.jpg"), "out").ends(2).warns("name their folder instead");
    place.write("list.txt", "# nothing\n\n");
    place.run(format!("@{}", place.path("list.txt").display()), "out").ends(2).warns("names no shard");
    place.write("nested.txt", "@list.txt\n");
    place.run(format!("@{}", place.path("nested.txt").display()), "out").ends(2).warns("line 1");
    place.write("bad/metadata.jsonl", "{\"text\": 1}");
    place.write("bad/a.jpg", jpeg(0));
    // A malformed line of metadata is skipped.
    place.run(place.path("bad"), "out").ends(0).warns("metadata.jsonl").warns("line 1: no `file_name`");
}
