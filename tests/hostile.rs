//! Hostile shards, as from a web crawl: every sample ends as exactly one row, and valid images are not affected.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use image::ImageFormat;
use serde_json::{Value, json};
use support::{
    Dice, Place, files_below,
    output::{self, Caption, Rows},
    shards::{Pack, encoded, jpeg, jpeg_claiming, scenes},
};
use tar::EntryType;

/// The expected outcome of a sample.
enum Fate {
    /// A caption row, with this original caption.
    Caption(Option<&'static str>),
    /// A reject for this reason, whose detail holds these words.
    Reject(&'static str, &'static str),
}
use Fate::{Caption as Kept, Reject};

/// Samples in the archive's order: key and expected outcome.
type Fates = Vec<(String, Fate)>;

fn long_key(kind: &str) -> String {
    format!("{kind}/{}/{}", "folder".repeat(12), "name".repeat(20))
}

/// Broken images, and samples without an image or a caption.
fn broken_images(pack: Pack) -> (Pack, Fates) {
    let whole = jpeg(1);
    let pack = pack
        .file("truncated.jpg", &whole[..whole.len() / 2])
        .file("truncated.txt", "half a picture")
        .file("enormous.jpg", jpeg_claiming(2, 60_000, 60_000))
        .file("empty.jpg", b"")
        .file("page.jpg", "<html><body>404 Not Found</body></html>")
        .file("noise.png", Dice::new(7).noise(5_000))
        .file("telephone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic and so on")
        .file("textonly.txt", "text without a picture")
        .file("tensor.npy", b"\x93NUMPY")
        .file("imageonly.jpg", jpeg(3));
    let fates = [
        ("truncated", Reject("corrupt_image", "JPEG")),
        ("enormous", Reject("too_many_pixels", "60000 x 60000")),
        ("empty", Reject("corrupt_image", "zero bytes")),
        ("page", Reject("corrupt_image", "a web page")),
        ("noise", Reject("corrupt_image", "named .png")),
        ("telephone", Reject("unsupported_format", "HEIC")),
        ("textonly", Reject("missing_image", "no member with an image suffix")),
        ("tensor", Reject("missing_image", "npy")),
        ("imageonly", Kept(None)),
    ];
    (pack, fates.map(|(key, fate)| (key.to_owned(), fate)).into())
}

/// Names that are dangerous as paths, or that are split differently than by webdataset.
fn strange_names(pack: Pack) -> (Pack, Fates) {
    let (pax, gnu) = (long_key("pax"), long_key("gnu"));
    let pack = pack
        .file("../../etc/passwd", "root:x:0:0:root:/root:/bin/bash")
        .file("../../evil.jpg", jpeg(4))
        .file("../../evil.txt", "outside")
        .file("/absolute.jpg", jpeg(5))
        .pax_file(&format!("{pax}.jpg"), jpeg(6))
        .pax_file(&format!("{pax}.txt"), "a PAX name")
        .gnu_long_file(&format!("{gnu}.jpg"), jpeg(7))
        .gnu_long_file(&format!("{gnu}.txt"), "a GNU name")
        .directory("folder/")
        .file("folder/._mac.jpg", "resource fork")
        .file("__index__/shard.json", "{}")
        .file("Upper.JPG", jpeg(8))
        .file("Upper.TXT", "shouting")
        .file("a.b.c.jpg", jpeg(9))
        .file("a.b.c.txt", "dots")
        .file("beside.jpg", jpeg(10))
        .file("beside.npy", b"\x93NUMPY")
        .file("beside.txt", "with an embedding");
    let fates = vec![
        ("../../etc/passwd".into(), Reject("missing_image", "")),
        ("../../evil".into(), Kept(Some("outside"))),
        ("/absolute".into(), Kept(None)),
        (pax, Kept(Some("a PAX name"))),
        (gnu, Kept(Some("a GNU name"))),
        ("Upper".into(), Kept(Some("shouting"))),
        ("a".into(), Kept(Some("dots"))),
        ("beside".into(), Kept(Some("with an embedding"))),
    ];
    (pack, fates)
}

/// Repeated keys, links, and captions that are not UTF-8.
fn strange_members(pack: Pack) -> (Pack, Fates) {
    let pack = pack
        .file("twice.jpg", jpeg(11))
        .file("twice.txt", "the first")
        .file("twice.jpg", jpeg(12))
        .file("twice.txt", "the second, adjacent")
        .file("latin.jpg", jpeg(13))
        .file("latin.txt", b"caf\xe9 at night")
        .file("twice.jpg", jpeg(14))
        .file("twice.txt", "the third, later")
        .link("hard.jpg", EntryType::Link, "twice.jpg")
        .link("soft.jpg", EntryType::Symlink, "/etc/passwd")
        .file("linked.jpg", jpeg(15))
        .link("linked.txt", EntryType::Symlink, "/etc/passwd");
    let fates = [
        ("twice", Kept(Some("the first"))),
        ("twice", Reject("duplicate_key", "same key")),
        ("latin", Kept(Some("caf\u{FFFD} at night"))),
        ("twice", Reject("duplicate_key", "same key")),
        ("hard", Reject("missing_image", "hard link to \"twice.jpg\"")),
        ("soft", Reject("missing_image", "symbolic link to \"/etc/passwd\"")),
        ("linked", Kept(None)),
    ];
    (pack, fates.map(|(key, fate)| (key.to_owned(), fate)).into())
}

const FORMATS: [(&str, ImageFormat); 5] = [
    ("gif", ImageFormat::Gif),
    ("png", ImageFormat::Png),
    ("webp", ImageFormat::WebP),
    ("bmp", ImageFormat::Bmp),
    ("tiff", ImageFormat::Tiff),
];

fn formats(mut pack: Pack) -> (Pack, Fates) {
    let mut fates = Vec::new();
    for (suffix, format) in FORMATS {
        pack = pack.file(&format!("sample-{suffix}.{suffix}"), encoded(16, format));
        fates.push((format!("sample-{suffix}"), Kept(None)));
    }
    // A wrong suffix: the content decides.
    pack = pack.file("liar.jpg", encoded(16, ImageFormat::Png));
    fates.push(("liar".into(), Kept(None)));
    (pack, fates)
}

/// Returns the hostile shard and the expected outcomes.
fn hostile_shard() -> (Vec<u8>, Fates) {
    let mut pack = Pack::new();
    let mut fates = Vec::new();
    for part in [broken_images, strange_names, strange_members, formats] {
        let (packed, more) = part(pack);
        pack = packed;
        fates.extend(more);
    }
    (pack.close(), fates)
}

/// Returns the valid images alone, under plain names.
fn clean_shard() -> Vec<u8> {
    let plain = |pack: Pack, n: u64| pack.file(&format!("{n:02}.jpg"), jpeg(n));
    let pack = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15].into_iter().fold(Pack::new(), plain);
    FORMATS
        .iter()
        .fold(pack, |pack, (suffix, format)| pack.file(&format!("{suffix}.{suffix}"), encoded(16, *format)))
        .close()
}

