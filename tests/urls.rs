//! Lists of URLs: their images give the same rows as a shard of these images. An image that cannot be fetched is a reject with a
//! reason, and a transient failure is retried.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::collections::HashMap;

use recaption_schemas::shard_of_part;

use support::{
    Place,
    output::{self, Caption},
    program::{Call, recaption},
    server::{Answer, Server, times},
    shards::{Pack, jpeg, scenes},
};

fn run(place: &Place, input: &str, out: &str) -> Call {
    place.run(place.path(input), out).set("fetch.allow_private=true").set("fetch.retries=1")
}

/// Returns the captions without the columns that a tar does not have.
fn captions_without_source(place: &Place, out: &str) -> Vec<Caption> {
    let mut rows = output::read(&place.path(out)).captions;
    for row in &mut rows {
        (row.url, row.meta) = (None, None);
        row.shard.clear();
    }
    rows
}

#[test]
fn lists_give_the_rows_of_a_shard() {
    const IMAGES: u64 = 30;
    let place = Place::new();
    let mut pack = Pack::new();
    let mut answers = HashMap::new();
    for n in 0..IMAGES {
        pack =
            pack.file(&format!("k{n:02}.jpg"), jpeg(n)).file(&format!("k{n:02}.txt"), format!("scene, {n}"));
        answers.insert(format!("/{n}.jpg"), Answer::File(jpeg(n)));
    }
    place.write("shard.tar", pack.close());
    place.run(place.path("shard.tar"), "shard").ends(0);
    let wanted = captions_without_source(&place, "shard");
    let server = Server::start(answers);
    let url = |n: u64| format!("http://127.0.0.1:{}/{n}.jpg", server.port());
    let (mut csv, mut tsv) = ("key,url,caption,n\n".to_owned(), "KEY\turl\tTEXT\n".to_owned());
    let (mut json, mut text) = (String::new(), String::new());
    for n in 0..IMAGES {
        csv += &format!("k{n:02},{},\"scene, {n}\",{n}\n", url(n));
        tsv += &format!("k{n:02}\t{}\tscene, {n}\n", url(n));
        let line =
            serde_json::json!({"url": url(n), "caption": format!("scene, {n}"), "key": format!("k{n:02}")});
        json += &format!("{line}\n");
        text += &format!("{}\n", url(n));
    }
    place.write("list.csv", &csv);
    place.write("list.tsv", tsv);
    place.write("list.jsonl", json);
    place.write("list.txt", text);
    place.write("packed.csv.zst", zstd::bulk::compress(csv.as_bytes(), 3).expect("memory"));
    write_parquet(&place, IMAGES, url);
    for list in ["list.csv", "list.tsv", "list.jsonl", "packed.csv.zst", "list.parquet"] {
        let out = format!("out-{list}");
        run(&place, list, &out).ends(0);
        assert_eq!(captions_without_source(&place, &out), wanted, "{list}");
        let rows = output::read(&place.path(&out)).captions;
        assert_eq!(rows[3].url, Some(url(3)), "{list}");
    }
    let rows = output::read(&place.path("out-list.csv")).captions;
    assert_eq!(rows[4].meta.as_deref(), Some("{\"n\":\"4\"}"));
    run(&place, "list.txt", "out-text").ends(0);
    let rows = output::read(&place.path("out-text")).captions;
    let plain: Vec<_> = rows.iter().map(|row| (row.key.clone(), row.sha256.clone())).collect();
    let hashes = wanted.iter().enumerate().map(|(n, row)| (format!("{n:09}"), row.sha256.clone()));
    assert_eq!(plain, hashes.collect::<Vec<_>>(), "plain text has no keys");
}

/// Writes `list.parquet`, in row groups of seven.
fn write_parquet(place: &Place, images: u64, url: impl Fn(u64) -> String) {
    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    let column = |text: &dyn Fn(u64) -> String| -> ArrayRef {
        std::sync::Arc::new((0..images).map(|n| Some(text(n))).collect::<StringArray>())
    };
    let columns = [
        ("URL", column(&|n| url(n))),
        ("TEXT", column(&|n| format!("scene, {n}"))),
        ("key", column(&|n| format!("k{n:02}"))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a table");
    let groups =
        parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(7)).build();
    let file = std::fs::File::create(place.path("list.parquet")).expect("a file");
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(groups)).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");
}

