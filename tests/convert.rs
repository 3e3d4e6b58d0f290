//! `recaption convert` and `output.format = "webdataset"`: what trainers get, what a rerun does, and what is refused.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::Path,
    sync::Arc,
};

use arrow_array::{Array, RecordBatch, StringArray, StructArray, cast::AsArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use recaption_output::{
    PartTarget, PartWriter,
    commits::{CommitLog, CommitRequest},
};
use recaption_schemas::{
    AddedColumns, COMMIT_FORMAT, Candidate, Candidates, CaptionRow, CaptionTable, Counts, ShardCommit,
    ShardId, Similarity, caption_schema, reject_schema, sha256_hex,
};
use recaption_store::Stores;
use serde_json::Value;
use support::{
    Place,
    bucket::Bucket,
    files_below,
    output::{self, commits, part_bytes},
    program::{Call, recaption},
    server::{Answer, Server, times},
    shards::{Pack, jpeg},
};

fn convert(place: &Place, out: &str, to: &str, arguments: &[&str]) -> Call {
    recaption().dir(place.root()).arg("convert").arg(place.path(out)).args(["--to", to]).args(arguments)
}

/// Writes an output as a run would leave it: `shards` shards of `rows` rows each, without images.
fn made_output(out: &Path, shards: u32, rows: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        for number in 0..shards {
            made_shard(out, &format!("s3://b/{number:05}.tar"), rows).await;
        }
    });
    let run = serde_json::json!({"run": "r", "finished": "f", "explicit_settings": {}});
    fs::create_dir_all(out.join("_recaption/runs")).expect("a folder");
    fs::write(out.join("_recaption/runs/r.json"), run.to_string()).expect("a record");
}

async fn made_shard(out: &Path, url: &str, rows: u32) {
    let location = Stores::default().locate(&out.to_string_lossy()).expect("a path");
    let id = ShardId::from_url(url);
    let schema = Arc::new(caption_schema(AddedColumns::default(), [].into()));
    let mut table = CaptionTable::new(Arc::clone(&schema), url.into());
    for n in 0..rows {
        let similarity = Similarity::new(0.25).expect("finite");
        let candidate = Candidate { text: format!("synthetic {n}"), similarity, logprob: -1.0, itm: None };
        table.push(&CaptionRow {
            key: format!("{n:09}"),
            candidates: Candidates::new(vec![candidate]).expect("one"),
            org_caption: Some(format!("original {n}")),
            org_similarity: None,
            org_itm: None,
            width: 4,
            height: 3,
            sha256: sha256_hex(n.to_string().as_bytes()),
            url: Some(format!("https://h.example/{n}.jpg")),
            meta: None,
            image: None,
        });
    }
    let target =
        |table| PartTarget { output: &location, table, shard: id.as_str(), fingerprint: "0123-4567" };
    let mut part = PartWriter::new(target("captions"), schema).expect("a part");
    part.write(table.finish().expect("rows")).await.expect("written");
    let captions = part.finish().await.expect("uploaded").info();
    let part = PartWriter::new(target("rejects"), Arc::new(reject_schema([].into()))).expect("a part");
    let rejects = part.finish().await.expect("uploaded").info();
    let n = u64::from(rows);
    let commit = ShardCommit {
        format: COMMIT_FORMAT,
        shard: url.into(),
        size: 1,
        etag: None,
        fingerprint: "0123-4567".into(),
        configuration: [("model.captioner".to_owned(), "m".to_owned())].into(),
        model: "m".into(),
        counts: Counts { read: n, captioned: n, ..Counts::default() },
        damaged: None,
        captions,
        rejects,
        webdataset: None,
        settings: [].into(),
    };
    let commit_log = CommitLog::new(location.clone());
    commit_log.commit(&CommitRequest::first(id.as_str(), &commit), || false).await.expect("committed");
}

/// A sample of a webdataset: its members by suffix.
type Sample = BTreeMap<String, Vec<u8>>;

/// The samples of a tar by key, which must be grouped, and all of whose headers must be alike.
#[track_caller]
fn samples(tar: &Path) -> Vec<(String, Sample)> {
    let mut all: Vec<(String, Sample)> = Vec::new();
    let mut archive = tar::Archive::new(File::open(tar).expect("a tar"));
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let header = entry.header();
        let owner = (header.uid().expect("a number"), header.gid().expect("a number"));
        assert_eq!((header.mtime().expect("a time"), owner), (0, (0, 0)));
        let name = entry.path().expect("a path").display().to_string();
        let (key, suffix) = name.split_once('.').expect("a suffix");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("bytes");
        if all.last().is_none_or(|(last, _)| last != key) {
            all.push((key.to_owned(), Sample::new()));
        }
        let (_, sample) = all.last_mut().expect("a sample");
        assert!(sample.insert(suffix.to_owned(), bytes).is_none(), "{name} is there twice");
    }
    all
}

