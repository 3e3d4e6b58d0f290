//! `recaption report`: what the page says of an output, and that it loads nothing and stays whole whatever the captions hold.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use recaption_output::{
    PartTarget, PartWriter,
    commits::{CommitLog, CommitRequest},
};
use recaption_schemas::{
    AddedColumns, COMMIT_FORMAT, Candidate, Candidates, CaptionRow, CaptionTable, Counts, EmbeddedImage,
    Reject, RejectReason, RejectTable, ShardCommit, ShardId, Similarity, caption_schema, reject_schema,
    sha256_hex,
};
use recaption_store::Stores;
use serde_json::{Value, json};
use support::{
    Dice, Place,
    program::{Said, recaption},
    shards::{Pack, jpeg},
};

const SHARD: &str = "s3://nowhere/00000.tar";

/// A row whose caption has this similarity.
fn row(key: &str, caption: &str, similarity: f32, original: Option<(&str, f32)>) -> CaptionRow {
    let candidate = |text: &str, similarity: f32| Candidate {
        text: text.to_owned(),
        similarity: Similarity::new(similarity).expect("finite"),
        logprob: -1.5,
        itm: None,
    };
    CaptionRow {
        key: key.to_owned(),
        candidates: Candidates::new(vec![
            candidate(caption, similarity),
            candidate("the other candidate", similarity - 0.01),
        ])
        .expect("two"),
        org_caption: original.map(|(text, _)| text.to_owned()),
        org_similarity: original.and_then(|(_, similarity)| Similarity::new(similarity)),
        org_itm: None,
        width: 640,
        height: 480,
        sha256: sha256_hex(key.as_bytes()),
        url: None,
        meta: None,
        image: None,
    }
}

/// Writes one shard of an output as a run would leave it.
fn shard(out: &Path, url: &str, rows: &[CaptionRow], rejects: &[Reject]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let location = Stores::default().locate(&out.to_string_lossy()).expect("a path");
        let id = ShardId::from_url(url);
        let target =
            |table| PartTarget { output: &location, table, shard: id.as_str(), fingerprint: "0123-4567" };
        let embed = rows.iter().any(|row| row.image.is_some());
        let schema =
            Arc::new(caption_schema(AddedColumns { image: embed, ..AddedColumns::default() }, [].into()));
        let mut part = PartWriter::new(target("captions"), Arc::clone(&schema)).expect("a part");
        for rows in rows.chunks(100) {
            let mut table = CaptionTable::new(Arc::clone(&schema), url.into());
            rows.iter().for_each(|row| table.push(row));
            part.write(table.finish().expect("rows")).await.expect("written");
        }
        let captions = part.finish().await.expect("uploaded").info();
        let schema = Arc::new(reject_schema([].into()));
        let mut part = PartWriter::new(target("rejects"), Arc::clone(&schema)).expect("a part");
        if !rejects.is_empty() {
            let mut table = RejectTable::new(schema, url.into());
            rejects.iter().for_each(|reject| table.push(reject));
            part.write(table.finish().expect("rows")).await.expect("written");
        }
        let rejected = part.finish().await.expect("uploaded").info();
        let mut counts = Counts {
            read: (rows.len() + rejects.len()) as u64,
            captioned: rows.len() as u64,
            rejected: rejects.len() as u64,
            ..Counts::default()
        };
        for reject in rejects {
            *counts.reasons.entry(reject.reason.to_string()).or_default() += 1;
        }
        let commit = ShardCommit {
            format: COMMIT_FORMAT,
            shard: url.into(),
            size: 1,
            etag: None,
            fingerprint: "0123-4567".into(),
            configuration: [("caption.candidates".to_owned(), "2".to_owned())].into(),
            model: "digest-of-the-model".into(),
            counts,
            damaged: None,
            captions,
            rejects: rejected,
            webdataset: None,
            settings: [].into(),
        };
        let commit_log = CommitLog::new(location.clone());
        commit_log.commit(&CommitRequest::first(id.as_str(), &commit), || false).await.expect("committed");
    });
}