/// Returns one path for every behaviour of a server.
fn answers() -> HashMap<String, Answer> {
    HashMap::from([
        ("/good".to_owned(), Answer::File(jpeg(0))),
        ("/gone".to_owned(), Answer::Status(404)),
        ("/late".to_owned(), Answer::Late(times(2), 503, jpeg(1))),
        ("/once".to_owned(), Answer::Late(times(1), 429, jpeg(2))),
        ("/cut".to_owned(), Answer::Cut(times(1), jpeg(3))),
        ("/no-ai".to_owned(), Answer::With("X-Robots-Tag: noindex, noai\r\n", jpeg(4))),
        ("/page".to_owned(), Answer::With("Content-Type: text/html\r\n", b"<html>".to_vec())),
        ("/large".to_owned(), Answer::File(vec![0; 100_000])),
        ("/there".to_owned(), Answer::Redirect("/good".to_owned())),
        ("/round".to_owned(), Answer::Redirect("/round".to_owned())),
    ])
}

#[test]
fn failed_fetches_are_rejects_and_only_transient_ones_retry() {
    let place = Place::new();
    let server = Server::start(answers());
    let names = ["good", "gone", "late", "once", "cut", "no-ai", "page", "large", "there", "round"];
    let mut list = "url,key\n".to_owned();
    for name in names {
        list += &format!("http://127.0.0.1:{}/{name},{name}\n", server.port());
    }
    list += "ftp://example.org/x,scheme\nnot an address,word\n";
    list += &format!("http://127.0.0.1:{}/good,good\none,too,many\n", server.port());
    place.write("list.csv", list);
    run(&place, "list.csv", "out").set("input.max_member_bytes=50000").ends(0);
    let first = output::read(&place.path("out"));
    let keys = |rows: &[Caption]| rows.iter().map(|row| row.key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&first.captions), ["good", "once", "cut", "there"]);
    let reasons: Vec<(&str, &str)> =
        first.rejects.iter().map(|r| (r.key.as_str(), r.reason.as_str())).collect();
    assert_eq!(
        reasons,
        [
            ("gone", "url_refused"),
            ("late", "fetch_failed"),
            ("no-ai", "opted_out"),
            ("page", "unsupported_format"),
            ("large", "too_large"),
            ("round", "url_refused"),
            ("scheme", "url_refused"),
            ("word", "url_refused"),
            ("good", "duplicate_key"),
            ("000000013", "url_refused"),
        ]
    );
    let detail = |key: &str| first.rejects.iter().find(|r| r.key == key).map(|r| r.detail.clone());
    assert_eq!(detail("late").as_deref(), Some("status 503 Service Unavailable (2 attempts)"));
    assert_eq!(detail("no-ai").as_deref(), Some("X-Robots-Tag says noindex"));
    assert_eq!(detail("round").as_deref(), Some("more than 5 redirects"));

    let asked = server.asked().len();
    let retry = recaption().dir(place.root()).arg("retry").arg(place.path("out"));
    retry.ends(0);
    let again: Vec<String> =
        server.asked().iter().skip(asked).map(|request| request.target.clone()).collect();
    assert_eq!(again, ["/late"], "nothing else is asked");
    let second = output::read(&place.path("out"));
    assert_eq!(keys(&second.captions), ["good", "late", "once", "cut", "there"], "in the list's order");
    assert_eq!(second.rejects.len(), first.rejects.len() - 1);
    let kept =
        |rows: &output::Rows| rows.captions.iter().filter(|r| r.key != "late").cloned().collect::<Vec<_>>();
    assert_eq!(kept(&second), kept(&first), "what was there stays as it was");
    assert!(second.rejects.iter().all(|reject| reject.key != "late"));
    recaption().dir(place.root()).arg("retry").arg(place.path("out")).ends(0);
    assert_eq!(output::read(&place.path("out")), second);
}

