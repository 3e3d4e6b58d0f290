//! `recaption scenes`: shards of the picture world as files.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{fs, path::Path};

use recaption::scenes::{Text, write_shard};
use support::{
    Place, files_below,
    program::{Call, recaption},
};

fn scenes(place: &Place, arguments: &[&str]) -> Call {
    recaption().dir(place.root()).args(["scenes", "--out", "drawn"]).args(arguments)
}

/// What a shard must hold.
fn shard(seed: u64, number: u32, samples: u32, text: Text) -> Vec<u8> {
    write_shard(Vec::new(), seed, number, samples, text).expect("scenes can be drawn")
}

fn names(folder: &Path) -> Vec<String> {
    files_below(folder).into_keys().map(|name| name.display().to_string()).collect()
}

#[test]
fn shards_are_the_librarys_whatever_is_written_at_once() {
    let place = Place::new();
    let said = scenes(&place, &["--shards", "3", "--samples", "4", "--seed", "7"]).ends(0);
    said.prints("drawn/00000.tar to 00002.tar: 12 scenes with alt texts, seed 7");
    said.check(said.stdout.lines().count() == 1, "one line was expected");
    let drawn = place.path("drawn");
    assert_eq!(names(&drawn), ["00000.tar", "00001.tar", "00002.tar"]);
    for number in 0..3 {
        let file = fs::read(drawn.join(format!("{number:05}.tar"))).expect("a shard");
        assert!(file == shard(7, number, 4, Text::Alt), "shard {number}");
    }
    // More of the same data set, and a shard again with other texts.
    scenes(&place, &["--first", "3", "--samples", "4", "--seed", "7"])
        .ends(0)
        .prints("drawn/00003.tar: 4 scenes");
    scenes(&place, &["--samples", "2", "--caption", "descriptive"]).ends(0).prints("descriptive captions");
    assert_eq!(names(&drawn), ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]);
    for (number, seed, samples, text) in
        [(0, 0, 2, Text::Descriptive), (1, 7, 4, Text::Alt), (3, 7, 4, Text::Alt)]
    {
        let file = fs::read(drawn.join(format!("{number:05}.tar"))).expect("a shard");
        assert!(file == shard(seed, number, samples, text), "shard {number}");
    }
    scenes(&place, &["--samples", "2", "--caption", "short"]).ends(0).prints("short captions");
    assert!(fs::read(drawn.join("00000.tar")).expect("a shard") == shard(0, 0, 2, Text::Short));
}

#[test]
fn what_is_no_shard_of_scenes_is_not_replaced() {
    let place = Place::new();
    let mine = place.write("drawn/00001.tar", "years of work");
    let said = scenes(&place, &["--shards", "2", "--samples", "1"]).ends(1);
    said.warns("00001.tar").warns("is no shard of scenes").warns("--out");
    assert_eq!(fs::read(&mine).expect("a file"), b"years of work");
    assert_eq!(names(&place.path("drawn")), ["00001.tar"], "nothing is drawn in vain");
    // A shard, but of another number.
    place.write("drawn/00001.tar", shard(0, 2, 1, Text::Alt));
    scenes(&place, &["--first", "1", "--samples", "1"]).ends(1).warns("00001.tar");
    fs::create_dir_all(place.path("drawn/00005.tar")).expect("folders can be made");
    scenes(&place, &["--first", "5", "--samples", "1"]).ends(1).warns("00005.tar").warns("is no shard");
    place.write("file", "text");
    recaption()
        .dir(place.root())
        .args(["scenes", "--out", "file"])
        .ends(1)
        .warns("cannot create the folder file");
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
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
