//! A sample is identified by shard and position, and its key is a label: no image is lost to another with the same name.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    os::unix::ffi::OsStringExt,
    path::Path,
    sync::Arc,
};

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use recaption_schemas::name_bytes;
use support::{
    Place,
    output::{self, Rows},
    shards::{Pack, encoded, jpeg},
};

fn png(n: u64) -> Vec<u8> {
    encoded(n, image::ImageFormat::Png)
}

/// Keys with their captions, in order.
fn keys(rows: &Rows) -> Vec<(&str, Option<&str>)> {
    rows.captions.iter().map(|row| (row.key.as_str(), row.org_caption.as_deref())).collect()
}

/// Keys of rejects with their reasons.
fn reasons(rows: &Rows) -> Vec<(&str, &str)> {
    rows.rejects.iter().map(|row| (row.key.as_str(), row.reason.as_str())).collect()
}

fn run(place: &Place, input: impl AsRef<Path>, out: &str) -> Rows {
    place.run(input, out).ends(0);
    output::read(&place.path(out))
}

#[test]
fn every_image_of_a_folder_is_a_sample() {
    let place = Place::new();
    for (n, name) in ["aaa.bbb", "aaa.ccc"].into_iter().enumerate() {
        place.write(&format!("f/{name}.jpg"), jpeg(n as u64));
        place.write(&format!("f/{name}.txt"), format!("cap {name}\n"));
    }
    for (n, at) in ["10.30.15", "10.31.22", "10.32.00"].into_iter().enumerate() {
        place.write(&format!("f/Screen Shot 2020-01-01 at {at} AM.png"), png(n as u64));
    }
    // Equal stems keep their suffix, dots stay, and a caption may have the whole name of its image.
    place.write("f/top.jpg", jpeg(7));
    place.write("f/top.webp", encoded(8, image::ImageFormat::WebP));
    place.write("f/top.txt", "both");
    place.write("f/top.webp.txt", "the second");
    place.write("f/1.2.840.5.png", png(3));
    place.write("f/1.2.840.6.png", png(4));
    let rows = run(&place, place.path("f"), "out");
    assert_eq!(
        keys(&rows),
        [
            ("1.2.840.5", None),
            ("1.2.840.6", None),
            ("Screen Shot 2020-01-01 at 10.30.15 AM", None),
            ("Screen Shot 2020-01-01 at 10.31.22 AM", None),
            ("Screen Shot 2020-01-01 at 10.32.00 AM", None),
            ("aaa.bbb", Some("cap aaa.bbb")),
            ("aaa.ccc", Some("cap aaa.ccc")),
            ("top.jpg", Some("both")),
            ("top.webp", Some("the second")),
        ]
    );
    let counts = &output::commits(&place.path("out"))[0].counts;
    assert_eq!((counts.read, counts.input.without_caption, counts.input.ignored_members), (9, 5, 0));
}

#[test]
fn extra_images_of_a_webdataset_key_are_counted() {
    let place = Place::new();
    let tar = Pack::new()
        .file("22.05.png", png(0))
        .file("22.06.png", png(1))
        .file("s.1.jpg", jpeg(2))
        .file("s.2.jpg", jpeg(3))
        .file("s.right.jpg", jpeg(4))
        .file("t.jpg", jpeg(5))
        .close();
    let shard = place.write("a.tar", tar);
    let said = place.run(&shard, "out").args(["--log-format", "text"]).ends(0);
    said.warns("samples with several images")
        .warns("extra_images=3")
        .warns("22.06.png, s.2.jpg, s.right.jpg");
    assert_eq!(said.stderr.matches("samples with several images").count(), 1, "one warning per shard");
    assert!(said.stdout.contains("3 further images of samples that have several"), "{}", said.stderr);
    let counts = &output::commits(&place.path("out"))[0].counts;
    assert_eq!((counts.read, counts.input.extra_images), (3, 3));
    assert_eq!(counts.input.extra_image_names, ["22.06.png", "s.2.jpg", "s.right.jpg"]);
    let status = support::program::recaption().arg("status").arg(place.path("out")).ends(0);
    assert!(
        status.stdout.contains("\"extra_images\":3") || status.stdout.contains("\"extra_images\": 3"),
        "{}",
        status.stdout
    );

    let sha = |rows: &Rows| rows.captions.iter().map(|row| row.sha256.clone()).collect::<Vec<_>>();
    let usual = output::read(&place.path("out"));
    assert_eq!(usual.captions[1].sha256, recaption_schemas::sha256_hex(&jpeg(2)));
    place.run(&shard, "chosen").set("input.image_suffixes=[\"right.jpg\", \"06.png\"]").ends(0);
    let chosen = output::read(&place.path("chosen"));
    let wanted = [png(1), jpeg(4), jpeg(5)].map(|bytes| recaption_schemas::sha256_hex(&bytes));
    assert_eq!(sha(&chosen), wanted);
    place.run(&shard, "out").set("input.image_suffixes=right.jpg").ends(2).warns("input.image_suffixes");
}

