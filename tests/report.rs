//! `recaption report`: what the page says of an output, and that it loads nothing and stays whole whatever the captions hold.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

#[path = "report/browser.rs"]
mod browser;
#[path = "report/images.rs"]
mod images;
#[path = "report/outputs.rs"]
mod outputs;
#[path = "report/page.rs"]
mod page;
mod support;

use std::{collections::BTreeMap, fs};

use outputs::{HOSTILE, SHARD, hostile_output, row, shard, vocabulary_output, vocabulary_rows};
use page::{Page, report};
use recaption_schemas::{CaptionRow, EmbeddedImage, Similarity};
use serde_json::{Value, json};
use support::{Dice, Place, program::recaption};

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

/// Half of the chosen captions and a third of the original ones were matched.
#[test]
fn thresholds_of_matching_are_those_of_the_rows() {
    let place = Place::new();
    let mut rows = vocabulary_rows(600);
    outputs::match_rows(&mut rows);
    shard(&place.path("out"), SHARD, &rows[..400], &[]);
    // A shard of a run that matched nothing.
    let similarities: Vec<CaptionRow> = vocabulary_rows(30);
    shard(&place.path("out"), "s3://nowhere/00001.tar", &similarities, &[]);
    let (_, page) = report(&place, "out", &["--samples", "430"]);

    let chosen: Vec<f32> =
        rows[..400].iter().filter_map(|row| row.candidates.chosen().itm).map(|itm| itm.get()).collect();
    let original: Vec<f32> = rows[..400].iter().filter_map(|row| row.org_itm).map(|itm| itm.get()).collect();
    for (column, scores) in [("itm", &chosen), ("org_itm", &original)] {
        for thousandths in (0..=1000).step_by(50) {
            let threshold = f64::from(thousandths) / 1000.0;
            let kept = scores.iter().filter(|score| **score >= threshold as f32).count() as u64;
            assert_eq!(page.at_least(column, threshold), kept, "{column} at {threshold}");
        }
        let missing = 430 - scores.len();
        assert_eq!(page.data["scores"][column]["missing"], json!(missing), "{column}");
    }
    let (itm, org_itm) = (&page.data["scores"]["itm"], &page.data["scores"]["org_itm"]);
    assert_eq!((itm["least"].as_str(), itm["by"].as_str()), (Some("--min-itm "), Some("")));
    assert_eq!(org_itm["by"], json!(" --by org_itm"));
    assert_eq!(itm["axis"], org_itm["axis"]);
    for sample in page.samples().iter().filter(|sample| sample["s"] == json!(SHARD)) {
        let row = rows.iter().find(|row| sample["k"] == json!(row.key)).expect("a row of the output");
        let scores = [row.candidates.chosen().itm, row.org_itm].map(|itm| itm.map(|itm| itm.get()));
        assert_eq!(["itm", "oitm"].map(|name| sample[name].as_f64().map(|n| n as f32)), scores);
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