#[test]
fn local_network_is_never_requested() {
    let place = Place::new();
    let server = Server::start(HashMap::from([("/secret".to_owned(), Answer::File(jpeg(0)))]));
    let port = server.port();
    let list = format!(
        "url\nhttp://127.0.0.1:{port}/secret\nhttp://localhost:{port}/secret\nhttp://2130706433:{port}/secret\nhttp://[::ffff:127.0.0.1]:{port}/secret\nhttp://0x7f.1:{port}/secret\nhttp://169.254.169.254/latest/meta-data\nhttp://user:secret@example.org/x\n"
    );
    place.write("list.csv", list);
    let said = place.run(place.path("list.csv"), "out").set("fetch.retries=0").ends(0);
    said.never_says("user:secret");
    let rows = output::read(&place.path("out"));
    assert_eq!((rows.captions.len(), rows.rejects.len()), (0, 7));
    for reject in &rows.rejects {
        assert_eq!(reject.reason, "url_refused", "{reject:?}");
        assert!(!reject.detail.contains("secret"), "{reject:?}");
    }
    let names_setting = |row: &&output::Rejected| row.detail.contains("set fetch.allow_private = true");
    assert_eq!(rows.rejects.iter().filter(names_setting).count(), 6, "all but the one with user info");
    assert!(server.asked().is_empty(), "{:?}", server.asked());
}

#[test]
fn list_without_urls_names_its_columns() {
    let place = Place::new();
    place.write("list.csv", "link,caption\nx,y\n");
    run(&place, "list.csv", "out").ends(3).warns("there are: link, caption").warns("input.url_column");
    run(&place, "list.csv", "told").set("input.url_column=href").ends(3).warns("no column `href`");
}

/// Images on a server.
struct Images {
    place: Place,
    server: Server,
}

impl Images {
    fn new(images: u64) -> Self {
        let file = |n| (format!("/{n}.jpg"), Answer::File(jpeg(n)));
        Self { place: Place::new(), server: Server::start((0..images).map(file).collect()) }
    }

    fn url(&self, n: u64) -> String {
        format!("http://127.0.0.1:{}/{n}.jpg", self.server.port())
    }

    /// Writes a list of some images.
    fn csv(&self, name: &str, images: impl Iterator<Item = u64>) {
        let rows = images.map(|n| format!("{},\"scene,\r\n{n}\",k{n:02}\r\n", self.url(n)));
        self.place.write(name, format!("\u{feff}url,caption,key\r\n{}", rows.collect::<String>()));
    }

    /// Runs a list in parts of `rows` rows.
    fn run(&self, input: &str, out: &str, rows: u64) -> Call {
        run(&self.place, input, out).set(&format!("input.rows_per_shard={rows}"))
    }

    /// Returns the images requested after the first `since` requests.
    fn asked(&self, since: usize) -> Vec<String> {
        let targets = self.server.asked().into_iter().skip(since).map(|request| request.target);
        let mut targets: Vec<String> = targets.filter(|target| target.ends_with(".jpg")).collect();
        targets.sort();
        targets
    }

    fn rows(&self, out: &str) -> Vec<(String, String, Option<String>)> {
        let rows = output::read(&self.place.path(out)).captions.into_iter();
        let mut rows: Vec<_> = rows.map(|row| (row.key, row.sha256, row.org_caption)).collect();
        rows.sort();
        rows
    }
}

#[test]
fn parts_of_a_list_give_the_same_rows() {
    let fixture = Images::new(30);
    fixture.csv("list.csv", 0..30);
    let text: String = (0..30).map(|n| format!("{}\n", fixture.url(n))).collect();
    fixture.place.write("list.txt", text);
    write_parquet(&fixture.place, 30, |n| fixture.url(n));
    // The Parquet list has row groups of 7.
    for (list, rows, parts) in [
        ("list.csv", 8, 4),
        ("list.txt", 8, 4),
        ("list.csv", 30, 1),
        ("list.parquet", 3, 13),
        ("list.parquet", 15, 3),
    ] {
        let (whole, out) = (format!("{list}-whole"), format!("{list}-{rows}"));
        fixture.run(list, &whole, 0).ends(0);
        fixture.run(list, &out, rows).ends(0);
        assert_eq!(fixture.rows(&whole).len(), 30);
        assert_eq!(fixture.rows(&out), fixture.rows(&whole), "{list} by {rows}");
        let commits = output::commits(&fixture.place.path(&out));
        let mut shards: Vec<String> = commits.into_iter().map(|commit| commit.shard).collect();
        shards.sort();
        assert_eq!(shards.len(), parts, "{list} by {rows}: {shards:?}");
        assert!(shards[0].ends_with(list), "{shards:?}");
        assert!(shards.iter().skip(1).all(|shard| shard.contains(&format!("{list}#part="))), "{shards:?}");
        for row in output::read(&fixture.place.path(&out)).captions {
            assert!(shards.contains(&row.shard), "{row:?}");
        }
    }
    let names = output::parts(&fixture.place.path("list.csv-8"));
    let third = |path: &std::path::PathBuf| path.to_string_lossy().contains("/captions/part-list-00002-");
    assert!(names.iter().any(third), "{names:?}");
}