/// A page, and what its script gets.
struct Page {
    html: String,
    data: Value,
}

impl Page {
    fn read(path: &Path) -> Self {
        let html = fs::read_to_string(path).expect("a page");
        let (_, rest) = html.split_once("id=\"data\">").expect("data");
        let (data, _) = rest.split_once("</script>").expect("an end of the data");
        Self { data: serde_json::from_str(data).expect("JSON"), html }
    }

    fn samples(&self) -> &[Value] {
        self.data["samples"].as_array().expect("a list")
    }

    /// Scores at or above a threshold, by the histogram.
    fn at_least(&self, column: &str, threshold: f64) -> u64 {
        let column = &self.data["scores"][column];
        let first = column["first"].as_u64().expect("a bin") as i64;
        let bin = (threshold * 1000.0).round() as i64 + 1000;
        let counts = column["counts"].as_array().expect("counts").iter();
        let kept = counts.enumerate().filter(|(i, _)| first + *i as i64 >= bin);
        kept.map(|(_, n)| n.as_u64().expect("a count")).sum()
    }

    /// Whether a table has a row with these cells at its beginning.
    #[track_caller]
    fn has_row(&self, cells: &[&str]) {
        let rows = self.html.split("<tr>").map(|row| row.split("</tr>").next().unwrap_or_default());
        let text = |row: &str| {
            let mut cells = Vec::new();
            for cell in row.split(['<']).filter(|cell| cell.starts_with("td") || cell.starts_with("th")) {
                cells.push(cell.split_once('>').map_or("", |(_, text)| text).to_owned());
            }
            cells
        };
        let found =
            rows.map(text).any(|row| row.len() >= cells.len() && row.iter().zip(cells).all(|(a, b)| a == b));
        assert!(found, "no row begins with {cells:?}");
    }
}

fn report(place: &Place, out: &str, arguments: &[&str]) -> (Said, Page) {
    let said = recaption()
        .dir(place.root())
        .args(["--log-format", "text", "report", out, "--out", "page.html"])
        .args(arguments)
        .ends(0);
    (said, Page::read(&place.path("page.html")))
}

/// Rows of two shards with words from a small vocabulary.
fn vocabulary_rows(count: usize) -> Vec<CaptionRow> {
    let mut dice = Dice::new(11);
    let words = ["red", "dog", "ball", "tree", "green", "house"];
    let word = |dice: &mut Dice| words[dice.throw() as usize % words.len()];
    (0..count)
        .map(|n| {
            let caption = format!("a photo of {} {}", word(&mut dice), word(&mut dice));
            let original = format!("{} {n}", word(&mut dice));
            let similarity = (dice.fraction() * 0.6 - 0.1) as f32;
            let original =
                (!n.is_multiple_of(4)).then_some((original.as_str(), (dice.fraction() * 0.5) as f32));
            row(&format!("{n:05}"), &caption, similarity, original)
        })
        .collect()
}

/// An output of two shards with 1,500 captions and 9 rejects; returns the rows.
fn vocabulary_output(place: &Place) -> Vec<CaptionRow> {
    let rows = vocabulary_rows(1500);
    let reject = |n: usize| {
        let reason = if n.is_multiple_of(3) { RejectReason::CorruptImage } else { RejectReason::CaptionRule };
        Reject::new(format!("x{n}"), reason, format!("what happened to {n}"))
    };
    let rejects: Vec<Reject> = (0..9).map(reject).collect();
    shard(&place.path("out"), SHARD, &rows[..700], &rejects);
    shard(&place.path("out"), "s3://nowhere/00001.tar", &rows[700..], &[]);
    rows
}