#[test]
fn repeated_keys_of_a_tar_name_the_remedy() {
    let place = Place::new();
    let tar = Pack::new()
        .file("a.jpg", jpeg(0))
        .file("b.jpg", jpeg(1))
        .file("a.txt", "a")
        .file("b.txt", "b")
        .close();
    let shard = place.write("apart.tar", tar);
    place.run(&shard, "out").ends(0).warns("tar --sort=name");
    let rows = output::read(&place.path("out"));
    assert_eq!(reasons(&rows), [("a", "duplicate_key"), ("b", "duplicate_key")]);
    assert!(
        rows.rejects[0].detail.contains("no image") && rows.rejects[0].detail.contains("tar --sort=name")
    );
    assert!(recaption_schemas::RejectReason::DuplicateKey.is_failure());
}

/// Hugging Face's image feature.
fn images(paths: &[Option<&str>]) -> ArrayRef {
    let pictures: Vec<Vec<u8>> = (0..paths.len() as u64).map(jpeg).collect();
    let bytes: ArrayRef = Arc::new(pictures.iter().map(|bytes| Some(&bytes[..])).collect::<BinaryArray>());
    let paths: ArrayRef = Arc::new(paths.iter().copied().collect::<StringArray>());
    let field = |name, kind| Arc::new(Field::new(name, kind, true));
    Arc::new(StructArray::from(vec![
        (field("bytes", DataType::Binary), bytes),
        (field("path", DataType::Utf8), paths),
    ]))
}

fn write_table(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    let mut writer =
        ArrowWriter::try_new(File::create(path).expect("a file"), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");
}

/// A table: its name, the paths of its images, and the expected keys.
type Case<'a> = (&'a str, [Option<&'a str>; 4], [&'a str; 4]);

#[test]
fn rows_with_equal_paths_have_distinct_keys() {
    let place = Place::new();
    let cases: [Case<'_>; 5] = [
        ("classes", [Some("1.jpg"), Some("2.jpg"), Some("1.jpg"), Some("2.jpg")], ["1", "2", "1#2", "2#3"]),
        ("one", [Some("image.jpg"); 4], ["image", "image#1", "image#2", "image#3"]),
        ("empty", [Some(""); 4], ["000000000", "000000001", "000000002", "000000003"]),
        ("none", [None; 4], ["000000000", "000000001", "000000002", "000000003"]),
        (
            "dots",
            [Some("img.0.jpg"), Some("img.1.jpg"), Some("img.2.jpg"), Some("d/img.2.jpg")],
            ["img.0", "img.1", "img.2", "d/img.2"],
        ),
    ];
    for (name, paths, wanted) in cases {
        let table = place.path(&format!("{name}.parquet"));
        write_table(&table, vec![("image", images(&paths))]);
        let rows = run(&place, &table, &format!("out-{name}"));
        assert_eq!(rows.captions.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), wanted, "{name}");
    }
}

#[test]
fn only_key_columns_make_duplicates() {
    let place = Place::new();
    let table = place.path("declared.parquet");
    let keys_of: ArrayRef = Arc::new(StringArray::from(vec![Some("k"), Some("k"), None, Some("000000002")]));
    write_table(&table, vec![("image", images(&[None; 4])), ("__KEY__", keys_of)]);
    let rows = run(&place, &table, "out");
    assert_eq!(
        keys(&rows).iter().map(|(key, _)| *key).collect::<Vec<_>>(),
        ["k", "000000002", "000000002#3"]
    );
    assert_eq!(reasons(&rows), [("k", "duplicate_key")]);
    // `id` is not a key column.
    let list = place.write("l.csv", "url,id\nftp://a,7\nftp://b,7\n");
    place.run(&list, "listed").ends(0);
    let rows = output::read(&place.path("listed"));
    assert_eq!(reasons(&rows), [("000000000", "url_refused"), ("000000001", "url_refused")]);
    let list = place.write("k.csv", "url,id\nftp://a,7\nhttp://127.0.0.1:9/b,7\n");
    place.run(&list, "told").set("input.key_column=id").ends(0);
    assert_eq!(reasons(&output::read(&place.path("told"))), [("7", "url_refused"), ("7", "duplicate_key")]);
}

#[test]
fn names_that_are_not_utf8_are_escaped_reversibly() {
    let place = Place::new();
    let names: [&[u8]; 4] = [b"caf\xe9", b"caf\xe8", b"caf\xc3\xa9", b"caf\\xE9"];
    fs::create_dir_all(place.path("f")).expect("a folder");
    let mut tar = tar::Builder::new(Vec::new());
    for (n, name) in names.into_iter().enumerate() {
        let file = [name, b".jpg"].concat();
        fs::write(place.path("f").join(OsString::from_vec(file.clone())), jpeg(n as u64)).expect("a file");
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..file.len()].copy_from_slice(&file);
        header.set_size(jpeg(n as u64).len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, &jpeg(n as u64)[..]).expect("a member");
    }
    let shard = place.write("a.tar", tar.into_inner().expect("a tar"));
    for (input, out) in [(place.path("f"), "folder"), (shard, "tar")] {
        let rows = run(&place, &input, out);
        let found: BTreeSet<Vec<u8>> = rows.captions.iter().map(|row| name_bytes(&row.key)).collect();
        assert_eq!(found, names.map(<[u8]>::to_vec).into(), "{out}");
    }
}
