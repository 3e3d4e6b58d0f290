//! Malformed inputs: a bad entry is skipped or rejected alone, everything is counted, and messages name what an input is.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write,
    os::unix::{ffi::OsStringExt, fs::symlink},
    path::Path,
    sync::Arc,
};

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::{
    arrow::ArrowWriter,
    file::{properties::WriterProperties, reader::FileReader},
};
use support::{
    Place,
    output::{self, Rows},
    shards::{Pack, encoded, jpeg},
};

/// A server that does not exist: every row is a reject.
const NO_SERVER: &str = "http://127.0.0.1:9";

fn read(place: &Place, out: &str) -> Rows {
    output::read(&place.path(out))
}

/// Creates an entry in a folder, by name.
type Case<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn unlistable_entries_are_skipped() {
    let place = Place::new();
    let cases: [Case<'_>; 6] = [
        ("latin-1", &|sub| {
            fs::write(sub.join(OsString::from_vec(b"notes-caf\xe9.doc".into())), "x").expect("a file")
        }),
        ("tab", &|sub| fs::write(sub.join("a\tb.txt"), "x").expect("a file")),
        ("newline", &|sub| fs::write(sub.join("a\nb.txt"), "x").expect("a file")),
        ("loop", &|sub| symlink("../sub", sub.join("loop")).expect("a link")),
        ("itself", &|sub| symlink("self", sub.join("self")).expect("a link")),
        ("pipe", &|sub| {
            let made = std::process::Command::new("mkfifo").arg(sub.join("pipe.jpg")).status();
            assert!(made.expect("mkfifo starts").success());
        }),
    ];
    for (name, entry) in cases {
        place.write(&format!("{name}/ok.tar"), Pack::new().file("k.jpg", jpeg(0)).close());
        fs::create_dir_all(place.path(name).join("sub")).expect("a folder");
        entry(&place.path(name).join("sub"));
        for (form, input) in [("folder", place.path(name)), ("glob", place.path(name).join("*.tar"))] {
            let out = format!("out-{name}-{form}");
            place.run(&input, &out).ends(0);
            assert_eq!(read(&place, &out).captions.len(), 1, "{name}, {form}");
        }
    }
    place.run(place.path("loop"), "warned").ends(0).warns("skipped entries that cannot be listed");
    let said = place.run(place.path("loop/*.tar"), "deep").ends(0);
    assert!(
        !said.stderr.contains("cannot be listed"),
        "a glob lists no deeper than it asks: {}",
        said.stderr
    );
}

#[test]
fn glob_lists_the_levels_of_its_pattern() {
    let place = Place::new();
    for name in ["a/x/0.tar", "a/y/0.tar", "b/x/0.tar", "a/x/deep/0.tar", "0.tar"] {
        place.write(&format!("g/{name}"), Pack::new().file("k.jpg", jpeg(0)).close());
    }
    for (pattern, shards) in
        [("g/*.tar", 1), ("g/*/x/0.tar", 2), ("g/?/*/*.tar", 3), ("g/**/0.tar", 5), ("g/[b]/*/*.tar", 1)]
    {
        let out = format!("out-{shards}-{}", pattern.len());
        place.run(place.path(pattern), &out).ends(0);
        assert_eq!(output::commits(&place.path(&out)).len(), shards, "{pattern}");
    }
}

#[test]
fn unreadable_files_of_a_folder_are_skipped() {
    let place = Place::new();
    place.write("f/a.jpg", jpeg(0));
    // A folder with the name of an image, and a dangling link.
    fs::create_dir_all(place.path("f/folder.jpg")).expect("a folder");
    symlink("gone.jpg", place.path("f/broken.jpg")).expect("a link");
    place.run(place.path("f"), "out").ends(0).warns("broken.jpg");
    assert_eq!(read(&place, "out").captions.len(), 1);
}