#[test]
fn pages_are_local_files() {
    let place = Place::new();
    let said =
        recaption().args(["report", "out", "--out", "s3://my-bucket/report.html"]).dir(place.root()).ends(2);
    said.warns("is no file of this machine");
    assert!(!place.path("s3:").exists());
}

#[test]
fn thresholds_and_sample_are_those_of_the_rows() {
    let place = Place::new();
    let rows = vocabulary_output(&place);
    let (said, page) = report(&place, "out", &["--samples", "50", "--seed", "3"]);
    said.prints("rows      1500 captions, 9 rejects").prints("sample    50 captions, 0 with an image");

    // Every threshold, and the rows that `filter` keeps at one of them.
    let similarity = |row: &CaptionRow| row.candidates.chosen().similarity.get();
    for thousandths in (-100..500).step_by(9) {
        let threshold = f64::from(thousandths) / 1000.0;
        let kept = |scores: &mut dyn Iterator<Item = f32>| {
            scores.filter(|score| *score >= threshold as f32).count() as u64
        };
        assert_eq!(
            page.at_least("similarity", threshold),
            kept(&mut rows.iter().map(similarity)),
            "{threshold}"
        );
        let mut originals = rows.iter().filter_map(|row| row.org_similarity.map(Similarity::get));
        assert_eq!(page.at_least("org_similarity", threshold), kept(&mut originals), "{threshold}");
    }
    let selected = page.at_least("similarity", 0.25);
    let filtered = recaption()
        .dir(place.root())
        .args(["filter", "out", "--min-similarity", "0.250", "--to", "out-above-0.250"])
        .ends(0)
        .report();
    assert_eq!(filtered["rows"]["selected"], json!(selected));
    assert_eq!(page.data["scores"]["org_similarity"]["missing"], json!(375));

    // The sample is of the rows, with candidates.
    assert_eq!((page.samples().len(), page.data["rejects"].as_array().map(Vec::len)), (50, Some(9)));
    for sample in page.samples() {
        let row = rows.iter().find(|row| sample["k"] == json!(row.key)).expect("a row of the output");
        assert_eq!(sample["c"], json!(row.candidates.chosen().text));
        assert_eq!(sample["v"].as_f64().map(|n| n as f32), Some(similarity(row)));
        assert_eq!(sample["o"], row.org_caption.as_ref().map_or(Value::Null, |text| json!(text)));
        let candidates: Vec<Value> = row.candidates.as_slice().iter().map(|one| json!(one.text)).collect();
        let shown: Vec<Value> =
            sample["n"].as_array().expect("a list").iter().map(|one| one[0].clone()).collect();
        assert_eq!(shown, candidates);
    }
}

#[test]
fn tables_count_all_rows() {
    let place = Place::new();
    let rows = vocabulary_output(&place);
    let (_, page) = report(&place, "out", &["--samples", "5"]);
    let captions: Vec<&str> = rows.iter().map(|row| row.candidates.chosen().text.as_str()).collect();
    let mut with_word = BTreeMap::<&str, usize>::new();
    let mut openings = BTreeMap::<String, usize>::new();
    let mut times = BTreeMap::<&str, usize>::new();
    for caption in &captions {
        let words: std::collections::BTreeSet<&str> = caption.split(' ').collect();
        words.into_iter().for_each(|word| *with_word.entry(word).or_default() += 1);
        *openings.entry(caption.split(' ').take(3).collect::<Vec<_>>().join(" ")).or_default() += 1;
        *times.entry(caption).or_default() += 1;
    }
    let grouped = |n: usize| if n < 1000 { n.to_string() } else { format!("{},{:03}", n / 1000, n % 1000) };
    with_word.iter().for_each(|(word, n)| page.has_row(&[word, &grouped(*n)]));
    openings.iter().for_each(|(opening, n)| page.has_row(&[opening, &grouped(*n)]));
    let mut by_count: Vec<_> = times.iter().filter(|(_, n)| **n > 1).collect();
    by_count.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    by_count.iter().take(25).for_each(|(caption, n)| page.has_row(&[caption, &grouped(**n)]));
    let repeats = captions.len() - times.len();
    assert!(page.html.contains(&format!("<p>{} of 1,500 chosen captions", grouped(repeats))));
    page.has_row(&["640 \u{d7} 480", "1,500", "100.0 %"]);
    page.has_row(&["caption_rule", "6", "66.7 %", "0.4 %"]);
    page.has_row(&["corrupt_image", "3", "33.3 %", "0.2 %"]);
    assert!(page.html.contains("what happened to 3"), "examples of rejects");
    assert!(page.html.contains("digest-of-the-model"), "digests");
}

