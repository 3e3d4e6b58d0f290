//! Captions, URLs and JSON of inputs: found wherever tools write them, or reported and counted as missing.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc};

use arrow_array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, Int64Array, ListArray, RecordBatch, StringArray,
    StructArray, TimestampMicrosecondArray,
    builder::{ListBuilder, StringBuilder},
    types::Int32Type,
};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use recaption_schemas::InputCounts;
use serde_json::{Value, json};
use support::{
    Place,
    output::{self, Rows},
    program::recaption,
    shards::{Pack, jpeg},
};

fn run(place: &Place, input: impl AsRef<Path>, out: &str, settings: &[&str]) -> Rows {
    let mut call = place.run(input, out);
    for setting in settings {
        call = call.set(setting);
    }
    call.ends(0);
    output::read(&place.path(out))
}

fn counts(place: &Place, out: &str) -> InputCounts {
    let mut counts = InputCounts::default();
    output::commits(&place.path(out)).iter().for_each(|commit| counts.add(&commit.counts.input));
    counts
}

fn captions(rows: &Rows) -> Vec<Option<&str>> {
    rows.captions.iter().map(|row| row.org_caption.as_deref()).collect()
}

fn texts<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

fn pictures(count: u64) -> ArrayRef {
    let pictures: Vec<Vec<u8>> = (0..count).map(jpeg).collect();
    Arc::new(pictures.iter().map(|bytes| Some(&bytes[..])).collect::<BinaryArray>())
}

