//! `recaption preview` shows the rows that a run makes of a sample, and writes nothing to the output; `recaption run --limit` and
//! `--sample` make outputs that the full run continues.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    path::Path,
    sync::Arc,
};

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::{
    arrow::ArrowWriter,
    basic::Compression,
    file::properties::{EnabledStatistics, WriterProperties},
};
use serde_json::Value;
use support::{
    Place,
    bucket::Bucket,
    files_below, model,
    output::{self, Rows},
    program::{Call, recaption},
    server::{Answer, Server},
    shards::{Pack, jpeg, scenes},
};

fn preview(place: &Place, input: impl AsRef<Path>) -> Call {
    recaption()
        .dir(place.root())
        .arg("preview")
        .arg("--model")
        .arg(model())
        .arg("--input")
        .arg(input.as_ref())
}

fn json(call: Call, code: i32) -> Value {
    call.arg("--log-format").arg("json").ends(code).report()
}

#[track_caller]
fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {report:#}"))
}

#[track_caller]
fn list<'a>(report: &'a Value, name: &str) -> &'a [Value] {
    report[name].as_array().unwrap_or_else(|| panic!("no list {name} in {report:#}"))
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

fn similarity(value: &Value) -> Option<u32> {
    value.as_f64().map(|similarity| (similarity as f32).to_bits())
}

/// Every caption and reject of a preview must be the run's row of that shard and key, to the last bit.
#[track_caller]
fn check_rows(preview: &Value, rows: &Rows) {
    for caption in list(preview, "captions") {
        let (shard, key) = (text(&caption["shard"]), text(&caption["key"]));
        let row = rows.captions.iter().find(|row| Some(&*row.shard) == shard && Some(&*row.key) == key);
        let row = row.unwrap_or_else(|| panic!("the run has no row of {caption:#}"));
        assert_eq!(text(&caption["caption"]), Some(&*row.caption), "{row:#?}");
        assert_eq!(similarity(&caption["similarity"]), Some(row.similarity.0), "{row:#?}");
        assert_eq!(text(&caption["org_caption"]), row.org_caption.as_deref(), "{row:#?}");
        assert_eq!(similarity(&caption["org_similarity"]), row.org_similarity.map(|s| s.0), "{row:#?}");
        assert_eq!(list(caption, "candidates").len(), row.candidates.len(), "{row:#?}");
        let size = (caption["width"].as_i64(), caption["height"].as_i64());
        assert_eq!(size, (Some(row.width.into()), Some(row.height.into())), "{row:#?}");
    }
    for reject in list(preview, "rejects") {
        let is_its = |row: &&output::Rejected| {
            Some(&*row.shard) == text(&reject["shard"]) && Some(&*row.key) == text(&reject["key"])
        };
        let row = rows.rejects.iter().find(is_its);
        let row = row.unwrap_or_else(|| panic!("the run has no reject of {reject:#}"));
        assert_eq!(text(&reject["reason"]), Some(&*row.reason), "{row:#?}");
        assert_eq!(text(&reject["org_caption"]), row.org_caption.as_deref(), "{row:#?}");
    }
    let images = (list(preview, "captions").len() + list(preview, "rejects").len()) as u64;
    assert_eq!(number(preview, "images"), images);
    assert_eq!(number(preview, "captioned") + number(preview, "rejected"), images);
}

fn keys(preview: &Value) -> BTreeSet<(String, String)> {
    let of = |sample: &Value| {
        let part = |name: &str| sample[name].as_str().expect("a text").to_owned();
        (part("shard"), part("key"))
    };
    list(preview, "captions").iter().chain(list(preview, "rejects")).map(of).collect()
}