/// All files below a folder with their contents, but for records.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = files_below(folder).into_keys().filter(|name| !name.starts_with(".recaption"));
    names.map(|name| (name.display().to_string(), fs::read(folder.join(&name)).expect("a file"))).collect()
}

fn batches(file: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).expect("a file"));
    let reader = reader.and_then(ParquetRecordBatchReaderBuilder::build).expect("Parquet");
    reader.map(|batch| batch.expect("rows")).collect()
}

/// A column of strings of all Parquet files of a folder, in their order.
fn strings(folder: &Path, column: &str) -> Vec<String> {
    let names =
        files_below(folder).into_keys().filter(|name| name.extension().is_some_and(|e| e == "parquet"));
    let batches = names.flat_map(|name| batches(&folder.join(name)));
    let values = batches.flat_map(|batch| {
        let column: StringArray = batch.column_by_name(column).expect("a column").as_string().clone();
        (0..column.len()).map(|row| column.value(row).to_owned()).collect::<Vec<_>>()
    });
    values.collect()
}

#[track_caller]
fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn webdataset_has_every_row_with_its_image_and_both_captions() {
    let place = Place::new();
    let input = place.draw("in", 3, 12);
    place.run(&input, "out").ends(0);
    let said = convert(&place, "out", "webdataset", &["--out", "wds", "--rows-per-shard", "24"]).ends(0);
    let rows: BTreeMap<(String, String), output::Caption> = output::read(&place.path("out"))
        .captions
        .into_iter()
        .map(|row| ((row.shard.clone(), row.key.clone()), row))
        .collect();
    let wds = place.path("wds");
    let tars = ["000000.tar", "000001.tar"].map(|name| samples(&wds.join(name)));
    let all: Vec<&(String, Sample)> = tars.iter().flatten().collect();
    assert_eq!((tars[0].len(), tars[1].len(), rows.len()), (24, 12, 36), "whole shards share a tar");
    let keys: BTreeSet<&String> = all.iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), rows.len(), "keys are distinct over all shards");
    for (_, sample) in all {
        let members: Vec<&str> = sample.keys().map(String::as_str).collect();
        assert_eq!(members, ["jpg", "json", "txt"]);
        let json: Value = serde_json::from_slice(&sample["json"]).expect("JSON");
        let of = |name: &str| json[name].as_str().expect("a string").to_owned();
        let row = &rows[&(of("shard"), of("key"))];
        assert_eq!(sha256_hex(&sample["jpg"]), row.sha256);
        assert_eq!(
            (of("caption"), json["org_caption"].as_str()),
            (row.caption.clone(), row.org_caption.as_deref())
        );
        assert_eq!(json["similarity"].as_f64().expect("a number") as f32, row.similarity.get());
        assert_eq!(String::from_utf8_lossy(&sample["txt"]), row.caption);
    }
    assert_eq!(json(&wds.join("sizes.json")), serde_json::json!({"000000.tar": 24, "000001.tar": 12}));
    assert_eq!(json(&wds.join("dataset.json"))["shardlist"][1]["nsamples"], 12);
    assert_eq!((&said.report()["samples"], &said.report()["missing"]), (&36.into(), &0.into()));

    // A rerun writes nothing, and one tar that is gone is the one that is written.
    let (first, times) = (contents(&wds), files_below(&wds.join(".recaption")));
    let said = convert(&place, "out", "webdataset", &["--out", "wds", "--rows-per-shard", "24"]).ends(0);
    assert_eq!((contents(&wds), said.report()["files_skipped"].clone()), (first.clone(), 2.into()));
    assert_eq!(files_below(&wds.join(".recaption")), times);
    fs::remove_file(wds.join("000001.tar")).expect("a tar");
    let said = convert(&place, "out", "webdataset", &["--out", "wds", "--rows-per-shard", "24"]).ends(0);
    assert_eq!((contents(&wds), said.report()["files_skipped"].clone()), (first, 1.into()));
}