#[test]
fn unclosed_quote_costs_one_row() {
    let place = Place::new();
    let rows = |text: &str, name: &str| {
        let list = place.write(name, text.replace('U', NO_SERVER));
        let out = format!("out-{name}");
        place.run(&list, &out).ends(0);
        read(&place, &out).rejects
    };
    let found = rows("url,caption\nU/a.jpg,cap a\nU/b.jpg,\"5 inch\nU/c.jpg,cap c\nU/d.jpg,cap d\n", "l.csv");
    let captions: Vec<Option<&str>> = found.iter().map(|row| row.org_caption.as_deref()).collect();
    assert_eq!(captions, [Some("cap a"), None, Some("cap c"), Some("cap d")]);
    assert!(found[1].detail.contains("never closed"), "{}", found[1].detail);
    // A quote in a later row does not close it, and a quoted value may span lines.
    let text = "url,caption\nU/a,\"one\ntwo\"\nU/b,\"5 inch\nU/c,\"cap, c\"\nU/d,6\" wide\nU/e,cap e";
    let found = rows(text, "m.csv");
    let captions: Vec<Option<&str>> = found.iter().map(|row| row.org_caption.as_deref()).collect();
    assert_eq!(captions, [Some("one\ntwo"), None, Some("cap, c"), Some("6\" wide"), Some("cap e")]);
    // In tab-separated values quotes are text.
    let found = rows("url\tcaption\nU/a\t\"5 inch\nU/b\tb\n", "t.tsv");
    let captions: Vec<Option<&str>> = found.iter().map(|row| row.org_caption.as_deref()).collect();
    assert_eq!(captions, [Some("\"5 inch"), Some("b")]);
    // Many rows with one unclosed quote, in several parts.
    let many: String = (0..2000).map(|n| format!("U/{n},\"cap {n}\"\n")).collect();
    let list = place.write("many.csv", format!("url,caption\nU/x,\"open\n{many}").replace('U', NO_SERVER));
    place.run(&list, "many").set("input.rows_per_shard=300").set("run.max_failure_ratio=1").ends(0);
    let found = read(&place, "many").rejects;
    assert_eq!((found.len(), found.iter().filter(|row| row.org_caption.is_none()).count()), (2001, 1));
}

#[test]
fn truncated_gzip_list_keeps_whole_rows() {
    let place = Place::new();
    let text: String =
        (0..3000).map(|n| format!("{{\"url\":\"{NO_SERVER}/{n}-{:x}\"}}\n", n * 7919 % 4093)).collect();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("memory");
    let packed = encoder.finish().expect("memory");
    let list = place.write("cut.jsonl.gz", &packed[..packed.len() / 2]);
    place.run(&list, "out").set("run.max_failure_ratio=1").ends(3);
    let found = read(&place, "out").rejects;
    let (last, rows) = found.split_last().expect("rows");
    assert!(rows.len() > 500 && rows.iter().all(|row| row.reason == "url_refused"), "{}", rows.len());
    assert_eq!(last.reason, "damaged_shard");
    assert!(last.detail.contains("cannot be unpacked"), "{}", last.detail);
}

fn write_table(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");
}

/// Overwrites the pages of a column in a row group.
fn damage(path: &Path, group: usize, column: usize) {
    let reader = parquet::file::reader::SerializedFileReader::new(File::open(path).expect("a file"));
    let reader = reader.expect("a footer");
    let column = reader.metadata().row_group(group).column(column);
    let (from, length) = column.byte_range();
    let mut bytes = fs::read(path).expect("bytes");
    bytes[from as usize..(from + length) as usize].fill(0xFF);
    fs::write(path, bytes).expect("bytes");
}

#[test]
fn damaged_row_group_rejects_only_its_rows() {
    let place = Place::new();
    let pictures: Vec<Vec<u8>> = (0..35).map(|n| jpeg(n % 5)).collect();
    let images: ArrayRef = Arc::new(pictures.iter().map(|bytes| Some(&bytes[..])).collect::<BinaryArray>());
    let table = place.path("images.parquet");
    write_table(&table, vec![("jpg", images)]);
    damage(&table, 1, 0);
    place.run(&table, "out").ends(3);
    let rows = read(&place, "out");
    assert_eq!((rows.captions.len(), rows.rejects.len()), (25, 10));
    assert!(rows.rejects.iter().all(|row| row.reason == "damaged_shard"));
    assert_eq!((rows.rejects[0].key.as_str(), rows.rejects[9].key.as_str()), ("000000010", "000000019"));
    assert_eq!(rows.captions[10].key, "000000020");

    let urls: ArrayRef = Arc::new((0..35).map(|n| Some(format!("{NO_SERVER}/{n}"))).collect::<StringArray>());
    let list = place.path("list.parquet");
    write_table(&list, vec![("URL", urls)]);
    damage(&list, 2, 0);
    place.run(&list, "listed").set("input.rows_per_shard=0").ends(3);
    let rows = read(&place, "listed").rejects;
    assert_eq!(rows.len(), 35);
    assert_eq!(rows.iter().filter(|row| row.reason == "damaged_shard").count(), 10);
}