#[test]
fn preview_of_tars_shows_the_runs_rows_and_reads_a_part() {
    let place = Place::new();
    let input = place.draw("in", 3, 500);
    let config = format!(
        "[input]\nshards = [\"in\"]\n[model]\ncaptioner = \"{}\"\n[output]\nurl = \"out\"\n",
        model().display()
    );
    place.write("run.toml", config);
    let call = || recaption().dir(place.root()).arg("preview").arg("run.toml").args(["--samples", "12"]);
    let first = json(call(), 0);
    assert!(!place.path("out").exists(), "a preview writes nothing to the output");
    let written: Vec<_> = files_below(&place.path("recaption-preview")).into_keys().collect();
    assert_eq!(written, [Path::new("preview.json"), Path::new("report.html")]);
    assert_eq!(number(&first, "captioned"), 12, "{first:#}");
    let shards: BTreeSet<String> = keys(&first).into_iter().map(|(shard, _)| shard).collect();
    assert_eq!(shards.len(), 3, "the sample is spread over all shards");
    let [read, all] = ["bytes_read", "input_bytes"].map(|name| number(&first, name));
    let sizes =
        fs::read_dir(&input).expect("shards").map(|e| e.expect("a shard").metadata().expect("a size"));
    assert_eq!(all, sizes.map(|meta| meta.len()).sum::<u64>());
    assert!(read < all * 6 / 10, "{read} of {all} bytes were read");
    let per_sample = first["tar_bytes_per_sample"].as_f64().expect("an estimate");
    let estimate = all as f64 / per_sample;
    assert!((1000.0..2200.0).contains(&estimate), "1500 samples estimated as {estimate}");

    let again = json(call().args(["--set", "run.threads=1", "--set", "input.concurrent_shards=1"]), 0);
    assert_eq!(keys(&first), keys(&again), "the sample depends on seed and input alone");
    let other = json(call().args(["--seed", "7"]), 0);
    assert_ne!(keys(&first), keys(&other), "another seed, another sample");

    place.run(&input, "out").ends(0);
    let rows = output::read(&place.path("out"));
    for preview in [first, again, other] {
        check_rows(&preview, &rows);
    }
    let said = call().args(["--log-format", "text"]).ends(0);
    said.prints("12 read = 12 captioned + 0 rejected")
        .prints("images/s")
        .prints("recaption-preview/report.html");
    assert!(said.stdout.lines().all(|line| line.chars().count() <= 80), "{}", said.stdout);
    let record = fs::read_to_string(place.path("recaption-preview/preview.json")).expect("a record");
    let record: Value = serde_json::from_str(&record).expect("JSON");
    assert_eq!((number(&record, "format"), number(&record, "images")), (1, 12));
    assert!(record["configuration"]["model.captioner"].is_string(), "{record:#}");
}

/// A tar whose samples have what tars may have: long names, missing and broken images, other members between them.
fn odd_tar(samples: u64) -> Vec<u8> {
    let mut pack = Pack::new().directory("d/");
    let filler = "a caption of some length ".repeat(400);
    for n in 0..samples {
        let long = format!("d/{}/{n:05}", "long-name-".repeat(12));
        pack = match n % 7 {
            0 => pack.pax_file(&format!("{long}.jpg"), jpeg(n)).pax_file(&format!("{long}.txt"), &filler),
            1 => pack
                .gnu_long_file(&format!("{long}.jpg"), jpeg(n))
                .gnu_long_file(&format!("{long}.txt"), "gnu"),
            2 => pack.file(&format!("d/{n:05}.txt"), &filler),
            3 => pack.file(&format!("d/{n:05}.jpg"), &jpeg(n)[..600]).file(&format!("d/{n:05}.txt"), &filler),
            4 => pack.file(&format!("d/._{n:05}.jpg"), "hidden").file(&format!("d/{n:05}.jpg"), jpeg(n)),
            _ => pack.file(&format!("d/{n:05}.jpg"), jpeg(n)).file(&format!("d/{n:05}.json"), "{\"a\": 1}"),
        };
    }
    pack.close()
}

#[test]
fn preview_of_odd_and_unreadable_tars_shows_their_rejects() {
    let place = Place::new();
    place.write("in/odd.tar", odd_tar(350));
    let compressed = zstd::bulk::compress(&scenes(1, 30), 3).expect("memory");
    place.write("in/packed.tar.zst", compressed);
    place.write("in/broken.tar", b"<html>not found</html>".repeat(60_000));
    place.run(place.path("in"), "out").ends(3);
    let rows = output::read(&place.path("out"));
    let mut reasons = BTreeSet::new();
    for seed in 0..4 {
        let seed = seed.to_string();
        let call = preview(&place, "in").args(["--samples", "16", "--seed", &seed]);
        let shown = json(call, 3);
        check_rows(&shown, &rows);
        assert!(number(&shown, "images") >= 8, "{shown:#}");
        let failed = shown["shards_failed"].as_object().expect("failed shards");
        assert_eq!(failed.len(), 1, "{shown:#}");
        assert!(
            failed
                .iter()
                .all(|(shard, why)| shard.ends_with("/broken.tar") && why.to_string().contains("HTML"))
        );
        reasons.extend(list(&shown, "rejects").iter().filter_map(|r| text(&r["reason"])).map(str::to_owned));
    }
    assert_eq!(reasons, ["corrupt_image".to_owned(), "missing_image".to_owned()].into());
    let said = preview(&place, "in").args(["--samples", "16", "--log-format", "text"]).ends(3);
    said.prints("missing_image").prints("failed    file://").prints("broken.tar");
}