#[test]
fn only_incomplete_parts_of_a_list_are_fetched_again() {
    let fixture = Images::new(40);
    fixture.csv("list.csv", 0..30);
    let run = || fixture.run("list.csv", "out", 8);
    let report = run().ends(0).report();
    assert_eq!((&report["shards_done"], &report["counts"]["captioned"]), (&4.into(), &30.into()));
    let asked = fixture.server.asked().len();
    let report = run().ends(0).report();
    assert_eq!((&report["shards_done"], &report["shards_skipped"]), (&0.into(), &4.into()));
    assert!(fixture.asked(asked).is_empty());
    // The state after a worker died in the second part.
    let records = fixture.place.path("out/_recaption/shards");
    let second = std::fs::read_dir(&records).expect("records").flatten();
    let second = second.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("list-00001-"));
    std::fs::remove_file(second.expect("a record of the second part")).expect("it goes");
    let status = recaption().dir(fixture.place.root()).arg("status").arg(fixture.place.path("out"));
    let status = status.ends(0).report();
    assert_eq!((&status["done"], &status["pending"], &status["orphaned"]), (&3.into(), &1.into(), &0.into()));
    run().ends(0);
    let again: Vec<String> = (8..16).map(|n| format!("/{n}.jpg")).collect();
    let mut wanted = again.clone();
    wanted.sort();
    assert_eq!(fixture.asked(asked), wanted);
    assert_eq!(fixture.rows("out").len(), 30);

    // An invalid outline of the list is ignored.
    for lie in ["{", "{\"format\": 1}"] {
        std::fs::remove_dir_all(&records).expect("records");
        let remembered = std::fs::read_dir(fixture.place.path("out/_recaption/lists")).expect("a folder");
        let remembered: Vec<_> = remembered.flatten().map(|entry| entry.path()).collect();
        assert_eq!(remembered.len(), 1);
        std::fs::write(&remembered[0], lie).expect("a file");
        assert_eq!(run().ends(0).report()["shards_done"], 4);
        assert_eq!(fixture.rows("out").len(), 30);
    }

    // A list that becomes longer, shorter, and a single shard: no row stays that is not in the list.
    for (images, shards) in [(0..40, 5), (4..24, 3), (10..14, 1), (0..20, 3)] {
        fixture.csv("list.csv", images.clone());
        let report = run().ends(0).report();
        assert_eq!(report["shards_done"], shards, "{images:?}: {report:#}");
        assert_eq!(report["shards_orphaned"], serde_json::json!([]), "{images:?}");
        let keys: Vec<String> = fixture.rows("out").into_iter().map(|row| row.0).collect();
        assert_eq!(keys, images.map(|n| format!("k{n:02}")).collect::<Vec<_>>());
        assert_eq!(output::parts(&fixture.place.path("out")).len(), 2 * shards);
    }
    // An unavailable list keeps its rows.
    fixture.csv("other.csv", 20..22);
    let both = || run().arg("--input").arg(fixture.place.path("other.csv")).arg("--retire");
    both().ends(0);
    std::fs::rename(fixture.place.path("list.csv"), fixture.place.path("away")).expect("a list");
    let report = both().ends(3).report();
    assert_eq!(report["shards_orphaned"], serde_json::json!([]), "{report:#}");
    assert_eq!(fixture.rows("out").len(), 22);
    std::fs::rename(fixture.place.path("away"), fixture.place.path("list.csv")).expect("a list");
    assert_eq!(both().ends(0).report()["shards_done"], 0);
    run().arg("--retire").ends(0);
    // The same list in other parts would repeat rows.
    fixture.run("list.csv", "out", 5).ends(2).warns("input.rows_per_shard");
    for rows in [20, 3, 0] {
        fixture.run("list.csv", "out", rows).arg("--overwrite").ends(0);
        assert_eq!(fixture.rows("out").len(), 20, "by {rows}");
    }
    assert_eq!(output::parts(&fixture.place.path("out")).len(), 2);
}