#[test]
fn embedded_images_and_input_shards_give_the_same_bytes() {
    let place = Place::new();
    let input = place.draw("in", 2, 10);
    place.run(&input, "plain").ends(0);
    place.run(&input, "embedded").set("output.images=embed").ends(0);
    convert(&place, "plain", "webdataset", &["--out", "a"]).ends(0);
    fs::rename(&input, place.path("moved")).expect("a folder");
    convert(&place, "embedded", "webdataset", &["--out", "b"]).ends(0);
    let tars = |name: &str| {
        let mut files = contents(&place.path(name));
        files.retain(|file, _| file.ends_with(".tar"));
        files
    };
    assert!(tars("a") == tars("b"));

    // The shards moved. Only their new place is missing.
    let said = convert(&place, "plain", "webdataset", &["--out", "c"]).ends(3);
    assert_eq!((&said.report()["samples"], &said.report()["missing"]), (&0.into(), &20.into()));
    place.draw("other", 1, 1);
    convert(&place, "plain", "hf", &["--out", "d", "--input", "other"])
        .ends(3)
        .prints("is not among the shards that --input names");
    convert(&place, "plain", "webdataset", &["--out", "e", "--input", "moved"]).ends(0);
    assert!(tars("a") == tars("e"), "shards that moved are found by their names");
    fs::create_dir(&input).expect("a folder");
    for shard in ["00000.tar", "00001.tar"] {
        fs::copy(place.path("moved").join(shard), input.join(shard)).expect("a shard");
    }
    convert(&place, "plain", "webdataset", &["--out", "c"]).ends(0);
    assert!(tars("a") == tars("c"), "a rerun repairs what was missing");
}

#[test]
fn gone_and_changed_images_cost_their_samples_alone() {
    let place = Place::new();
    for n in 0..12 {
        place.write(&format!("photos/{n:02}.jpg"), jpeg(n));
    }
    place.run(place.path("photos"), "out").ends(0);
    fs::remove_file(place.path("photos/03.jpg")).expect("a photo");
    fs::remove_file(place.path("photos/04.jpg")).expect("a photo");
    place.write("photos/07.jpg", jpeg(100));
    place.write("photos/11.jpg", "no picture");
    let said = convert(&place, "out", "webdataset", &["--out", "wds"]).ends(3);
    let report = said.report();
    let missing: Vec<(&str, &str)> = report["missing_images"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (one["key"].as_str().expect("a key"), one["detail"].as_str().expect("a detail")))
        .collect();
    assert_eq!(missing.iter().map(|(key, _)| *key).collect::<Vec<_>>(), ["03", "04", "07", "11"]);
    assert!(missing[0].1.contains("no such sample any more"), "{missing:?}");
    assert!(missing[2].1.contains("SHA-256 differs"), "{missing:?}");
    assert_eq!(samples(&place.path("wds/000000.tar")).len(), 8);
}

#[test]
fn files_are_not_replaced_by_ones_of_fewer_images() {
    let place = Place::new();
    for n in 0..12 {
        place.write(&format!("photos/{n:02}.jpg"), jpeg(n));
    }
    place.run(place.path("photos"), "out").ends(0);
    fs::remove_file(place.path("photos/03.jpg")).expect("a photo");
    for (to, name) in [("webdataset", "wds"), ("hf", "hf"), ("sidecar", "side")] {
        let convert = |code| convert(&place, "out", to, &["--out", name, "--rows-per-shard", "6"]).ends(code);
        let count = |code, samples: u64, missing: u64| {
            let said = convert(code).report();
            assert_eq!((&said["samples"], &said["missing"]), (&samples.into(), &missing.into()), "{to}");
        };
        count(3, 11, 1);
        let first = contents(&place.path(name));
        // The whole input is gone, as it is when a token has expired.
        fs::rename(place.path("photos"), place.path("away")).expect("a folder");
        count(3, 11, 1);
        assert!(contents(&place.path(name)) == first, "{to}: what was there stays");
        fs::rename(place.path("away"), place.path("photos")).expect("a folder");
        // One image is there again, and one of another file is not.
        place.write("photos/03.jpg", jpeg(3));
        fs::remove_file(place.path("photos/08.jpg")).expect("a photo");
        // A folder of sidecars is one file, in which another image may be missing.
        if to == "sidecar" {
            count(3, 11, 1)
        } else {
            count(0, 12, 0)
        };
        place.write("photos/08.jpg", jpeg(8));
        count(0, 12, 0);
        fs::remove_file(place.path("photos/03.jpg")).expect("a photo");
    }
}

#[test]
fn records_list_the_first_missing_images_alone() {
    let place = Place::new();
    let url = Stores::default().locate(&place.path("gone.tar").to_string_lossy()).expect("a path").url();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    made_output(&place.path("out"), 0, 0);
    runtime.block_on(made_shard(&place.path("out"), &url, 1200));
    for _ in 0..2 {
        let said = convert(&place, "out", "webdataset", &["--out", "wds"]).ends(3).report();
        let listed = said["missing_images"].as_array().expect("a list").len();
        assert_eq!((&said["missing"], listed), (&1200.into(), 1000));
        let record = json(&place.path("wds/.recaption/groups/000000.json"));
        let listed = record["missing"].as_array().expect("a list").len();
        assert_eq!((&record["missing_rows"], listed), (&1200.into(), 1000));
    }
}