#[test]
fn page_depends_on_rows_and_seed_alone() {
    let place = Place::new();
    let rows = vocabulary_rows(300);
    for (number, rows) in rows.chunks(60).enumerate() {
        shard(&place.path("out"), &format!("s3://nowhere/{number:05}.tar"), rows, &[]);
    }
    let page = |seed: &str| report(&place, "out", &["--samples", "20", "--seed", seed]).1;
    let (first, again, other) = (page("1"), page("1"), page("2"));
    assert_eq!(first.html, again.html);
    assert_ne!(first.data["samples"], other.data["samples"]);
    assert_eq!(first.data["scores"], other.data["scores"]);
    assert_eq!(report(&place, "out", &["--samples", "0"]).1.samples().len(), 0);
}

const HOSTILE: [&str; 8] = [
    "</script><script>alert(1)</script>",
    "<img src=http://evil.example/x onerror=alert(1)>",
    "<!-- <script> -->",
    "\"quotes' & ampersands\\",
    "\u{202e}right to left \u{5e9}\u{5dc}\u{5d5}\u{5dd}",
    "emoji \u{1f600}\u{200d}\u{1f525}\u{2028}line",
    "control \u{0}\u{1b}[2J\u{7f}",
    "<style>*{display:none}</style></style></title>",
];

fn hostile_output(place: &Place) {
    let rows: Vec<CaptionRow> = HOSTILE
        .iter()
        .enumerate()
        .map(|(n, text)| row(&format!("{text}{n}"), text, 0.2 + n as f32 / 100.0, Some((text, 0.1))))
        .collect();
    let reject =
        |text: &&str| Reject::new(*text, RejectReason::CaptionRule, *text).with_caption(*text, Some(0.1));
    shard(
        &place.path("out"),
        "s3://nowhere/<b>'\".tar",
        &rows,
        &HOSTILE.iter().map(reject).collect::<Vec<_>>(),
    );
}

#[test]
fn hostile_captions_stay_text() {
    let place = Place::new();
    hostile_output(&place);
    let (_, page) = report(&place, "out", &[]);
    assert_eq!(page.html.matches("<script").count(), 2, "data and script");
    assert_eq!(page.html.matches("</script").count(), 2);
    for markup in ["<img", "<!--", "<style>*", "http://evil.example/x onerror=alert(1)>", "\u{1b}", "\u{0}"] {
        assert!(!page.html.contains(markup), "{markup:?} is in the page");
    }
    let mut captions: Vec<&str> = page.samples().iter().map(|one| one["c"].as_str().expect("text")).collect();
    captions.sort_unstable();
    let mut expected = HOSTILE;
    expected.sort_unstable();
    assert_eq!(captions, expected, "captions reach the script unchanged");
    let policy = page.html.split_once("Content-Security-Policy\" content=\"").expect("a policy").1;
    assert!(policy.starts_with("default-src 'none'; img-src data:; style-src 'sha256-"), "{policy:.80}");
}

