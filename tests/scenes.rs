//! `recaption scenes`: shards of the synthetic scenes dataset as files.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{fs, path::Path};

use recaption::scenes::{TextKind, write_shard};
use support::{
    Place, files_below,
    program::{Call, recaption},
};

fn scenes(place: &Place, arguments: &[&str]) -> Call {
    recaption().dir(place.root()).args(["scenes", "--out", "drawn"]).args(arguments)
}

/// Returns the bytes that a shard must have.
fn shard(seed: u64, number: u32, samples: u32, text: TextKind) -> Vec<u8> {
    write_shard(Vec::new(), seed, number, samples, text).expect("scenes can be drawn")
}

fn names(folder: &Path) -> Vec<String> {
    files_below(folder).into_keys().map(|name| name.display().to_string()).collect()
}

#[test]
fn shards_equal_the_librarys_in_any_number() {
    let place = Place::new();
    let output = scenes(&place, &["--shards", "3", "--samples", "4", "--seed", "7"]).ends(0);
    output.prints("drawn/00000.tar to 00002.tar: 12 scenes with alt texts, seed 7");
    output.check(output.stdout.lines().count() == 1, "one line was expected");
    let drawn = place.path("drawn");
    assert_eq!(names(&drawn), ["00000.tar", "00001.tar", "00002.tar"]);
    for number in 0..3 {
        let file = fs::read(drawn.join(format!("{number:05}.tar"))).expect("a shard");
        assert!(file == shard(7, number, 4, TextKind::Alt), "shard {number}");
    }
    // More of the same dataset, and a shard again with other texts.
    scenes(&place, &["--first", "3", "--samples", "4", "--seed", "7"])
        .ends(0)
        .prints("drawn/00003.tar: 4 scenes");
    scenes(&place, &["--samples", "2", "--caption", "descriptive"]).ends(0).prints("descriptive captions");
    assert_eq!(names(&drawn), ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]);
    for (number, seed, samples, text) in
        [(0, 0, 2, TextKind::Descriptive), (1, 7, 4, TextKind::Alt), (3, 7, 4, TextKind::Alt)]
    {
        let file = fs::read(drawn.join(format!("{number:05}.tar"))).expect("a shard");
        assert!(file == shard(seed, number, samples, text), "shard {number}");
    }
    scenes(&place, &["--samples", "2", "--caption", "short"]).ends(0).prints("short captions");
    assert!(fs::read(drawn.join("00000.tar")).expect("a shard") == shard(0, 0, 2, TextKind::Short));
}

#[test]
fn foreign_files_are_not_replaced() {
    let place = Place::new();
    let mine = place.write("drawn/00001.tar", "years of work");
    let output = scenes(&place, &["--shards", "2", "--samples", "1"]).ends(1);
    output.warns("00001.tar").warns("is not a shard of scenes").warns("--out");
    assert_eq!(fs::read(&mine).expect("a file"), b"years of work");
    assert_eq!(names(&place.path("drawn")), ["00001.tar"], "nothing is drawn in vain");
    // A shard, but of another number.
    place.write("drawn/00001.tar", shard(0, 2, 1, TextKind::Alt));
    scenes(&place, &["--first", "1", "--samples", "1"]).ends(1).warns("00001.tar");
    fs::create_dir_all(place.path("drawn/00005.tar")).expect("folders can be made");
    scenes(&place, &["--first", "5", "--samples", "1"]).ends(1).warns("00005.tar").warns("is not a shard");
    place.write("file", "text");
    recaption()
        .dir(place.root())
        .args(["scenes", "--out", "file"])
        .ends(1)
        .warns("cannot create the folder file");
}

#[test]
fn numbers_out_of_range_are_usage_errors() {
    let place = Place::new();
    for (arguments, reason) in [
        (["--shards", "0"], "1..=100000"),
        (["--shards", "100001"], "1..=100000"),
        (["--samples", "0"], "1..=1000000"),
        (["--samples", "many"], "invalid digit"),
        (["--first", "100000"], "0..100000"),
        (["--seed=-1", "--shards=1"], "invalid digit"),
        (["--caption", "long"], "descriptive"),
        (["--first=99999", "--shards=2"], "shards 99999 to 100000 do not fit"),
    ] {
        scenes(&place, &arguments).ends(2).warns(reason);
    }
    recaption().arg("scenes").ends(2).warns("--out");
    assert!(!place.path("drawn").exists());
}