/// Writes a table of images, with row groups of 25 rows and pages of two images, and its page index if wanted.
fn write_table(path: &Path, images: u64, has_index: bool) {
    let images: Vec<Vec<u8>> = (0..images).map(jpeg).collect();
    let captions: Vec<String> = (0..images.len()).map(|n| format!("picture {n}")).collect();
    let columns: [(&str, ArrayRef); 2] = [
        ("jpg", Arc::new(images.iter().map(|image| Some(image.as_slice())).collect::<BinaryArray>())),
        ("caption", Arc::new(captions.iter().map(Some).collect::<StringArray>())),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a table");
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(2)
        .set_write_batch_size(2)
        .set_max_row_group_row_count(Some(25))
        .set_offset_index_disabled(!has_index)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");
}

#[test]
fn preview_of_tables_reads_pages_or_few_row_groups() {
    let place = Place::new();
    for (name, has_index) in [("indexed", true), ("plain", false)] {
        write_table(&place.path(&format!("{name}/00000.parquet")), 600, has_index);
        let shown = json(preview(&place, name).args(["--samples", "15"]), 0);
        let out = format!("out-{name}");
        place.run(place.path(name), &out).ends(0);
        check_rows(&shown, &output::read(&place.path(&out)));
        assert_eq!(number(&shown, "captioned"), 15, "{shown:#}");
        let [read, all] = ["bytes_read", "input_bytes"].map(|name| number(&shown, name));
        assert!(read < all / 4, "{name}: {read} of {all} bytes");
        let rows: Vec<u64> =
            shown["shard_samples"].as_object().expect("counts").values().filter_map(Value::as_u64).collect();
        assert_eq!(rows, [600], "a footer counts its rows");
    }
}

#[test]
fn preview_of_lists_and_folders_shows_the_runs_rows() {
    let place = Place::new();
    let mut answers = HashMap::new();
    (0..40).for_each(|n| drop(answers.insert(format!("/{n}.jpg"), Answer::File(jpeg(n)))));
    let server = Server::start(answers);
    let mut csv = "url,caption\n".to_owned();
    for n in 0..60 {
        csv += &format!("http://127.0.0.1:{}/{n}.jpg,\"number, {n}\"\n", server.port());
    }
    place.write("list.csv", &csv);
    place.write("packed.csv.zst", zstd::bulk::compress(csv.as_bytes(), 3).expect("memory"));
    for n in 0..30 {
        place.write(&format!("photos/{n:02}.jpg"), jpeg(n));
        place.write(&format!("photos/{n:02}.txt"), format!("photo {n}"));
    }
    place.write("photos/00.webp", b"RIFF\0\0\0\0WEBPVP8 ");
    for input in ["list.csv", "packed.csv.zst", "photos"] {
        let settings =
            ["fetch.allow_private=true", "fetch.retries=0", "input.rows_per_shard=25"].map(str::to_owned);
        let with = |call: Call| settings.iter().fold(call, |call, setting| call.set(setting));
        let shown = json(with(preview(&place, input)).args(["--samples", "12"]), 0);
        let out = format!("out-{input}");
        with(place.run(place.path(input), &out)).ends(0);
        check_rows(&shown, &output::read(&place.path(&out)));
        assert_eq!(number(&shown, "images"), 12, "{shown:#}");
        let parts = if input == "list.csv" { 3 } else { 1 };
        assert_eq!(number(&shown, "shards"), parts, "{shown:#}");
        let counts = shown["shard_samples"].as_object().expect("counts");
        let wanted = if input == "photos" { 31 } else { 60 };
        assert_eq!(counts.values().filter_map(Value::as_u64).sum::<u64>(), wanted, "{shown:#}");
    }
}

#[test]
fn preview_over_a_bucket_asks_for_ranges_and_writes_nothing() {
    let bucket = Bucket::gcs();
    (0..2).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 500)));
    let place = Place::new();
    let stub = bucket.gcs.as_ref().expect("the stub");
    let before = stub.asked().len();
    let call =
        || bucket.command("preview", "in", &bucket.url("out")).dir(place.root()).args(["--samples", "6"]);
    let shown = json(call(), 0);
    let asked = stub.asked().split_off(before);
    assert!(!asked.is_empty() && asked.iter().all(|one| matches!(&*one.method, "GET" | "HEAD")), "{asked:?}");
    assert!(bucket.list("out").is_empty());
    let [read, all] = ["bytes_read", "input_bytes"].map(|name| number(&shown, name));
    assert!(read < all * 6 / 10, "{read} of {all} bytes");
    // The output is not looked at.
    let elsewhere = "s3://a-bucket-that-nobody-made/out";
    let unreachable = bucket.command("preview", "in", elsewhere).dir(place.root()).args(["--samples", "6"]);
    assert_eq!(keys(&json(unreachable.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), 0)), keys(&shown));
}