#[test]
fn list_on_a_web_server_is_split_if_it_supports_ranges() {
    let fixture = Images::new(20);
    fixture.csv("list.csv", 0..20);
    let list = std::fs::read(fixture.place.path("list.csv")).expect("a list");
    let files = [("/ranges.csv", Answer::File(list.clone())), ("/whole.csv", Answer::Whole(times(0), list))];
    let server = Server::start(files.map(|(path, answer)| (path.to_owned(), answer)).into());
    let run = |name: &str| {
        let call = recaption().dir(fixture.place.root()).arg("run").arg("--model").arg(support::model());
        let call = call
            .arg("--input")
            .arg(format!("http://127.0.0.1:{}/{name}.csv?signature=secret", server.port()));
        let call = call.arg("--output").arg(fixture.place.path(name));
        let call = call.set("fetch.allow_private=true").set("input.rows_per_shard=6");
        let end = call.ends(0);
        end.never_says("secret");
        assert_eq!(fixture.rows(name).len(), 20, "{name}");
        (end.report()["shards_done"].clone(), end)
    };
    assert_eq!(run("ranges").0, 4);
    // The outline is stored: only the list's size and tag are requested.
    let asked = server.asked().len();
    assert_eq!(run("ranges").0, 0);
    let again: Vec<String> = server.asked().into_iter().skip(asked).map(|request| request.method).collect();
    assert_eq!(again, ["HEAD"]);
    let (shards, end) = run("whole");
    assert_eq!(shards, 1);
    end.warns("does not support range requests");
}

#[test]
fn broken_response_without_ranges_is_resumed() {
    let place = Place::new();
    place.write("shard.tar", scenes(0, 40));
    place.run(place.path("shard.tar"), "wanted").ends(0);
    // The first response breaks off, and the request for the rest is answered with the whole file.
    let answer = Answer::Whole(times(2), scenes(0, 40));
    let server = Server::start(HashMap::from([("/shard.tar".to_owned(), answer)]));
    let url = format!("http://127.0.0.1:{}/shard.tar", server.port());
    let call = recaption().arg("run").arg("--model").arg(support::model()).arg("--input").arg(url);
    let report = call.arg("--output").arg(place.path("out")).ends(0).report();
    assert_eq!(report["requests_retried"], 1, "{report:#}");
    let shard = |row: Caption| Caption { shard: String::new(), ..row };
    let rows = |out| output::read(&place.path(out)).captions.into_iter().map(shard).collect::<Vec<_>>();
    assert_eq!(rows("out"), rows("wanted"));
}

#[test]
fn retry_fetches_only_transient_failures_of_parts() {
    let place = Place::new();
    let picture = |n| match n {
        // Fails three times: twice in a run, and once more.
        5 => Answer::Late(times(3), 503, jpeg(n)),
        6 => Answer::Status(404),
        n => Answer::File(jpeg(n)),
    };
    let server = Server::start((0..10).map(|n| (format!("/{n}.jpg"), picture(n))).collect());
    let row = |n| format!("http://127.0.0.1:{}/{n}.jpg\n", server.port());
    place.write("list.txt", (0..10).map(row).collect::<String>());
    run(&place, "list.txt", "out").set("input.rows_per_shard=4").ends(0);
    let asked = server.asked().len();
    recaption().dir(place.root()).arg("retry").arg(place.path("out")).ends(0);
    let again: Vec<String> = server.asked().into_iter().skip(asked).map(|request| request.target).collect();
    assert_eq!(again, ["/5.jpg", "/5.jpg"]);
    let rows = output::read(&place.path("out"));
    let mut keys: Vec<String> = rows.captions.into_iter().map(|row| row.key).collect();
    keys.sort();
    let wanted = (0..10).filter(|n| *n != 6).map(|n| format!("{n:09}"));
    assert_eq!(keys, wanted.collect::<Vec<_>>());
    assert_eq!(rows.rejects.len(), 1);
}