fn write_table(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let mut writer =
        ArrowWriter::try_new(File::create(path).expect("a file"), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");
}

#[test]
fn white_space_is_not_a_caption() {
    let place = Place::new();
    let mut pack = Pack::new();
    for (n, text) in ["a red circle\n", "", " \t\r\n", "\u{feff}", "a photo"].into_iter().enumerate() {
        pack = pack.file(&format!("{n}.jpg"), jpeg(n as u64)).file(&format!("{n}.txt"), text);
        place.write(&format!("f/{n}.jpg"), jpeg(n as u64));
        place.write(&format!("f/{n}.txt"), text);
    }
    let tar = place.write("a.tar", pack.close());
    let wanted = [Some("a red circle"), None, None, None, Some("a photo")];
    let table = place.path("t.parquet");
    write_table(
        &table,
        vec![
            ("jpg", pictures(5)),
            ("caption", texts([Some("a red circle "), Some(""), Some(" "), None, Some("a photo")])),
        ],
    );
    for (name, input) in [("tar", tar), ("folder", place.path("f")), ("table", table)] {
        let rows = run(&place, &input, name, &[]);
        assert_eq!(captions(&rows), wanted, "{name}");
        assert!(rows.captions.iter().all(|row| row.org_caption.is_some() == row.org_similarity.is_some()));
        assert_eq!(counts(&place, name).without_caption, 3, "{name}");
        let best = place.path(&format!("best-{name}"));
        let call = recaption().arg("filter").arg(place.path(name)).args([
            "--keep-top",
            "1",
            "--by",
            "org_similarity",
        ]);
        call.arg("--to").arg(&best).ends(0);
        assert_eq!(captions(&output::read(&best)), [Some("a red circle"), Some("a photo")], "{name}");
    }
}

#[test]
fn sidecar_json_of_python_is_stored_as_valid_json() {
    let place = Place::new();
    let base = "\"caption\":\"a red circle\",\"url\":\"http://x/1\"";
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let documents = [
        ("plain", format!("{{{base}, \"a\": [1,  2]}}")),
        ("nan", format!("{{{base},\"punsafe\":NaN}}")),
        ("inf", format!("{{{base},\"s\":-Infinity}}")),
        ("bom", format!("\u{feff}{{{base}}}")),
        ("big", format!("{{{base},\"f\":1e400}}")),
        ("lone", format!("{{{base},\"title\":\"x \\ud83d\"}}")),
        ("deep", format!("{{{base},\"d\":{deep}}}")),
        ("upper", "{\"CAPTION\":\"a red circle\",\"URL\":\"http://x/1\"}".to_owned()),
        ("list", "{\"captions\":[\" \",\"a red circle\",\"b\"],\"image_url\":\"http://x/1\"}".to_owned()),
    ];
    let mut pack = Pack::new();
    for (name, text) in &documents {
        pack = pack.file(&format!("{name}.jpg"), jpeg(0)).file(&format!("{name}.json"), text);
    }
    pack = pack.file("broken.jpg", jpeg(1)).file("broken.json", "{'caption': 'no JSON'}");
    let tar = place.write("a.tar", pack.close());
    place.run(&tar, "out").ends(0).warns("invalid sidecar JSON");
    let rows = output::read(&place.path("out"));
    for (row, (name, text)) in rows.captions.iter().zip(&documents) {
        assert_eq!(
            (row.key.as_str(), row.org_caption.as_deref(), row.url.as_deref()),
            (*name, Some("a red circle"), Some("http://x/1"))
        );
        let meta = row.meta.as_deref().expect("JSON");
        if ["plain", "deep", "upper", "list"].contains(name) {
            assert_eq!(meta, text, "valid JSON stays as it is");
        }
        if *name != "deep" {
            serde_json::from_str::<Value>(meta).expect("valid JSON");
        }
    }
    let broken = rows.captions.last().expect("rows");
    assert_eq!((broken.key.as_str(), &broken.meta, &broken.org_caption), ("broken", &None, &None));
    let input = counts(&place, "out");
    assert_eq!((input.unreadable_json, input.without_caption), (1, 1));
    let status = recaption().arg("status").arg(place.path("out")).ends(0);
    let status: Value = serde_json::from_str(&status.stdout).expect("JSON");
    assert_eq!(
        (&status["counts"]["unreadable_json"], &status["counts"]["without_caption"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn folder_metadata_covers_subfolders() {
    let place = Place::new();
    for (n, name) in ["images/a.jpg", "images/deep/b.jpg", "c.jpg", "images/d.jpg"].into_iter().enumerate() {
        place.write(&format!("f/{name}"), jpeg(n as u64));
    }
    let lines = [
        "{\"file_name\":\"images/a.jpg\",\"text\":\"root a\",\"score\":NaN}",
        "{\"file_name\":\"images/deep/b.jpg\",\"text\":[\"root b\",\"longer root b\"]}",
        "{\"file_name\": broken",
        "{\"file_name\":\"./c.jpg\",\"text\":\"root c\"}",
    ];
    place.write("f/metadata.jsonl", lines.join("\n"));
    // The nearest metadata file wins, in any format.
    place.write(
        "f/images/metadata.csv",
        "file_name,Caption,n\nd.jpg,near d,1\na.jpg,\"near a\",2\nx.jpg,\"open\nd2.jpg,x,3\n",
    );
    place.run(place.path("f"), "out").ends(0).warns("skipped malformed rows of a metadata file");
    let rows = output::read(&place.path("out"));
    let found: BTreeMap<&str, (&str, &str)> = rows
        .captions
        .iter()
        .map(|row| {
            (row.key.as_str(), (row.org_caption.as_deref().unwrap_or(""), row.meta.as_deref().unwrap_or("")))
        })
        .collect();
    assert_eq!(found["a"].0, "near a");
    assert_eq!(found["b"], ("root b", lines[1]));
    assert_eq!(found["c"].0, "root c");
    assert_eq!(found["d"], ("near d", "{\"file_name\":\"d.jpg\",\"Caption\":\"near d\",\"n\":\"1\"}"));
    let input = counts(&place, "out");
    assert_eq!((input.unreadable_json, input.without_caption, input.ignored_members), (2, 0, 0));

    // As Parquet, and a folder whose images have other captions already.
    let table = place.path("f/images/deep/metadata.parquet");
    write_table(&table, vec![("File_Name", texts([Some("b.jpg")])), ("text", texts([Some("table b")]))]);
    place.write("f/images/a.txt", "beside a");
    let rows = run(&place, place.path("f"), "again", &["input.caption_pick=longest"]);
    let found: BTreeMap<&str, Option<&str>> =
        rows.captions.iter().map(|row| (row.key.as_str(), row.org_caption.as_deref())).collect();
    assert_eq!((found["a"], found["b"]), (Some("beside a"), Some("table b")));
}

/// The hub's conversion of a webdataset to Parquet.
#[test]
fn columns_are_found_by_usual_names() {
    let place = Place::new();
    let table = place.path("hub.parquet");
    let fields = vec![(
        Arc::new(Field::new("url", DataType::Utf8, true)),
        texts([Some("http://x/0"), Some("http://x/1"), None]),
    )];
    let json: ArrayRef = Arc::new(StructArray::from(fields));
    write_table(
        &table,
        vec![
            ("jpg", pictures(3)),
            ("txt", texts([Some("cap 0"), Some("cap 1"), Some(" ")])),
            ("json", json),
            ("__key__", texts([Some("k0"), Some("k1"), Some("k2")])),
            ("__url__", texts([Some("s.tar"); 3])),
        ],
    );
    let output = place.run(&table, "out").ends(0);
    assert!(
        output.stderr.contains("image=jpg caption=txt url=none key=__key__ meta=json ignored=__url__"),
        "{}",
        output.stderr
    );
    let rows = output::read(&place.path("out"));
    assert_eq!(captions(&rows), [Some("cap 0"), Some("cap 1"), None]);
    let urls: Vec<Option<&str>> = rows.captions.iter().map(|row| row.url.as_deref()).collect();
    assert_eq!(urls, [Some("http://x/0"), Some("http://x/1"), None]);
    assert_eq!(rows.captions[0].meta.as_deref(), Some("{\"url\":\"http://x/0\"}"));
    // A configured column is found in any case too.
    let table = place.path("upper.parquet");
    write_table(
        &table,
        vec![("JPG", pictures(1)), ("Caption", texts([Some("c")])), ("KEY", texts([Some("k")]))],
    );
    let rows = run(&place, &table, "upper", &["input.image_column=jpg"]);
    assert_eq!((captions(&rows), rows.captions[0].key.as_str()), (vec![Some("c")], "k"));
}

#[test]
fn one_of_several_captions_is_picked_and_all_stay() {
    let place = Place::new();
    let list = |rows: &[&[&str]]| -> ArrayRef {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for row in rows {
            row.iter().for_each(|text| lists.values().append_value(text));
            lists.append(true);
        }
        Arc::new(lists.finish())
    };
    let table = place.path("t.parquet");
    let captions_of = [&["a", "the longest", "b c"][..], &[], &["only"], &[" ", "x"]];
    write_table(
        &table,
        vec![
            ("jpg", pictures(4)),
            ("captions", list(&captions_of)),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        ],
    );
    let rows = run(&place, &table, "first", &[]);
    assert_eq!(captions(&rows), [Some("a"), None, Some("only"), Some("x")]);
    assert_eq!(
        rows.captions[0].meta.as_deref(),
        Some("{\"captions\":[\"a\",\"the longest\",\"b c\"],\"n\":1}")
    );
    let rows = run(&place, &table, "longest", &["input.caption_pick=longest"]);
    assert_eq!(captions(&rows)[0], Some("the longest"));
    let random = |out: &str, seed: &str| {
        let seed = format!("run.seed={seed}");
        let rows = run(&place, &table, out, &["input.caption_pick=random", &seed]);
        captions(&rows).into_iter().map(|caption| caption.map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(random("r0", "0"), random("r1", "0"));
    let all: std::collections::BTreeSet<_> =
        (0..8).map(|seed| random(&format!("s{seed}"), &seed.to_string())[0].clone()).collect();
    assert!(all.len() > 1, "other seeds take others: {all:?}");
    place.run(&table, "first").set("input.caption_pick=longest").ends(2).warns("input.caption_pick");
}

#[test]
fn meta_holds_values_of_all_types() {
    let place = Place::new();
    let table = place.path("t.parquet");
    let item = Arc::new(Field::new("a", DataType::Int64, true));
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let decimal = Decimal128Array::from(vec![150]).with_precision_and_scale(10, 2).expect("a decimal");
    write_table(
        &table,
        vec![
            ("jpg", pictures(1)),
            ("ts", Arc::new(TimestampMicrosecondArray::from(vec![1_577_836_800_000_000]))),
            (
                "zoned",
                Arc::new(TimestampMicrosecondArray::from(vec![1_577_836_800_500_000]).with_timezone("UTC")),
            ),
            ("date", Arc::new(Date32Array::from(vec![18_262]))),
            ("dec", Arc::new(decimal)),
            ("tags", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(7), None])]))),
            ("st", Arc::new(StructArray::from(vec![(item, Arc::clone(&one))]))),
            ("i", one),
            ("s", texts([Some("x")])),
            ("raw", Arc::new(BinaryArray::from(vec![&b"\xff"[..]]))),
        ],
    );
    let output = place.run(&table, "out").ends(0);
    assert!(output.stderr.contains("ignored=raw"), "{}", output.stderr);
    let rows = output::read(&place.path("out"));
    let meta: Value = serde_json::from_str(rows.captions[0].meta.as_deref().expect("JSON")).expect("JSON");
    assert_eq!(
        meta,
        json!({
            "ts": "2020-01-01T00:00:00", "zoned": "2020-01-01T00:00:00.500Z", "date": "2020-01-01", "dec": "1.50",
            "tags": [7, null], "st": {"a": 1}, "i": 1, "s": "x",
        })
    );
}

#[test]
fn columns_in_use_are_logged_once_per_format() {
    let place = Place::new();
    for shard in 0..6 {
        let pack =
            Pack::new().file("a.jpg", jpeg(0)).file("a.txt", "x").file("a.cls", "3").file("a.json", "{}");
        place.write(&format!("t/{shard}.tar"), pack.close());
    }
    place.write("f/a.jpg", jpeg(0));
    let list = place.write("l.csv", "Address,URL,ALT_TEXT\nx,ftp://a,b\n");
    let output = place.run_all(&[place.path("t"), place.path("f"), list], "out").ends(0);
    for line in [
        "image=.jpg caption=.txt meta=.json ignored=.cls",
        "image=.jpg caption=none meta=none metadata files=0",
        "url=URL caption=ALT_TEXT key=row number meta=Address",
    ] {
        assert_eq!(output.stderr.matches(line).count(), 1, "{line}: {}", output.stderr);
    }
    assert!(output.stdout.contains("\"without_caption\":1"), "{}", output.stdout);
}