#[test]
fn preview_refuses_folders_of_others_and_bad_numbers() {
    let place = Place::new();
    let input = place.draw("in", 1, 3);
    place.write("mine/notes.txt", "mine");
    let refused = preview(&place, &input).args(["--dir", "mine"]).ends(2);
    refused.warns("mine holds notes.txt").warns("choose another folder");
    assert_eq!(files_below(&place.path("mine")).len(), 1);
    let inside = preview(&place, &input).args(["--output", "out", "--dir", "out/preview"]).ends(2);
    inside.warns("overlaps the output");
    assert!(!place.path("out").exists());
    preview(&place, &input).args(["--samples", "0"]).ends(2);
    preview(&place, place.path("nothing")).ends(1);
    place.write("empty/0.tar", Pack::new().close());
    preview(&place, "empty").ends(1).warns("no sample could be read: the shards are empty");
    // An earlier preview is replaced, and fewer samples than asked for are no error.
    preview(&place, &input).ends(0);
    let shown = json(preview(&place, &input), 0);
    assert_eq!(number(&shown, "captioned"), 3);
}

fn commits(place: &Place, out: &str) -> BTreeMap<String, String> {
    let name = |shard: &str| shard.rsplit('/').next().expect("a name").to_owned();
    let commits = output::commits(&place.path(out));
    commits.into_iter().map(|commit| (name(&commit.shard), commit.captions.path)).collect()
}

/// The full run continues a partial one: nothing is redone, nothing is deleted, and the output is the undisturbed run's.
#[test]
fn sample_and_limit_make_outputs_that_the_full_run_continues() {
    let place = Place::new();
    let input = place.draw("in", 12, 5);
    place.run(&input, "whole").ends(0);
    let wanted = output::part_bytes(&place.path("whole"));
    let run = |out: &str, more: &[&str]| place.run(&input, out).args(more);

    let report = json(run("sampled", &["--sample", "0.25", "--retire"]), 0);
    let done = number(&report, "shards_done");
    assert!((1..8).contains(&done), "{report:#}");
    assert_eq!(number(&report, "shards_not_selected"), 12 - done, "{report:#}");
    let (small, files) = (commits(&place, "sampled"), files_below(&place.path("sampled/captions")));
    let report = json(run("sampled", &["--sample", "0.5"]), 0);
    assert_eq!(number(&report, "shards_skipped"), done, "a larger share includes the smaller one");
    let large = commits(&place, "sampled");
    assert!(small.iter().all(|shard| large.contains_key(shard.0)), "{small:?}, {large:?}");

    let report = json(run("limited", &["--limit", "12"]), 0);
    let counts = (number(&report, "shards_done"), report["counts"]["read"].as_u64());
    assert_eq!(counts, (3, Some(15)), "whole shards until 12 samples were read: {report:#}");
    assert_eq!((number(&report, "shards_not_selected"), number(&report, "shards_incomplete")), (9, 0));
    let limited = commits(&place, "limited");
    json(run("again", &["--limit", "12", "--set", "run.threads=1", "--set", "input.concurrent_shards=1"]), 0);
    assert_eq!(commits(&place, "again"), limited, "the same shards, whatever the threads");
    let report = json(run("again", &["--limit", "1"]), 0);
    assert_eq!((number(&report, "shards_done"), number(&report, "shards_skipped")), (1, 3), "the next shard");
    let said = run("again", &["--limit", "1", "--log-format", "text"]).ends(0);
    said.prints("7 shards not selected");

    for (out, done) in [("sampled", large.len()), ("limited", 3), ("again", 5)] {
        let report = json(run(out, &["--retire"]), 0);
        assert_eq!(number(&report, "shards_skipped") as usize, done, "nothing is redone: {report:#}");
        assert_eq!(number(&report, "shards_done") as usize, 12 - done, "{report:#}");
        assert_eq!(output::part_bytes(&place.path(out)), wanted, "{out}");
    }
    for (file, time) in files {
        assert_eq!(files_below(&place.path("sampled/captions"))[&file], time, "{} stays", file.display());
    }
}