#[test]
fn keys_that_point_elsewhere_stay_in_the_target() {
    let place = Place::new();
    let hostile = ["../../evil", "/etc/evil", "a/../../evil", "a b", "x/y", "d", "d.jpg/e"];
    let tar = hostile.iter().zip(0..).fold(Pack::new(), |tar, (key, n)| {
        tar.file(&format!("{key}.jpg"), jpeg(n)).file(&format!("{key}.txt"), "an original")
    });
    place.write("in/00000.tar", tar.close());
    place.run(place.path("in"), "out").ends(0);
    let around = files_below(place.root());
    for (to, name) in [("webdataset", "wds"), ("hf", "hf"), ("sidecar", "side")] {
        convert(&place, "out", to, &["--out", &format!("deep/er/{name}")]).ends(0);
    }
    let new = files_below(place.root());
    let new = new.keys().filter(|name| !around.contains_key(*name));
    let outside: Vec<_> = new.filter(|name| !name.starts_with("deep/er")).collect();
    assert!(outside.is_empty(), "{outside:?}");
    let tar = samples(&place.path("deep/er/wds/000000.tar"));
    assert_eq!(tar.len(), hostile.len());
    assert!(tar.iter().all(|(key, _)| !key.contains("..") && key.matches('/').count() == 1), "{tar:?}");
    let side = contents(&place.path("deep/er/side"));
    assert_eq!(side.len(), 2 * hostile.len());
    assert!(side.keys().any(|name| name.ends_with("/x/y.jpg")), "plain names stay: {:?}", side.keys());
}

#[test]
fn sidecars_hold_a_caption_per_line() {
    let place = Place::new();
    for n in 0..3 {
        place.write(&format!("photos/{n}.jpg"), jpeg(n));
        place.write(&format!("photos/{n}.txt"), format!("original\n {n}"));
    }
    let sample = ["caption.strategy=sample", "caption.candidates=4", "caption.top_p=0.95"];
    sample.iter().fold(place.run(place.path("photos"), "out"), |call, set| call.set(set)).ends(0);
    let rows = output::read(&place.path("out")).captions;
    let folder = place.path("photos");
    let text = |name: &str| fs::read_to_string(folder.join(name)).expect("a sidecar");

    // Beside the images: other files are not replaced unasked, and a second call changes nothing.
    let said = convert(&place, "out", "sidecar", &[]).ends(3);
    said.prints("0.txt is there with other content");
    assert_eq!(text("0.txt"), "original\n 0");
    convert(&place, "out", "sidecar", &["--suffix", "caption", "--captions", "both"]).ends(0);
    for row in &rows {
        let n = &row.key;
        assert_eq!(text(&format!("{n}.caption")), format!("{}\noriginal {n}\n", row.caption));
    }
    let before = files_below(&folder);
    convert(&place, "out", "sidecar", &["--suffix", "caption", "--captions", "both"]).ends(0);
    assert_eq!(files_below(&folder), before);
    convert(&place, "out", "sidecar", &["--overwrite"]).ends(0);
    assert_eq!(text("0.txt"), format!("{}\n", rows[0].caption));

    // No suffix may be that of images or of what a run reads, and no other file of the folder is replaced unasked.
    let photo = fs::read(folder.join("0.jpg")).expect("a photo");
    for suffix in ["jpg", "JPG", ".png", "heic", "json", "csv"] {
        let said = convert(&place, "out", "sidecar", &["--suffix", suffix, "--overwrite"]).ends(2);
        said.warns("expected one such as txt or caption");
    }
    place.write("photos/0.note", "mine");
    convert(&place, "out", "sidecar", &["--suffix", "note"]).ends(3).prints("0.note is there");
    assert_eq!((fs::read(folder.join("0.jpg")).expect("a photo"), text("0.note").as_str()), (photo, "mine"));

    // Copies with their images.
    place.write("photos/2.png", support::shards::encoded(9, image::ImageFormat::Png));
    let said = convert(&place, "out", "sidecar", &["--out", "side", "--captions", "all"]).ends(3);
    assert_eq!(said.report()["samples"], 2, "2.jpg has another key beside 2.png");
    let side = contents(&place.path("side"));
    let name = side.keys().find(|name| name.ends_with("/0.txt")).expect("a sidecar");
    let lines: Vec<&str> = std::str::from_utf8(&side[name]).expect("UTF-8").lines().collect();
    let distinct: BTreeSet<&str> = rows[0].candidates.iter().map(|(text, _, _)| text.as_str()).collect();
    assert_eq!((lines[0], lines.len()), (rows[0].caption.as_str(), distinct.len()));
    assert_eq!(side[&name.replace(".txt", ".jpg")], jpeg(0));
    let said = convert(&place, "out", "sidecar", &["--captions", "chosen"]).ends(3);
    said.prints("several images would share the sidecar 2.txt");
}