#[test]
fn page_stays_below_20_mb() {
    let place = Place::new();
    let mut dice = Dice::new(5);
    // Noise: the largest JPEGs of their size.
    let images: Vec<Vec<u8>> = (0..8)
        .map(|_| {
            let noise = image::RgbImage::from_raw(240, 240, dice.noise(240 * 240 * 3)).expect("pixels");
            let mut file = std::io::Cursor::new(Vec::new());
            noise.write_to(&mut file, image::ImageFormat::Jpeg).expect("a JPEG");
            file.into_inner()
        })
        .collect();
    let long = "<&\u{1f525}".repeat(4000);
    let rows: Vec<CaptionRow> = (0..900)
        .map(|n| {
            let bytes = images[n % images.len()].clone();
            let image = Some(EmbeddedImage { bytes, path: "x.jpg".to_owned() });
            CaptionRow { image, ..row(&format!("{n}{long}"), &long, 0.3, Some((&long, 0.1))) }
        })
        .collect();
    shard(&place.path("out"), SHARD, &rows, &[]);
    let (_, page) = report(&place, "out", &["--samples", "4000"]);
    assert!(page.html.len() < 20_000_000, "{} bytes", page.html.len());
    let shown = page.samples().iter().filter(|one| one["i"].is_string()).count();
    let left_out =
        page.samples().iter().filter(|one| one["m"].as_str().is_some_and(|m| m.contains("no room")));
    assert!(shown > 100 && shown + left_out.count() == 900, "{shown} images");
}

#[test]
fn images_come_from_rows_or_inputs_and_are_verified() {
    let place = Place::new();
    let images: Vec<Vec<u8>> = (0..6).map(jpeg).collect();
    let mut pack = Pack::new();
    for (n, image) in images.iter().enumerate().take(5) {
        pack = pack.file(&format!("{n}.jpg"), image).file(&format!("{n}.txt"), "an original");
    }
    let tar = place.write("in/00000.tar", pack.close());
    place.write("folder/0.jpg", &images[0]);
    let with_image = |n: usize| CaptionRow {
        sha256: sha256_hex(&images[n]),
        ..row(&n.to_string(), "a caption", 0.3, None)
    };
    let mut rows: Vec<CaptionRow> = (0..5).map(with_image).collect();
    // Not the input's image any more.
    rows[4].sha256 = sha256_hex(b"another image");
    let out = place.path("out");
    shard(&out, &format!("file://{}", tar.display()), &rows, &[]);
    shard(&out, &format!("file://{}/", place.path("folder").display()), &[with_image(0)], &[]);
    shard(&out, "file:///nowhere/gone.tar", &[row("gone", "a caption", 0.3, None)], &[]);
    shard(&out, "file:///nowhere/list.csv#part=2", &[row("listed", "a caption", 0.3, None)], &[]);
    let (said, page) = report(&place, "out", &[]);
    said.prints("sample    8 captions, 5 with an image");
    let reason = |page: &Page, key: &str, shard: &str| {
        let found =
            |one: &&Value| one["k"] == json!(key) && one["s"].as_str().is_some_and(|s| s.contains(shard));
        let sample = page.samples().iter().find(found).expect("a sample");
        sample["m"].as_str().unwrap_or_default().to_owned()
    };
    assert!(reason(&page, "4", "00000.tar").contains("its SHA-256 differs"));
    assert!(
        reason(&page, "gone", "gone.tar").contains("cannot be found")
            || reason(&page, "gone", "gone.tar").contains("cannot be read")
    );
    assert!(reason(&page, "listed", "list.csv").contains("--fetch"));

    let (said, page) = report(&place, "out", &["--image-bytes", "1"]);
    said.check(!said.stdout.contains("5 with an image"), "fewer images were expected");
    assert!(page.samples().iter().any(|one| one["m"].as_str().is_some_and(|m| m.contains("--image-bytes"))));
    report(&place, "out", &["--no-images"]).0.prints("8 captions, 0 with an image");

    // An address of this machine is refused, as in a run.
    let url = Some("http://127.0.0.1:9/x.jpg".to_owned());
    shard(
        &place.path("urls"),
        "file:///nowhere/urls.csv#part=1",
        &[CaptionRow { url, ..with_image(0) }],
        &[],
    );
    let (_, page) = report(&place, "urls", &["--fetch"]);
    assert!(
        reason(&page, "0", "urls.csv").contains("the image cannot be fetched"),
        "{}",
        page.data["samples"]
    );

    // Without its inputs the report is the same but for the images.
    fs::remove_dir_all(place.path("in")).expect("the input");
    report(&place, "out", &[]).0.prints("sample    8 captions, 1 with an image");

    // Images in the rows need no input.
    let embedded = |n: usize| CaptionRow {
        image: Some(EmbeddedImage { bytes: images[n].clone(), path: format!("{n}.jpg") }),
        ..with_image(n)
    };
    shard(&place.path("embedded"), SHARD, &(0..6).map(embedded).collect::<Vec<_>>(), &[]);
    report(&place, "embedded", &[]).0.prints("sample    6 captions, 6 with an image");
}