#[test]
fn partial_runs_keep_what_they_do_not_select() {
    let place = Place::new();
    let server = Server::start((0..40).map(|n| (format!("/{n}.jpg"), Answer::File(jpeg(n)))).collect());
    let list = |rows: u64| {
        let rows = (0..rows).map(|n| format!("http://127.0.0.1:{}/{n}.jpg\n", server.port()));
        place.write("in/list.txt", rows.collect::<String>())
    };
    list(40);
    place.write("in/gone.tar", scenes(1, 3));
    place.write("in/stays.tar", scenes(2, 3));
    let run = |more: &[&str]| {
        let call = place.run_all(&[place.path("in/list.txt"), place.path("in/*.tar")], "out");
        call.set("fetch.allow_private=true").set("input.rows_per_shard=10").args(more)
    };
    let report = json(run(&[]), 0);
    assert_eq!(number(&report, "shards_done"), 6, "{report:#}");

    // A list that became shorter loses its last parts only when its other parts are all done again.
    list(20);
    fs::remove_file(place.path("in/gone.tar")).expect("a shard can be removed");
    let parts_of_list = || commits(&place, "out").into_keys().filter(|name| name.starts_with("list")).count();
    let report = json(run(&["--limit", "1"]), 0);
    assert_eq!(
        (number(&report, "shards_done"), number(&report, "shards_not_selected")),
        (1, 1),
        "{report:#}"
    );
    assert_eq!(parts_of_list(), 4, "the list is not whole");
    // A seed whose share is a shard that is done: shards are chosen by their paths, and the place has another one every time.
    let planned = |seed: &String| {
        let call = recaption().dir(place.root()).args(["plan", "--sample", "0.000001", "--set", seed]);
        let call = call.arg("--model").arg(model()).arg("--output").arg(place.path("out"));
        let call =
            call.arg("--input").arg(place.path("in/list.txt")).arg("--input").arg(place.path("in/*.tar"));
        json(call.set("fetch.allow_private=true").set("input.rows_per_shard=10"), 0)
    };
    let mut seeds = (0..100).map(|n| format!("run.seed={n}"));
    let seed = seeds.find(|seed| number(&planned(seed)["shards"], "not_selected") == 1).expect("a seed");
    let report = json(run(&["--sample", "0.000001", "--set", &seed]), 0);
    assert_eq!(
        (number(&report, "shards_done"), number(&report, "shards_not_selected")),
        (0, 1),
        "{report:#}"
    );
    assert_eq!(parts_of_list(), 4, "the list is not whole");
    let report = json(run(&["--retire", "--sample", "0.000001", "--set", &seed]), 0);
    let orphans = list_of(&report, "shards_orphaned");
    assert!(orphans.len() == 1 && orphans[0].starts_with("gone-"), "only what has no input: {orphans:?}");
    assert!(commits(&place, "out").contains_key("stays.tar"));
    json(run(&[]), 0);
    assert_eq!(parts_of_list(), 2);
    assert_eq!(output::read(&place.path("out")).captions.len(), 20 + 3);
}

fn list_of(report: &Value, name: &str) -> Vec<String> {
    list(report, name).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn limit_and_sample_are_checked() {
    let place = Place::new();
    let input = place.draw("in", 3, 2);
    let run = |more: &[&str]| place.run(&input, "out").args(more);
    run(&["--limit", "0"]).ends(2);
    for fraction in ["0", "1.5", "-1", "half"] {
        run(&["--sample", fraction]).ends(2);
    }
    run(&["--sample", "0.5", "--overwrite"]).ends(2).warns("cannot be used with");
    run(&["--limit", "5", "--overwrite"]).ends(2).warns("cannot be used with");
    assert!(!place.path("out").exists());
    // A shard that fails is no sample: the next ones are read.
    place.write("in/00003.tar", b"<html>not found</html>".repeat(100));
    let report = json(run(&["--limit", "100"]), 3);
    assert_eq!((number(&report, "shards_done"), number(&report, "shards_not_selected")), (3, 0));
    // Shards that --since excludes are not read, whatever the limit.
    let report = json(run(&["--limit", "100", "--since", "1999-12-31"]), 4);
    assert_eq!(number(&report, "shards_skipped"), 3);
    let report = json(run(&["--sample", "1", "--limit", "1"]), 4);
    assert_eq!(number(&report, "shards_not_selected"), 0, "{report:#}");
}