fn by_picture(rows: &[Caption]) -> BTreeMap<&str, &Caption> {
    rows.iter().map(|row| (row.sha256.as_str(), row)).collect()
}

#[test]
fn every_sample_of_a_hostile_shard_ends_as_one_row() {
    let place = Place::new();
    let (shard, fates) = hostile_shard();
    let hostile = place.write("in/hostile.tar", shard);
    let clean = place.write("in/clean.tar", clean_shard());
    place.run(&hostile, "out").ends(0);
    place.run(&clean, "clean").ends(0);

    let rows = output::read(&place.path("out"));
    let kept: Vec<_> = fates.iter().filter(|(_, fate)| matches!(fate, Kept(_))).collect();
    let keys: Vec<&str> = rows.captions.iter().map(|row| row.key.as_str()).collect();
    assert_eq!(keys, kept.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>());
    for (row, (key, fate)) in rows.captions.iter().zip(&kept) {
        let Kept(org_caption) = fate else { continue };
        assert_eq!(row.org_caption.as_deref(), *org_caption, "{key}");
        assert_eq!((row.width, row.height), (192, 192), "{key}");
        assert_eq!(row.org_similarity.is_some(), row.org_caption.is_some(), "{key}");
    }

    let rejected: Vec<_> = fates.iter().filter(|(_, fate)| matches!(fate, Reject(..))).collect();
    let found: Vec<_> = rows.rejects.iter().map(|row| (row.key.as_str(), row.reason.as_str())).collect();
    let wanted: Vec<_> = rejected
        .iter()
        .map(|(key, fate)| (key.as_str(), if let Reject(reason, _) = fate { *reason } else { "" }))
        .collect();
    assert_eq!(found, wanted);
    for (row, (key, fate)) in rows.rejects.iter().zip(&rejected) {
        let Reject(_, words) = fate else { continue };
        assert!(row.detail.contains(words), "{key}: {}", row.detail);
    }

    let commit = output::commit_of(&place.path("out"), "hostile.tar");
    assert_eq!(commit.counts.read as usize, fates.len(), "{:#?}", commit.counts);
    assert_eq!(commit.counts.input.ignored_members, 3, "the folder, the resource fork and the index");
    assert_eq!(commit.damaged, None);

    let clean = output::read(&place.path("clean"));
    assert!(clean.rejects.is_empty(), "{:?}", clean.rejects);
    let clean = by_picture(&clean.captions);
    for row in &rows.captions {
        let plain = clean[row.sha256.as_str()];
        let say = |row: &Caption| (row.caption.clone(), row.similarity, row.candidates.clone());
        assert_eq!(say(row), say(plain), "{}", row.key);
    }
}