#[test]
fn images_are_recognised_by_content() {
    let place = Place::new();
    for name in ["a.jpg", "b.JFIF", "noext", "c.jpg?w=200", "d.jpg_large", "e.pjpeg", "1.2.840.113"] {
        place.write(&format!("f/{name}"), jpeg(0));
    }
    place.write("f/f.apng", encoded(1, image::ImageFormat::Png));
    place.write("f/g.avif", [b"\0\0\0\x1cftypavif".as_slice(), &[0; 40]].concat());
    for (name, text) in [
        ("LICENSE", "free"),
        ("notes.md", "x"),
        ("alone.txt", "no image of mine"),
        (".DS_Store", "x"),
        ("empty", ""),
    ] {
        place.write(&format!("f/{name}"), text);
    }
    for folder in [".git", ".ipynb_checkpoints", "@eaDir", "__MACOSX"] {
        place.write(&format!("f/{folder}/x.jpg"), jpeg(0));
    }
    place.run(place.path("f"), "out").ends(0);
    let rows = read(&place, "out");
    assert_eq!((rows.captions.len(), rows.rejects.len()), (8, 1));
    assert_eq!(rows.rejects[0].reason, "unsupported_format");
    assert!(rows.rejects[0].detail.contains("convert it"), "{}", rows.rejects[0].detail);
    let commits = output::commits(&place.path("out"));
    assert_eq!(commits.len(), 1, "folders of tools are not folders of images");
    let input = &commits[0].counts.input;
    assert_eq!(input.ignored_members, 9, "{input:?}");
    assert_eq!(input.ignored["in a hidden folder"], 2);
    assert_eq!(input.ignored["in a folder of a tool"], 2);
    assert_eq!(input.ignored["text or JSON without an image"], 1);
    assert_eq!(input.ignored["no image by name or content"], 2);
    assert_eq!(input.ignored["hidden"], 1);
    // A folder of images without image suffixes.
    place.write("odd/picture", jpeg(0));
    place.write("odd/other", "text");
    place.run(place.path("odd"), "out-odd").ends(0);
    assert_eq!(read(&place, "out-odd").captions.len(), 1);
}

#[test]
fn folder_with_images_and_tables_is_read_as_images() {
    let place = Place::new();
    // The layout of img2dataset's `files` output.
    for n in 0..2 {
        place.write(&format!("files/00000/{n:09}.jpg"), jpeg(n));
        place.write(&format!("files/00000/{n:09}.txt"), format!("cap {n}"));
    }
    let urls: ArrayRef =
        Arc::new(StringArray::from(vec![format!("{NO_SERVER}/0"), format!("{NO_SERVER}/1")]));
    write_table(&place.path("files/00000.parquet"), vec![("url", urls)]);
    place.write("files/00000_stats.json", "{}");
    place.write("files/urls.csv", format!("url\n{NO_SERVER}/0\n"));
    let said = place.run(place.path("files"), "out").ends(0);
    assert!(
        said.stderr.contains("folders of images") && said.stderr.contains("1 Parquet files, 1 lists"),
        "{}",
        said.stderr
    );
    assert_eq!(read(&place, "out").captions.len(), 2);
    place.run(place.path("files"), "tables").set("input.format=parquet").ends(3);
    place.run(place.path("files"), "lists").set("input.format=url_list").ends(0);
    assert_eq!(read(&place, "lists").rejects.len(), 3);
}

#[test]
fn other_formats_are_named_with_a_remedy() {
    let place = Place::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n";
    for (name, bytes, what, remedy) in [
        ("urls.json", b"[{\"url\":\"http://a/b.jpg\"}]".as_slice(), "JSON array", "jq -c"),
        ("urls.jsonl", b"[\n{\"url\":\"http://a/b.jpg\"}\n]", "JSON array", "jq -c"),
        ("photo.jpg", &jpeg(0), "single image", "name its folder"),
        ("photo", &encoded(0, image::ImageFormat::WebP), "single image", "recaption caption"),
        ("a.tar", pointer.as_bytes(), "LFS pointer", "git lfs pull"),
        ("a.parquet", pointer.as_bytes(), "LFS pointer", "git lfs pull"),
        ("a.csv", pointer.as_bytes(), "LFS pointer", "git lfs pull"),
        ("b.parquet", b"<!DOCTYPE html><html><body>404</body></html>", "HTML page", "download it again"),
        ("b.csv", b"<html><body>sign in</body></html>", "HTML page", "download it again"),
        ("urls.lst", b"http://a/b.jpg\nhttp://a/c.jpg\n", "it is text", ".txt"),
    ] {
        let input = place.write(name, bytes);
        let said = place.run(&input, &format!("out-{name}")).ends(3);
        said.warns(what).warns(remedy);
        assert!(!said.stderr.contains("ends too early"), "{}", said.stderr);
    }
    place.write("images/a.jpg", pointer);
    place.run(place.path("images"), "out").ends(0);
    assert!(read(&place, "out").rejects[0].detail.contains("git lfs pull"));
}