#[test]
fn parquet_has_the_columns_of_each_preset() {
    let place = Place::new();
    let input = place.draw("in", 2, 6);
    place.run(&input, "out").ends(0);
    let names = |preset: &str| -> Vec<String> {
        let to = place.path(preset);
        let out = to.to_string_lossy().into_owned();
        convert(&place, "out", "parquet", &["--out", &out, "--columns", preset]).ends(0);
        let rows = batches(&to.join("000000.parquet"));
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 12);
        rows[0].schema().fields().iter().map(|field| field.name().clone()).collect()
    };
    assert_eq!(names("recaption").len(), 13);
    assert_eq!(names("laion")[..6], ["URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "hash"]);
    assert_eq!(names("img2dataset")[..5], ["url", "caption", "key", "status", "error_message"]);
    assert_eq!(names("hf"), ["image", "text"]);
    let source = output::read(&place.path("out")).captions;
    let captions: Vec<&str> = source.iter().map(|row| row.caption.as_str()).collect();
    assert_eq!(strings(&place.path("recaption"), "caption"), captions);
    assert_eq!(strings(&place.path("laion"), "TEXT"), captions);
    assert_eq!(strings(&place.path("hf"), "text"), captions);
    let rows = &batches(&place.path("hf/000000.parquet"))[0];
    let images: &StructArray = rows.column(0).as_struct();
    assert_eq!(sha256_hex(images.column(0).as_binary::<i32>().value(3)), source[3].sha256);
    assert!(fs::read_to_string(place.path("hf/README.md")).expect("a card").contains("dtype: image"));

    // The image folder has the same images, and its table comes with them.
    convert(&place, "out", "hf", &["--out", "folder", "--rows-per-shard", "6"]).ends(0);
    let folder = place.path("folder");
    assert_eq!(strings(&folder, "text"), captions);
    let files = strings(&folder, "file_name");
    let of = |n: usize| folder.join(format!("data/train/{:06}", n / 6)).join(&files[n]);
    for (n, row) in source.iter().enumerate() {
        assert_eq!(sha256_hex(&fs::read(of(n)).expect("an image")), row.sha256);
    }
}

#[test]
fn other_targets_and_incomplete_outputs_are_refused() {
    let place = Place::new();
    let input = place.draw("in", 1, 4);
    place.run(&input, "out").ends(0);
    place.write("mine/thesis.txt", "years of work");
    convert(&place, "out", "webdataset", &["--out", "mine"]).ends(2).warns("holds no conversion");
    convert(&place, "out", "webdataset", &["--out", "mine", "--overwrite"]).ends(2);
    convert(&place, "out", "webdataset", &["--out", "out/wds"]).ends(2).warns("overlap");
    convert(&place, "out", "webdataset", &[]).ends(2).warns("--out");
    convert(&place, "out", "sidecar", &[]).ends(2).warns("is no folder of images");
    let sidecars = ["--out", "a", "--blend-synthetic", "0.5", "--captions"];
    for captions in ["all", "both"] {
        let said = convert(&place, "out", "sidecar", &[&sidecars[..], &[captions]].concat()).ends(2);
        said.warns("so there is none to draw");
    }
    convert(&place, "out", "hf", &["--out", "a", "--columns", "laion"]).ends(2).warns("only --to parquet");
    convert(&place, "out", "hf", &["--out", "a", "--captions", "all"]).ends(2).warns("only --to sidecar");
    convert(&place, "out", "webdataset", &["--out", "a"]).ends(0);
    convert(&place, "out", "webdataset", &["--out", "a", "--rows-per-shard", "2"])
        .ends(2)
        .warns("--overwrite");
    convert(&place, "out", "hf", &["--out", "a"]).ends(2).warns("holds another conversion");
    convert(&place, "out", "hf", &["--out", "a", "--overwrite"]).ends(0);
    let left = contents(&place.path("a"));
    assert!(left.keys().all(|name| !name.ends_with(".tar")), "{:?}", left.keys());

    // A shard that failed.
    place.write("in/00001.tar", "no tar, and long enough to be told from one: ".repeat(40));
    place.run(&input, "out").ends(3);
    convert(&place, "out", "webdataset", &["--out", "b"]).ends(2).warns("--allow-partial");
    convert(&place, "out", "webdataset", &["--out", "b", "--allow-partial"]).ends(0);
    assert_eq!(samples(&place.path("b/000000.tar")).len(), 4);
    place.draw("two", 2, 2);
    place.run(place.path("two"), "limited").args(["--limit", "1"]).ends(0);
    let said = convert(&place, "limited", "webdataset", &["--out", "l"]).ends(0);
    said.warns("the last run selected only some shards");
    made_output(&place.path("unfinished"), 1, 1);
    fs::remove_dir_all(place.path("unfinished/_recaption/runs")).expect("records");
    convert(&place, "unfinished", "parquet", &["--out", "c"])
        .ends(2)
        .warns("no run over this output has ended");
}

#[test]
fn new_shards_leave_earlier_files_and_removed_ones_take_theirs_along() {
    let place = Place::new();
    made_output(&place.path("out"), 3, 100);
    let arguments = ["--out", "a", "--rows-per-shard", "50"];
    convert(&place, "out", "parquet", &arguments).ends(0);
    let before = contents(&place.path("a"));
    made_output(&place.path("out"), 5, 100);
    let said = convert(&place, "out", "parquet", &arguments).ends(0);
    assert_eq!((&said.report()["files"], &said.report()["files_skipped"]), (&10.into(), &6.into()));
    let after = contents(&place.path("a"));
    assert!(before.iter().all(|(name, bytes)| name == "README.md" || after[name] == *bytes));
    fs::remove_dir_all(place.path("out")).expect("an output");
    made_output(&place.path("out"), 3, 100);
    convert(&place, "out", "parquet", &arguments).ends(0);
    assert_eq!(contents(&place.path("a")), before);
}

#[test]
fn a_divided_shard_that_shrinks_leaves_no_file_behind() {
    let place = Place::new();
    let arguments = ["--out", "a", "--rows-per-shard", "10"];
    made_output(&place.path("out"), 1, 25);
    convert(&place, "out", "parquet", &arguments).ends(0);
    fs::remove_dir_all(place.path("out")).expect("an output");
    made_output(&place.path("out"), 1, 12);
    convert(&place, "out", "parquet", &arguments).ends(0);
    convert(&place, "out", "parquet", &["--out", "b", "--rows-per-shard", "10"]).ends(0);
    assert_eq!(contents(&place.path("a")), contents(&place.path("b")), "as if it had always been so");
}

#[test]
fn folders_have_what_the_output_has_and_nothing_else() {
    let place = Place::new();
    let shard = |name: &str, keys: std::ops::Range<u64>| {
        let tar = keys.fold(Pack::new(), |tar, n| tar.file(&format!("{n}.jpg"), jpeg(n)));
        place.write(&format!("in/{name}.tar"), tar.close());
    };
    for (name, keys) in [("0", 0..3), ("1", 3..6), ("2", 6..9), ("3", 9..12)] {
        shard(name, keys);
    }
    let run = || drop(place.run(place.path("in"), "out").ends(0));
    run();
    for to in ["sidecar", "hf"] {
        convert(&place, "out", to, &["--out", to, "--rows-per-shard", "3"]).ends(0);
    }
    // A shard in the middle goes, and the last one loses rows.
    fs::remove_file(place.path("in/1.tar")).expect("a shard");
    shard("3", 9..10);
    fs::remove_dir_all(place.path("out")).expect("an output");
    run();
    for to in ["sidecar", "hf"] {
        convert(&place, "out", to, &["--out", to, "--rows-per-shard", "3"]).ends(0);
        let clean = format!("{to}-clean");
        convert(&place, "out", to, &["--out", &clean, "--rows-per-shard", "3"]).ends(0);
        let (found, clean) = (contents(&place.path(to)), contents(&place.path(&clean)));
        assert_eq!(found.keys().collect::<Vec<_>>(), clean.keys().collect::<Vec<_>>(), "{to}");
        assert!(found == clean, "{to}");

        // A folder that lost its images is written again, and the others are not.
        let gone = files_below(&place.path(to))
            .into_keys()
            .find(|name| name.extension().is_some_and(|e| e == "jpg"));
        let folder = place.path(to).join(gone.expect("an image").parent().expect("a folder"));
        for file in fs::read_dir(&folder).expect("a folder") {
            let file = file.expect("a file").path();
            if file.file_name().is_none_or(|name| name != "metadata.parquet") {
                if file.is_dir() { fs::remove_dir_all(file) } else { fs::remove_file(file) }
                    .expect("removed");
            }
        }
        let said = convert(&place, "out", to, &["--out", to, "--rows-per-shard", "3"]).ends(0);
        assert_eq!(said.report()["files_skipped"], 2, "{to}");
        assert!(contents(&place.path(to)) == found, "{to}");
    }
}

#[test]
fn blend_has_its_share_whatever_the_files() {
    let place = Place::new();
    made_output(&place.path("out"), 10, 10_000);
    let blend = ["--columns", "laion", "--blend-synthetic", "0.95"];
    let texts = |name: &str, more: &[&str]| -> Vec<String> {
        convert(&place, "out", "parquet", &[&["--out", name][..], &blend, more].concat()).ends(0);
        strings(&place.path(name), "TEXT")
    };
    let all = texts("a", &[]);
    let synthetic = all.iter().filter(|text| text.starts_with("synthetic")).count();
    assert_eq!(all.len(), 100_000);
    assert!((synthetic as f64 / 1e5 - 0.95).abs() < 0.005, "{synthetic}");
    assert_eq!(texts("b", &["--rows-per-shard", "777"]), all);
    assert_ne!(texts("c", &["--seed", "1"]), all);
    let copied = ["--out", "d", "--blend-synthetic", "0.95"];
    convert(&place, "out", "parquet", &copied).ends(0);
    assert_eq!(strings(&place.path("d"), "text"), all);
}

#[test]
fn run_writes_the_blend_that_convert_draws() {
    let place = Place::new();
    let input = place.draw("in", 3, 30);
    let blended = |name: &str| place.run(&input, name).set("blend.synthetic=0.5").set("run.seed=3");
    blended("a").arg("--threads").arg("1").ends(0);
    blended("b").arg("--batch-size").arg("3").ends(0);
    assert_eq!(
        part_bytes(&place.path("a")),
        part_bytes(&place.path("b")),
        "workers and order change nothing"
    );
    let texts = strings(&place.path("a/captions"), "text");
    let rows = output::read(&place.path("a")).captions;
    let mut synthetic = 0;
    for (text, row) in texts.iter().zip(&rows) {
        assert!(*text == row.caption || Some(text) == row.org_caption.as_ref(), "{text}");
        synthetic += usize::from(*text == row.caption);
    }
    assert!((20..70).contains(&synthetic), "{synthetic} of {}", rows.len());
    place.run(&input, "plain").ends(0);
    convert(&place, "plain", "parquet", &["--out", "p", "--blend-synthetic", "0.5", "--seed", "3"]).ends(0);
    assert_eq!(strings(&place.path("p"), "text"), texts);

    // It changes rows: another share is another output. The second pass copies the column, and conversions take it.
    place
        .run(&input, "a")
        .set("blend.synthetic=0.6")
        .set("run.seed=3")
        .ends(2)
        .warns("`blend.synthetic` was 0.5, is 0.6");
    recaption().dir(place.root()).args(["filter", "a", "--min-similarity", "-1", "--to", "f"]).ends(0);
    assert_eq!(strings(&place.path("f/captions"), "text"), texts);
    convert(&place, "f", "parquet", &["--out", "l", "--columns", "laion"]).ends(0);
    assert_eq!(strings(&place.path("l"), "TEXT"), texts);
}

#[test]
fn run_writes_a_webdataset_beside_the_tables() {
    let place = Place::new();
    let input = place.draw("in", 2, 10);
    place.write("in/broken.tar", Pack::new().file("x.jpg", "no picture").close());
    let run = |name: &str| place.run(&input, name).set("output.format=webdataset");
    run("a").arg("--threads").arg("1").ends(0);
    run("b").arg("--batch-size").arg("2").ends(0);
    place.run(&input, "plain").ends(0);
    let (a, b) = (place.path("a"), place.path("b"));
    let tars = |out: &Path| contents(&out.join("webdataset"));
    assert_eq!(tars(&a).len(), 3);
    assert!(tars(&a) == tars(&b), "bytes depend on the samples alone");
    assert_eq!(
        output::read(&a).captions,
        output::read(&place.path("plain")).captions,
        "no row changes by it"
    );
    assert!(output::read(&a).captions.iter().all(|row| row.image.is_none()), "tables are without images");
    let all: Vec<(String, Sample)> = commits(&a)
        .iter()
        .flat_map(|commit| samples(&a.join(&commit.webdataset.as_ref().expect("a part").path)))
        .collect();
    convert(&place, "plain", "webdataset", &["--out", "wds"]).ends(0);
    assert!(all == samples(&place.path("wds/000000.tar")), "the samples are those of a conversion");

    // A tar that is gone or damaged is a shard that is not done.
    let part = a.join(&commits(&a)[0].webdataset.as_ref().expect("a part").path);
    let bytes = fs::read(&part).expect("a tar");
    let mut damaged = bytes.clone();
    damaged[600] ^= 1;
    fs::write(&part, damaged).expect("a tar");
    recaption().args(["status", "--verify"]).arg(&a).ends(3).prints("has another content");
    fs::remove_file(&part).expect("a tar");
    recaption().arg("status").arg(&a).ends(3).prints("is missing");
    run("a").ends(0);
    assert!(fs::read(&part).expect("a tar") == bytes);

    // What a killed run left is removed, and so is what --overwrite replaces.
    let name = part.file_name().expect("a name").to_string_lossy().into_owned();
    let stem = name.rsplit_once('-').expect("a digest").0;
    let orphan = part.with_file_name(format!("{stem}-0123456789abcdef.tar"));
    fs::write(&orphan, "half").expect("a file");
    run("a").ends(0);
    assert!(!orphan.exists());
    run("a").set("caption.max_tokens=4").arg("--overwrite").ends(0);
    assert_eq!(tars(&a).len(), 3);
    assert!(!part.exists());
    place
        .run(&input, "a")
        .set("caption.max_tokens=4")
        .ends(2)
        .warns("`output.format` was webdataset, is unset");
    recaption().dir(place.root()).args(["filter", "b", "--min-similarity", "-1", "--to", "f"]).ends(0);
    assert!(commits(&place.path("f")).iter().all(|commit| commit.webdataset.is_none()));
    convert(&place, "f", "webdataset", &["--out", "again"]).ends(0);
    let tar = |name: &str| fs::read(place.path(name).join("000000.tar")).expect("a tar");
    assert!(tar("again") == tar("wds"));
}

#[test]
fn retries_add_their_samples_and_lists_are_fetched_again() {
    let place = Place::new();
    let answer = |n| if n == 5 { Answer::Late(times(2), 503, jpeg(n)) } else { Answer::File(jpeg(n)) };
    let server = Server::start((0..10).map(|n| (format!("/{n}.jpg"), answer(n))).collect());
    let row = |n| format!("http://127.0.0.1:{}/{n}.jpg\n", server.port());
    place.write("list.txt", (0..10).map(row).collect::<String>());
    let allow = "RECAPTION_FETCH__ALLOW_PRIVATE";
    let run = |out: &str| {
        let run = place.run(place.path("list.txt"), out).set("output.format=webdataset");
        run.set("input.rows_per_shard=8").set("fetch.retries=1").env(allow, "true")
    };
    run("out").ends(0);
    assert_eq!(output::read(&place.path("out")).rejects.len(), 1, "one image was not there yet");
    recaption().arg("retry").arg(place.path("out")).ends(0);
    run("clean").ends(0);
    let tars = |out: &str| contents(&place.path(out).join("webdataset"));
    assert_eq!(tars("out").len(), 2);
    assert!(tars("out") == tars("clean"), "as if it had been there at once");
    convert(&place, "out", "webdataset", &["--out", "wds"]).env(allow, "true").ends(0);
    let parts = commits(&place.path("out"));
    let parts = parts.iter().map(|commit| commit.webdataset.as_ref().expect("a part"));
    let of_run = parts.flat_map(|part| samples(&place.path("out").join(&part.path)));
    let of_run: BTreeMap<String, Sample> = of_run.collect();
    let converted = samples(&place.path("wds/000000.tar"));
    assert_eq!((converted.len(), of_run.len()), (10, 10));
    for (key, sample) in converted {
        assert!(of_run.get(&key) == Some(&sample), "{key} differs");
    }
}

#[test]
fn buckets_are_sources_and_targets() {
    let (bucket, folder) = (Bucket::moto(), Bucket::local());
    let port = bucket.service.as_ref().expect("a server").port();
    let convert = |place: &Bucket, from: &str, arguments: &[&str]| {
        let call = recaption().arg("convert").arg(place.url(from)).args(arguments);
        let call = call.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"));
        let call = call.env("AWS_ACCESS_KEY_ID", "tests").env("AWS_SECRET_ACCESS_KEY", "tests-secret");
        call.env("AWS_REGION", "us-east-1").env("AWS_ALLOW_HTTP", "true").ends(0).report()
    };
    for place in [&bucket, &folder] {
        place.put("in/00000.tar", support::shards::scenes(0, 8));
        place.put("in/00001.tar", support::shards::scenes(1, 8));
        place.run("in", "out").ends(0);
        for (to, rows) in [("webdataset", "8"), ("hf", "8"), ("sidecar", "8")] {
            let target = place.url(to);
            let arguments = ["--to", to, "--out", &target, "--rows-per-shard", rows];
            assert_eq!(convert(place, "out", &arguments)["samples"], 16);
            let again = convert(place, "out", &arguments);
            assert_eq!(again["files_skipped"], again["files"], "{to}: a rerun has nothing to do");
        }
    }
    // Shard names hold a digest of their URL.
    let count = |place: &Bucket, to: &str| place.list(to).len();
    for to in ["webdataset", "hf", "sidecar"] {
        assert_eq!(count(&bucket, to), count(&folder, to));
    }
    assert_eq!(bucket.get("webdataset/sizes.json"), folder.get("webdataset/sizes.json"));
    assert!(bucket.list("sidecar").iter().filter(|key| key.ends_with(".txt")).count() == 16);
}

#[test]
fn formats_that_a_run_does_not_write_name_the_command() {
    let place = Place::new();
    let input = place.draw("in", 1, 1);
    for format in ["sidecar", "hf"] {
        let said = place.run(&input, "out").set(&format!("output.format={format}")).ends(2);
        said.warns(&format!("recaption convert OUT --to {format}"));
    }
}