#[test]
fn member_names_are_never_used_as_paths() {
    let place = Place::new();
    let (shard, _) = hostile_shard();
    let input = place.write("deep/er/in/hostile.tar", shard);
    let before = files_below(place.root());
    place.run(&input, "deep/er/out").set("output.images=embed").ends(0);
    let new: Vec<PathBuf> =
        files_below(place.root()).into_keys().filter(|path| !before.contains_key(path)).collect();
    let strays: Vec<_> = new.iter().filter(|path| !path.starts_with("deep/er/out")).collect();
    assert!(strays.is_empty(), "written outside of the output: {strays:?}");
    assert_eq!(
        new.len(),
        5,
        "two parts, a commit record, the claim of the configuration and the run's record: {new:?}"
    );
    let outside =
        output::read(&place.path("deep/er/out")).captions.into_iter().find(|row| row.key == "../../evil");
    let (bytes, path) = outside.and_then(|row| row.image).expect("the picture is embedded");
    assert_eq!((bytes, path.as_str()), (jpeg(4), "../../evil.jpg"));
}

/// Returns six scenes without the last two: the fifth's image is truncated.
fn truncated_shard() -> Vec<u8> {
    let whole = scenes(9, 6);
    let fifth = whole.windows(15).position(|name| name == b"00009000004.jpg").expect("the fifth scene");
    whole[..fifth + 512 + 1_000].to_vec()
}

fn failures(report: &Value) -> Vec<(String, Value, Value)> {
    let list = report["shards_failed"].as_array().cloned().unwrap_or_default();
    let name = |f: &Value| {
        Path::new(f["shard"].as_str().unwrap_or_default()).file_name().map(|n| n.display().to_string())
    };
    let mut failures: Vec<_> = list
        .iter()
        .map(|f| (name(f).unwrap_or_default(), f["class"].clone(), f["permanent"].clone()))
        .collect();
    failures.sort_by(|a, b| a.0.cmp(&b.0));
    failures
}

#[test]
fn broken_shards_are_reported_and_the_run_continues() {
    let place = Place::new();
    place.write("in/clean.tar", scenes(8, 6));
    place.write("in/truncated.tar", truncated_shard());
    place.write("in/garbage.tar", Dice::new(3).noise(20_000));
    place.write("in/empty.tar", b"");
    let input = place.path("in");

    let first = place.run(&input, "out").ends(3);
    let report = first.report();
    let data = json!("data");
    let failed = |permanent: bool| {
        ["empty.tar", "garbage.tar"].map(|name| (name.to_owned(), data.clone(), json!(permanent))).to_vec()
    };
    assert_eq!(failures(&report), failed(false), "{report:#}");
    assert_eq!((&report["shards_done"], &report["shards_incomplete"]), (&json!(2), &json!(0)), "{report:#}");
    assert_eq!(report["shards_damaged"].as_array().map(Vec::len), Some(1), "{report:#}");
    first.warns("garbage.tar").warns("not a tar").warns("empty.tar");

    let out = place.path("out");
    let rows = output::read(&out);
    assert_eq!(rows.captions.len(), 6 + 4, "all of the clean shard, the whole samples of the other");
    let [tail] = rows.rejects.as_slice() else { panic!("one broken tail: {:?}", rows.rejects) };
    assert_eq!((tail.key.as_str(), tail.reason.as_str()), ("00009000004", "damaged_shard"));
    assert!(
        tail.detail.contains("00009000004.jpg") && tail.detail.contains("after 1000 of"),
        "{}",
        tail.detail
    );
    let damage =
        output::commit_of(&out, "truncated.tar").damaged.expect("the record says that it is damaged");
    assert!(damage.detail.contains("00009000004.jpg"), "{}", damage.detail);
    assert_eq!(output::commit_of(&out, "clean.tar").damaged, None);

    // The damaged shard is committed: only what has no record is tried again, and found to be permanent.
    let parts = output::part_bytes(&out);
    let second = place.run(&input, "out").ends(4);
    let report = second.report();
    assert_eq!(failures(&report), failed(true), "{report:#}");
    assert_eq!((&report["shards_skipped"], &report["shards_done"]), (&json!(2), &json!(0)), "{report:#}");
    assert_eq!(output::part_bytes(&out), parts);

    // Changed bytes: a repaired shard is captioned, and other garbage fails for the first time.
    place.write("in/empty.tar", scenes(7, 2));
    place.write("in/garbage.tar", Dice::new(4).noise(20_001));
    let report = place.run(&input, "out").ends(3).report();
    assert_eq!(failures(&report), vec![("garbage.tar".to_owned(), data.clone(), json!(false))], "{report:#}");
    assert_eq!(output::read(&out).captions.len(), 6 + 4 + 2);
}