#[test]
fn first_table_of_a_folder_decides_for_all() {
    let fixture = Images::new(30);
    let place = &fixture.place;
    write_parquet(place, 30, |n| fixture.url(n));
    let list = std::fs::read(place.path("list.parquet")).expect("a list");
    place.write("shard.tar", scenes(0, 4));
    place.run(place.path("shard.tar"), "embedded").set("output.images=embed").ends(0);
    let part = output::parts(&place.path("embedded"))
        .into_iter()
        .find(|part| part.to_string_lossy().contains("captions"));
    let images = std::fs::read(part.expect("a part")).expect("a file");
    for (name, bytes) in [("lists/a", &list), ("lists/b", &list), ("mixed/a", &images), ("mixed/b", &list)] {
        place.write(&format!("{name}.parquet"), bytes);
    }
    for (folder, shards, rows) in [("lists", 6, 60), ("mixed", 2, 34)] {
        let report = fixture.run(&format!("{folder}/"), &format!("out-{folder}"), 15).ends(0).report();
        assert_eq!(report["shards_done"], shards, "{folder}");
        assert_eq!(fixture.rows(&format!("out-{folder}")).len(), rows, "{folder}");
    }
}

#[test]
fn retry_reads_all_parts_of_an_unavailable_list() {
    let fixture = Images::new(20);
    fixture.csv("other.csv", 18..20);
    fixture.csv("list.csv", 0..18);
    let list = std::fs::read(fixture.place.path("list.csv")).expect("a list");
    // Both requests for its size fail.
    let answer = Answer::Late(times(2), 403, list);
    let server = Server::start(HashMap::from([("/list.csv".to_owned(), answer)]));
    let list = format!("http://127.0.0.1:{}/list.csv", server.port());
    let failed = fixture.run("other.csv", "out", 5).arg("--input").arg(list).ends(3).report();
    assert_eq!(
        (&failed["shards_done"], failed["shards_failed"].as_array().map(Vec::len)),
        (&1.into(), Some(1))
    );
    let retry = recaption().dir(fixture.place.root()).arg("retry").arg(fixture.place.path("out"));
    assert_eq!(retry.ends(0).report()["shards_done"], 4);
    assert_eq!(fixture.rows("out").len(), 20);
}

#[test]
fn list_of_dead_urls_does_not_stop_a_run() {
    let place = Place::new();
    place.write("list.txt", "http://127.0.0.1:9/x.jpg\n".repeat(1_500));
    let run = run(&place, "list.txt", "out").set("fetch.retries=0").set("input.rows_per_shard=300");
    let report = run.ends(0).report();
    assert_eq!(
        (&report["shards_done"], &report["counts"]["reasons"]["fetch_failed"]),
        (&5.into(), &1_500.into())
    );
}

#[test]
fn interrupted_deletion_is_finished_by_the_next_run() {
    let fixture = Images::new(20);
    fixture.csv("list.csv", 0..20);
    let run = || fixture.run("list.csv", "out", 8).ends(0);
    run();
    let out = fixture.place.path("out");
    let third = |path: &std::path::Path| path.to_string_lossy().contains("list-00002-");
    let parts: Vec<_> = output::parts(&out).into_iter().filter(|part| third(part)).collect();
    let kept: Vec<Vec<u8>> = parts.iter().map(|part| std::fs::read(part).expect("a part")).collect();
    fixture.csv("list.csv", 0..16);
    run();
    assert!(parts.len() == 2 && parts.iter().all(|part| !part.exists()), "{parts:?}");
    // The state between the deletion of the record and that of the parts.
    parts.iter().zip(&kept).for_each(|(part, bytes)| std::fs::write(part, bytes).expect("a part"));
    let shard = parts[0].file_name().and_then(|name| shard_of_part(name.to_str()?));
    let note = out.join("_recaption/removals").join(format!("{}.json", shard.expect("a name")));
    std::fs::create_dir_all(note.parent().expect("a folder")).expect("a folder");
    std::fs::write(&note, "{}").expect("a note");
    run();
    // `rows` also checks that there are no parts without records.
    assert_eq!(fixture.rows("out").len(), 16);
    assert!(!note.exists());
}