#[test]
fn outputs_without_rows_and_folders_without_outputs() {
    let place = Place::new();
    shard(&place.path("out"), SHARD, &[], &[]);
    let (_, page) = report(&place, "out", &[]);
    assert_eq!((page.samples().len(), &page.data["scores"]), (0, &Value::Null));
    fs::create_dir(place.path("nothing")).expect("a folder");
    recaption()
        .dir(place.root())
        .args(["report", "nothing"])
        .ends(1)
        .warns("no commit records: not the output of `recaption run`");
    assert!(!place.path("report.html").exists());
    recaption().dir(place.root()).args(["report", "out", "--samples", "4001"]).ends(2);
}

#[test]
fn report_of_a_bucket() {
    let bucket = support::bucket::Bucket::moto();
    let place = Place::new();
    let rows = vocabulary_rows(50);
    shard(&place.path("out"), SHARD, &rows, &[]);
    for name in support::files_below(&place.path("out")).keys() {
        let bytes = fs::read(place.path("out").join(name)).expect("a file");
        bucket.put(&format!("out/{}", name.display()), bytes);
    }
    let call = bucket.recaption().dir(place.root());
    call.args(["--log-format", "text", "report", &bucket.url("out"), "--no-images"])
        .ends(0)
        .prints("rows      50 captions, 0 rejects");
    let page = Page::read(&place.path("report.html"));
    assert_eq!((page.samples().len(), page.data["output"].as_str()), (50, Some(bucket.url("out").as_str())));
}

/// Chromium, and the folder of the modules that drive it; `None` where it is missing and that is allowed.
fn browser() -> Option<(PathBuf, PathBuf)> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("cargo's own folder");
    let modules = target.join("test-services/browser");
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let chromium = std::env::split_paths(&folders)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|path| path.is_file());
    match chromium.filter(|_| modules.join("node_modules/puppeteer-core").is_dir()) {
        Some(chromium) => Some((modules, chromium)),
        None => {
            let what = "NO BROWSER: the report page was not tested in one. `apt-get install chromium`, then `make test-services`";
            assert!(std::env::var_os("RECAPTION_WITHOUT_BROWSER").is_some(), "{what}");
            println!("{what}");
            None
        }
    }
}