#[test]
fn missing_shard_is_a_permanent_failure() {
    let place = Place::new();
    place.draw("in", 3, 3);
    let range = place.path("in/{00000..00002}.tar");
    let aside = place.path("aside.tar");
    fs::rename(place.path("in/00001.tar"), &aside).expect("can be moved");
    // It may still appear after the first failure; after the second, a retry is pointless.
    for (code, again) in [(3, false), (4, true), (4, true)] {
        let said = place.run(&range, "out").ends(code);
        let missing = vec![("00001.tar".to_owned(), json!("missing"), json!(again))];
        assert_eq!(failures(&said.report()), missing);
        said.warns("00001.tar");
    }
    fs::rename(&aside, place.path("in/00001.tar")).expect("can be moved");
    assert_eq!(place.run(&range, "out").ends(0).report()["shards_done"], json!(1));
    assert_eq!(output::read(&place.path("out")).captions.len(), 9);
}

#[test]
fn failure_is_cleared_when_the_shard_reappears() {
    let place = Place::new();
    place.draw("in", 2, 3);
    let range = place.path("in/{00000..00001}.tar");
    let out = place.path("out");
    place.run(&range, "out").ends(0);
    let rows = output::read(&out);
    // The shard disappears after it was captioned, and reappears unchanged.
    let aside = place.path("aside.tar");
    fs::rename(place.path("in/00001.tar"), &aside).expect("can be moved");
    place.run(&range, "out").ends(3);
    assert_eq!(output::read(&out), rows, "what was captioned stays");
    fs::rename(&aside, place.path("in/00001.tar")).expect("can be moved");
    place.run(&range, "out").ends(0);
    support::program::recaption().arg("inspect").arg(&out).ends(0).prints("2 done, 0 failed");
}

#[test]
fn shard_without_samples_is_done_without_rows() {
    let place = Place::new();
    let input = place.write("in/hollow.tar", Pack::new().directory("nothing/").close());
    place.run(&input, "out").ends(0);
    assert_eq!(output::read(&place.path("out")), Rows { captions: vec![], rejects: vec![] });
    let counts = output::commit_of(&place.path("out"), "hollow.tar").counts;
    assert_eq!((counts.read, counts.input.ignored_members), (0, 1));
}

#[test]
fn data_after_the_end_of_a_tar_is_one_reject() {
    let place = Place::new();
    // Two concatenated shards; the last sample of the first has no image.
    let first = Pack::new().file("one.jpg", jpeg(1)).file("two.txt", "without a picture").close();
    let glued = [first, scenes(5, 2)].concat();
    let input = place.write("in/glued.tar", glued);
    place.run(&input, "out").ends(3);
    let rows = output::read(&place.path("out"));
    assert_eq!(rows.captions.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["one"]);
    let found: Vec<_> = rows.rejects.iter().map(|row| (row.key.as_str(), row.reason.as_str())).collect();
    assert_eq!(found, [("two", "missing_image"), ("", "damaged_shard")]);
    assert!(rows.rejects[1].detail.contains("another tar follows"), "{}", rows.rejects[1].detail);
}

#[test]
fn member_over_the_limit_is_rejected() {
    let place = Place::new();
    let small = jpeg(1);
    let shard = Pack::new().file("small.jpg", &small).file("large.bmp", encoded(2, ImageFormat::Bmp)).close();
    let input = place.write("in/mixed.tar", shard);
    place.run(&input, "out").set("input.max_member_bytes=50000").ends(0);
    let rows = output::read(&place.path("out"));
    assert_eq!(rows.captions.len(), 1);
    let [reject] = rows.rejects.as_slice() else { panic!("one reject: {:?}", rows.rejects) };
    assert_eq!((reject.key.as_str(), reject.reason.as_str()), ("large", "too_large"));
}

#[test]
fn limits_on_image_size_are_enforced() {
    let place = Place::new();
    let input = place.write("in/one.tar", Pack::new().file("picture.jpg", jpeg(1)).close());
    for (limit, reason) in
        [("input.max_pixels=36863", "too_many_pixels"), ("input.min_side=193", "too_small")]
    {
        place.run(&input, reason).set(limit).ends(0);
        let rows = output::read(&place.path(reason));
        assert_eq!(rows.rejects.iter().map(|row| row.reason.as_str()).collect::<Vec<_>>(), [reason]);
    }
    place.run(&input, "out").set("input.max_pixels=36864").set("input.min_side=192").ends(0);
    assert_eq!(output::read(&place.path("out")).captions.len(), 1);
}
