//! `recaption filter`: the rows that it keeps, what it leaves behind, and what it refuses.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{collections::BTreeMap, fs, fs::File, path::Path, sync::Arc};

use arrow_array::{Array, BooleanArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use recaption_output::{
    PartTarget, PartWriter,
    commits::{CommitLog, CommitRequest},
};
use recaption_schemas::{
    AddedColumns, COMMIT_FORMAT, Candidate, Candidates, CaptionRow, CaptionTable, Counts, ShardCommit,
    ShardId, Similarity, caption_schema, reject_schema,
};
use recaption_store::Stores;
use serde_json::{Value, json};
use support::{
    Place, files_below,
    output::{self, commits, parts},
    program::{Call, recaption},
};

/// Similarity and, where there is an original caption, its similarity.
type Scores = (f32, Option<f32>);

/// Writes an output as a run would leave it: one shard per list of rows.
fn dataset(out: &Path, shards: &[&[Scores]]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        for (number, rows) in shards.iter().enumerate() {
            shard(out, &format!("s3://b/{number:05}.tar"), rows).await;
        }
    });
}

async fn shard(out: &Path, url: &str, rows: &[Scores]) {
    let location = Stores::default().locate(&out.to_string_lossy()).expect("a path");
    let id = ShardId::from_url(url);
    let schema =
        Arc::new(caption_schema(AddedColumns::default(), [("recaption.model".into(), "m".into())].into()));
    let mut table = CaptionTable::new(Arc::clone(&schema), url.into());
    for (n, (similarity, original)) in rows.iter().enumerate() {
        let candidate = Candidate {
            text: format!("caption {n}"),
            similarity: Similarity::new(*similarity).expect("finite"),
            logprob: -1.5,
            itm: None,
        };
        table.push(&CaptionRow {
            key: format!("{}-{n}", id.as_str()),
            candidates: Candidates::new(vec![candidate]).expect("one"),
            org_caption: original.map(|_| format!("original {n}")),
            org_similarity: original.and_then(Similarity::new),
            org_itm: None,
            width: 4,
            height: 3,
            sha256: String::new(),
            url: None,
            meta: None,
            image: None,
        });
    }
    let place = |table| {
        let (output, shard, fingerprint) = (&location, id.as_str(), "0123-4567");
        PartTarget { output, table, shard, fingerprint }
    };
    let mut part = PartWriter::new(place("captions"), schema).expect("a part");
    if !rows.is_empty() {
        part.write(table.finish().expect("rows")).await.expect("written");
    }
    let captions = part.finish().await.expect("uploaded").info();
    let part = PartWriter::new(place("rejects"), Arc::new(reject_schema([].into()))).expect("a part");
    let rejects = part.finish().await.expect("uploaded").info();
    let n = rows.len() as u64;
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

fn filter(place: &Place, from: &str, arguments: &[&str], to: &str) -> Call {
    let call = recaption().dir(place.root()).arg("filter").arg(place.path(from)).args(arguments);
    call.arg("--to").arg(place.path(to))
}

/// Similarities of all rows of an output, in its order.
fn similarities(out: &Path) -> Vec<f32> {
    output::read(out).captions.iter().map(|row| row.similarity.get()).collect()
}

fn record(out: &Path) -> Value {
    let bytes = fs::read(out.join("_recaption/filter.json")).expect("a record");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Everything but the record, which holds times.
fn essence(out: &Path) -> BTreeMap<String, Vec<u8>> {
    files_below(out)
        .into_keys()
        .filter(|name| !name.ends_with("filter.json"))
        .map(|name| (name.display().to_string(), fs::read(out.join(&name)).expect("a file")))
        .collect()
}

#[test]
fn keep_top_equals_a_sort_and_loses_no_row() {
    let place = Place::new();
    let input = place.draw("in", 4, 15);
    // Some samples are rejects already: they stay what they are.
    place.write("in/broken.tar", support::shards::Pack::new().file("x.jpg", "no picture").close());
    place.run(&input, "out").ends(0);
    let (out, top) = (place.path("out"), place.path("top"));
    let before = files_below(&out);
    let source = output::read(&out);
    let mut sorted: Vec<f32> = source.captions.iter().map(|row| row.similarity.get()).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let threshold = sorted[17];

    let said = filter(&place, "out", &["--keep-top", "0.3"], "top").ends(0);
    assert_eq!(files_below(&out), before, "the source was touched");
    let rows = output::read(&top);
    let (kept, left): (Vec<_>, Vec<_>) =
        source.captions.into_iter().partition(|row| row.similarity.get() >= threshold);
    assert_eq!(rows.captions, kept, "every column of every kept row is the source's");
    assert_eq!(rows.rejects.len(), left.len() + 1);
    assert!(rows.rejects.contains(&source.rejects[0]));
    for row in &left {
        let reject = rows.rejects.iter().find(|reject| reject.key == row.key).expect("a reject");
        assert_eq!((reject.reason.as_str(), &reject.shard), ("below_similarity", &row.shard));
        assert_eq!((reject.caption.as_ref(), &reject.org_caption), (Some(&row.caption), &row.org_caption));
        assert!(reject.detail.contains("--keep-top 0.3") && reject.similarity == Some(row.similarity));
    }
    let report = said.report();
    assert_eq!(report, record(&top));
    let counts = json!({"read": 60, "selected": kept.len(), "below": left.len(), "missing": 0});
    assert_eq!((&report["rows"], &report["ties"]), (&counts, &json!(kept.len() - 18)));
    assert_eq!(report["threshold"].as_f64().expect("a number") as f32, threshold);
    recaption().arg("inspect").arg(&top).ends(0).prints("setting   selection.1 = similarity >= ");
}

#[test]
fn thresholds_keep_the_rows_of_a_run_with_them() {
    let place = Place::new();
    let input = place.draw("in", 2, 12);
    place.run(&input, "all").ends(0);
    let mut sorted = similarities(&place.path("all"));
    sorted.sort_by(f32::total_cmp);
    let least = sorted[8].to_string();
    place.run(&input, "run").args(["--min-similarity", &least]).ends(0);
    filter(&place, "all", &["--min-similarity", &least], "filtered").ends(0);
    let (run, filtered) = (output::read(&place.path("run")), output::read(&place.path("filtered")));
    assert_eq!(run.captions, filtered.captions);
    let keys = |rows: &output::Rows| {
        rows.rejects.iter().map(|r| (r.key.clone(), r.reason.clone())).collect::<Vec<_>>()
    };
    assert_eq!(keys(&run), keys(&filtered));
}

#[test]
fn schema_and_metadata_add_the_selection_only() {
    let place = Place::new();
    let input = place.draw("in", 1, 6);
    place.run(&input, "out").set("output.images=embed").ends(0);
    filter(&place, "out", &["--keep-top", "0.5"], "half").ends(0);
    filter(&place, "out", &["--keep-top", "0.5", "--column", "good"], "marked").ends(0);
    let open = |name: &str| {
        let part = parts(&place.path(name)).remove(0);
        ParquetRecordBatchReaderBuilder::try_new(File::open(part).expect("a part")).expect("Parquet")
    };
    let (source, half, marked) = (open("out"), open("half"), open("marked"));
    assert_eq!(source.schema().fields(), half.schema().fields());
    let metadata = |b: &ParquetRecordBatchReaderBuilder<File>| {
        let all: std::collections::HashMap<String, String> = b.schema().metadata().clone().into();
        all.into_iter().collect::<BTreeMap<_, _>>()
    };
    let mut with = metadata(&half);
    let passes: Value =
        serde_json::from_str(&with.remove("recaption.filter").expect("the selection")).expect("JSON");
    assert_eq!((&passes[0]["by"], &passes[0]["keep_top"]), (&json!("similarity"), &json!("0.5")));
    assert_eq!(passes[0]["threshold"], record(&place.path("half"))["threshold"]);
    assert_eq!(with, metadata(&source));

    // A column marks what the other pass keeps; rows and rejects are all there.
    assert_eq!(marked.schema().fields().len(), source.schema().fields().len() + 1);
    let features: Value = serde_json::from_str(&metadata(&marked)["huggingface"]).expect("JSON");
    assert_eq!(features["info"]["features"]["good"], json!({"dtype": "bool", "_type": "Value"}));
    let all = output::read(&place.path("marked"));
    assert_eq!(all, output::read(&place.path("out")));
    let kept = output::read(&place.path("half")).captions;
    let batch = marked.build().expect("a reader").next().expect("a batch").expect("rows");
    let good: &BooleanArray =
        batch.column_by_name("good").expect("the column").as_any().downcast_ref().expect("bool");
    assert_eq!(good.null_count(), 0);
    let chosen: Vec<_> =
        all.captions.into_iter().enumerate().filter(|(n, _)| good.value(*n)).map(|(_, r)| r).collect();
    assert_eq!(chosen, kept);
    filter(&place, "out", &["--keep-top", "1", "--column", "key"], "no")
        .ends(2)
        .warns("a column `key` already");
    assert!(!place.path("no").join("captions").exists());
}

#[test]
fn ties_bounds_and_missing_scores_match_the_help() {
    let place = Place::new();
    let (equal, some) = ((0.25, Some(0.5)), (0.1, None));
    dataset(
        &place.path("out"),
        &[&[equal, equal, (0.3, None)], &[], &[equal, (-0.0, Some(-0.2)), some, (0.0, None)]],
    );
    let kept = |arguments: &[&str], to: &str| {
        let said = filter(&place, "out", arguments, to).args(["--log-format", "text"]).ends(0);
        (said, similarities(&place.path(to)))
    };
    // Two of seven rows are asked for; the second best is one of three equal ones.
    let (said, rows) = kept(&["--keep-top", "0.2"], "ties");
    assert_eq!(rows, [0.25, 0.25, 0.3, 0.25]);
    said.prints("threshold similarity >= 0.25 (top 0.2 of 7; 2 more equal it)");
    said.prints("rows      7 read = 4 kept + 3 below\n").prints("shards    3 done, 0 skipped");
    assert_eq!(kept(&["--keep-top", "1"], "all").1.len(), 7);
    assert_eq!(kept(&["--keep-top", "0.0000001"], "one").1, [0.3]);
    // Both zeros are one number.
    assert_eq!(kept(&["--min-similarity", "0"], "zero").1.len(), 7);
    assert_eq!(kept(&["--min-similarity", "-0.0"], "minus").1.len(), 7);
    assert_eq!(kept(&["--min-similarity", "0.31"], "none").1.len(), 0);
    // Rows without the score are no rows to choose from.
    let (said, rows) = kept(&["--keep-top", "1", "--by", "org_similarity"], "original");
    assert_eq!(rows, [0.25, 0.25, 0.25, -0.0]);
    said.prints("rows      7 read = 4 kept + 0 below + 3 without org_similarity");
    let details: Vec<String> =
        output::read(&place.path("original")).rejects.into_iter().map(|r| r.detail).collect();
    assert_eq!(details, vec!["no org_similarity: the input had no caption"; 3]);
    for bad in ["0", "1.5", "30", "30%", "-0.3", "NaN"] {
        filter(&place, "out", &[&format!("--keep-top={bad}")], "bad").ends(2).warns("above 0 and up to 1");
    }
    filter(&place, "out", &["--min-similarity", "NaN"], "bad").ends(2).warns("from -1 to 1");
    filter(&place, "out", &[], "bad").ends(2).warns("--keep-top");
    filter(&place, "out", &["--keep-top", "0.1", "--min-similarity", "0"], "bad").ends(2);
    filter(&place, "out", &["--keep-top", "0.1", "--by", "width"], "bad").ends(2).warns("org_similarity");
    filter(&place, "out", &["--keep-top", "0.1", "--by", "itm"], "bad").ends(2).warns("no row has itm");
    filter(&place, "out", &["--min-itm", "0.1"], "bad").ends(2).warns("no row has itm");
    filter(&place, "out", &["--min-itm", "1.1"], "bad").ends(2).warns("from 0 to 1");
    filter(&place, "out", &["--min-itm", "0.1", "--by", "similarity"], "bad")
        .ends(2)
        .warns("--min-similarity");
    filter(&place, "out", &["--min-similarity", "0.1", "--by", "itm"], "bad").ends(2).warns("--min-itm");
    assert!(!place.path("bad").exists());
}

#[test]
fn empty_outputs_stay_empty() {
    let place = Place::new();
    dataset(&place.path("out"), &[&[], &[]]);
    let said = filter(&place, "out", &["--keep-top", "0.3"], "top").args(["--log-format", "text"]).ends(0);
    said.prints("threshold none: no row has similarity").prints("rows      0 read = 0 kept + 0 below\n");
    assert_eq!((parts(&place.path("top")).len(), commits(&place.path("top")).len()), (4, 2));
    assert_eq!(record(&place.path("top"))["threshold"], Value::Null);
    fs::create_dir(place.path("nothing")).expect("a folder");
    filter(&place, "nothing", &["--keep-top", "0.3"], "no")
        .ends(1)
        .warns("no commit records: not the output of a finished");
}

#[test]
fn killed_passes_resume_and_finished_ones_stay() {
    let place = Place::new();
    let rows: Vec<Scores> = (0..50).map(|n| (n as f32 / 100.0, None)).collect();
    dataset(&place.path("out"), &[&rows, &rows[10..], &rows[..30], &rows]);
    let run = || filter(&place, "out", &["--keep-top", "0.3"], "new").ends(0).report();
    run();
    let new = place.path("new");
    let whole = essence(&new);
    let again = run();
    assert_eq!((&again["shards_done"], &again["shards_skipped"]), (&json!(0), &json!(4)));
    assert_eq!(essence(&new), whole);
    // As a kill leaves it: one shard with parts and no record, one not begun, and no record of the whole.
    fs::remove_file(new.join("_recaption/filter.json")).expect("the record");
    let commit = |n: usize| commits(&new).swap_remove(n);
    let (first, last) = (commit(0), commit(3));
    for gone in [&first, &last] {
        let id = ShardId::from_url(&gone.shard);
        fs::remove_file(new.join(format!("_recaption/shards/{id}.{}.json", gone.fingerprint)))
            .expect("a record");
    }
    fs::remove_file(new.join(&last.captions.path)).expect("a part");
    fs::remove_file(new.join(&last.rejects.path)).expect("a part");
    let after = run();
    assert_eq!((&after["shards_done"], &after["shards_skipped"]), (&json!(2), &json!(2)));
    assert_eq!(after["rows"], again["rows"], "totals are of the whole dataset");
    assert_eq!(essence(&new), whole);
    assert!(new.join("_recaption/filter.json").exists());
}

#[test]
fn passes_killed_at_random_resume_to_the_same_bytes() {
    let place = Place::new();
    let rows: Vec<Scores> = (0..400).map(|n| (n as f32 / 1000.0, None)).collect();
    let shards: Vec<&[Scores]> = (0..60).map(|n| &rows[n..]).collect();
    dataset(&place.path("out"), &shards);
    let took = filter(&place, "out", &["--keep-top", "0.5"], "undisturbed").ends(0).took;
    let wanted = essence(&place.path("undisturbed"));
    let mut dice = support::Dice::new(7);
    let mut in_between = 0;
    for tenth in 0..10 {
        let name = format!("killed-{tenth}");
        let new = place.path(&name);
        let mut running = filter(&place, "out", &["--keep-top", "0.5"], &name).start();
        std::thread::sleep(took.mul_f64((f64::from(tenth) + dice.fraction()) / 10.0));
        let alive = running.is_alive();
        running.kill();
        running.wait();
        let committed = commits(&new);
        in_between += usize::from(!committed.is_empty() && committed.len() < shards.len());
        for commit in &committed {
            let rows = output::read_captions(&new.join(&commit.captions.path));
            assert_eq!(rows.len() as u64, commit.captions.rows);
        }
        let complete = new.join("_recaption/filter.json").exists();
        assert!(!complete || committed.len() == shards.len(), "it looks complete and is not");
        println!(
            "killed while {} with {} of {} shards",
            if alive { "alive" } else { "over" },
            committed.len(),
            shards.len()
        );
        filter(&place, "out", &["--keep-top", "0.5"], &name).ends(0);
        let found = essence(&new).into_iter().filter(|(name, _)| !name.contains('#'));
        assert!(found.collect::<BTreeMap<_, _>>() == wanted, "{name}");
    }
    println!("{in_between} of 10 kills left some shards done and some not");
}

#[test]
fn overlapping_or_foreign_outputs_are_refused() {
    let place = Place::new();
    dataset(&place.path("out"), &[&[(0.1, None), (0.2, None)], &[(0.3, None)]]);
    let before = files_below(&place.path("out"));
    for to in ["out", "out/top", "out/../out", "."] {
        filter(&place, "out", &["--keep-top", "0.5"], to)
            .arg("--overwrite")
            .ends(2)
            .warns("overlap; write the new dataset to a location outside");
    }
    std::os::unix::fs::symlink(place.path("out"), place.path("link")).expect("a link");
    filter(&place, "out", &["--keep-top", "0.5"], "link").arg("--overwrite").ends(2).warns("overlap; write");
    filter(&place, "out", &["--keep-top", "0.5"], "new").ends(0);
    let new = essence(&place.path("new"));
    // Another cut, another source, a run, foreign parts.
    filter(&place, "out", &["--keep-top", "0.9"], "new").ends(2).warns("`selection.1` was similarity >= 0.2");
    dataset(&place.path("one"), &[&[(0.1, None), (0.2, None)]]);
    filter(&place, "one", &["--min-similarity", "0"], "new").ends(2).warns("--overwrite");
    let input = place.draw("in", 1, 1);
    place.run(&input, "new").ends(2).warns("selection.1");
    place.write("foreign/captions/part-x.parquet", "?");
    filter(&place, "out", &["--keep-top", "0.5"], "foreign")
        .ends(2)
        .warns("part-x.parquet")
        .warns("--overwrite");
    place.write("own/captions/mine.parquet", "years of work");
    filter(&place, "out", &["--keep-top", "0.5"], "own").arg("--overwrite").ends(2).warns("mine.parquet");
    assert_eq!(essence(&place.path("new")), new);
    // What is replaced is replaced as a whole: shards that the source lacks go.
    filter(&place, "one", &["--min-similarity", "0"], "new").arg("--overwrite").ends(0);
    assert_eq!(similarities(&place.path("new")), [0.1, 0.2]);
    assert_eq!(files_below(&place.path("out")), before, "the source was touched");
}

#[test]
fn new_shards_are_added_under_a_fixed_threshold() {
    let place = Place::new();
    let rows = [(0.1, None), (0.3, None)];
    dataset(&place.path("out"), &[&rows]);
    filter(&place, "out", &["--min-similarity", "0.2"], "fixed").ends(0);
    filter(&place, "out", &["--keep-top", "0.5"], "share").ends(0);
    dataset(&place.path("out"), &[&rows, &[(0.4, None)], &[(0.5, None)]]);
    let report = filter(&place, "out", &["--min-similarity", "0.2"], "fixed").ends(0).report();
    assert_eq!((&report["shards_done"], &report["shards_skipped"]), (&json!(2), &json!(1)));
    assert_eq!(similarities(&place.path("fixed")), [0.3, 0.4, 0.5]);
    filter(&place, "out", &["--keep-top", "0.5"], "share").ends(2).warns("is similarity >= 0.4");
    filter(&place, "out", &["--keep-top", "0.5"], "share").arg("--overwrite").ends(0);
    assert_eq!(similarities(&place.path("share")), [0.4, 0.5]);
}

#[test]
fn passes_over_passes_record_both_selections() {
    let place = Place::new();
    let rows: Vec<Scores> = (0..100).map(|n| (n as f32 / 128.0, Some(1.0 - n as f32 / 128.0))).collect();
    dataset(&place.path("out"), &[&rows]);
    filter(&place, "out", &["--keep-top", "0.5"], "half").ends(0);
    filter(&place, "half", &["--keep-top", "0.5", "--by", "org_similarity"], "quarter").ends(0);
    let quarter = place.path("quarter");
    let wanted: Vec<f32> = (50..75).map(|n| n as f32 / 128.0).collect();
    assert_eq!(similarities(&quarter), wanted);
    let commit = commits(&quarter).remove(0);
    assert_eq!(commit.configuration["selection.1"], "similarity >= 0.390625 (top 0.5)");
    assert_eq!(commit.configuration["selection.2"], "org_similarity >= 0.421875 (top 0.5)");
    assert_eq!((commit.counts.read, commit.counts.captioned, commit.counts.rejected), (100, 25, 75));
}

#[test]
fn uncommitted_parts_are_ignored_and_damage_is_named() {
    let place = Place::new();
    dataset(&place.path("out"), &[&[(0.1, None)], &[(0.9, None)]]);
    let out = place.path("out");
    let gone = commits(&out).remove(1);
    let id = ShardId::from_url(&gone.shard);
    fs::remove_file(out.join(format!("_recaption/shards/{id}.{}.json", gone.fingerprint))).expect("a record");
    filter(&place, "out", &["--keep-top", "1"], "new").ends(0);
    assert_eq!(similarities(&place.path("new")), [0.1]);
    // A part that is not what its record says: nothing is written, and the part is named.
    let left = out.join(&commits(&out)[0].captions.path);
    let bytes = fs::read(&left).expect("a part");
    fs::write(&left, &bytes[..bytes.len() - 5]).expect("a part");
    let said = filter(&place, "out", &["--keep-top", "1"], "cut").ends(1);
    said.warns("part-00000").never_says("panicked");
    assert!(!place.path("cut/_recaption").exists());
    fs::remove_file(&left).expect("a part");
    filter(&place, "out", &["--keep-top", "1"], "cut").ends(1).warns("part-00000");
    recaption()
        .args(["filter", "http://127.0.0.1:9/x", "--keep-top", "1", "--to", "x"])
        .ends(2)
        .warns("listed");
}