/// Checks what slider, typed thresholds and the choice of the score did.
fn check_threshold(met: &Value, rows: &[CaptionRow], thresholds: [&str; 2]) {
    // The slider by keyboard: 20 steps of 0.001.
    let number =
        |state: &Value| state["value"].as_str().and_then(|v| v.parse::<i64>().ok()).expect("a number");
    assert_eq!(number(&met["after"]) - number(&met["before"]), 20);
    assert_ne!(met["after"]["share"], met["before"]["share"]);
    assert_ne!(met["after"]["command"], met["before"]["command"]);
    let reached = met["reached"].to_string();
    assert!(
        ["threshold-number", "by", "copy"].iter().all(|id| reached.contains(&format!("\"{id}\""))),
        "{reached}"
    );
    // Typed thresholds keep what a count of the rows does.
    let scores: Vec<f32> = rows
        .iter()
        .map(|row| row.candidates.chosen().similarity.get())
        .chain((0..HOSTILE.len()).map(|n| 0.2 + n as f32 / 100.0))
        .collect();
    for (typed, threshold) in met["typed"].as_array().expect("states").iter().zip(thresholds) {
        let least: f64 = threshold.parse().expect("a number");
        let kept = scores.iter().filter(|score| **score >= least as f32).count();
        assert_eq!(typed["count"], json!(format!("{kept} of 408 captions")));
        assert_eq!(
            typed["command"],
            json!(format!("recaption filter out --min-similarity {threshold} --to out-above-{threshold}"))
        );
        assert_eq!((&typed["above"], &typed["below"]), (&json!(4), &json!(4)));
    }
    let command = met["originals"]["command"].as_str().expect("a command");
    assert!(command.contains(" --by org_similarity "), "{command}");
}

#[test]
fn page_works_in_a_browser() {
    let Some((modules, chromium)) = browser() else { return };
    let place = Place::new();
    let images: Vec<Vec<u8>> = (0..4).map(jpeg).collect();
    let mut rows = vocabulary_rows(400);
    for (n, row) in rows.iter_mut().enumerate() {
        row.image = Some(EmbeddedImage { bytes: images[n % 4].clone(), path: "x.jpg".to_owned() });
    }
    let reject = |n: usize| Reject::new(format!("x{n}"), RejectReason::CorruptImage, "broken");
    hostile_output(&place);
    shard(&place.path("out"), SHARD, &rows, &(0..5).map(reject).collect::<Vec<_>>());
    report(&place, "out", &["--samples", "300"]);
    let thresholds = ["0.100", "0.333"];
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/browser.mjs"))
        .args([&modules, &chromium, &place.path("page.html")])
        .args(["check", "house"])
        .args(thresholds)
        .output()
        .expect("node starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let met: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for view in met["views"].as_array().expect("views") {
        let name = format!("{} px, {}", view["width"], view["scheme"]);
        assert_eq!(view["violations"], json!([]), "{name}");
        assert!(view["passes"].as_u64() > Some(20), "{name}: axe looked at too little");
        assert_eq!((&view["console"], &view["requests"]), (&json!([]), &json!([])), "{name}");
        assert!(view["overflow"].as_i64().expect("pixels") <= 0, "{name}: {view}");
    }
    assert_eq!((&met["met"]["console"], &met["met"]["requests"]), (&json!([]), &json!([])));
    assert_ne!(met["views"][0]["background"], met["views"][1]["background"], "light and dark are the same");
    check_threshold(&met, &rows, thresholds);
    // Filters.
    assert_eq!(met["all"], json!({"shown": "24 of 300 shown", "cards": 24}));
    let cards = met["filtered"]["cards"].as_array().expect("cards");
    assert!(!cards.is_empty() && cards.len() <= 24);
    assert_ne!(met["filtered"]["shown"], met["all"]["shown"]);
    assert_ne!(met["scored"]["shown"], met["all"]["shown"]);
    assert_eq!(met["reasons"]["reason:corrupt_image"], json!("5 of 5 shown"));
    assert_eq!(met["reasons"]["reason:caption_rule"], json!("8 of 8 shown"));
    assert!(met["images"].as_array().expect("images").iter().all(|shown| shown == &json!(true)));
    // Without scripts, totals and tables.
    assert_eq!(met["noScript"]["hidden"], json!(true));
    assert!(met["noScript"]["rows"].as_u64() > Some(100), "{}", met["noScript"]);
    assert!(met["noScript"]["totals"].as_str().is_some_and(|text| text.contains("408")));
    assert_eq!(met["elements"].as_array().map(Vec::len), Some(2), "{}", met["elements"]);
}
