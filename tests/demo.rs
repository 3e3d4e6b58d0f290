//! `recaption demo`: the first command of a new user.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::fs;

use recaption_onnx::Bundled;
use support::{Place, output, program::recaption};

/// Largest number of columns of a line on the terminal.
const WIDTH: usize = 100;

#[test]
fn demo_compares_three_captioners_by_one_scorer() {
    let place = Place::new();
    let demo = recaption().dir(place.root()).args(["demo", "--dir", "demo", "--scenes", "5"]).ends(0);
    let outputs = ["output", "out-short", "out-descriptive"].map(|name| {
        demo.prints(&format!("demo/{name}/captions/*.parquet"));
        output::read(&place.path("demo").join(name))
    });
    for captioner in Bundled::ALL {
        demo.prints(&format!("{:<17} 5 captions", captioner.name()));
    }
    for words in [
        "alt text -> short -> descriptive",
        "cosine by coca-scenes-base",
        "know drawn scenes only",
        "(exact)",
        "ssc: short",
        "dsc: descriptive",
    ] {
        demo.prints(words);
    }
    let wide = demo.stdout.lines().find(|line| line.chars().count() > WIDTH && !line.contains("demo/"));
    demo.check(wide.is_none(), "lines of at most 100 columns were expected");
    // One scorer: the alt texts have the same similarity in every output.
    let [base, short, descriptive] = outputs;
    assert_eq!(base.captions.len(), 5);
    for (row, other) in
        base.captions.iter().zip(&short.captions).chain(base.captions.iter().zip(&descriptive.captions))
    {
        assert_eq!((&row.key, &row.org_caption), (&other.key, &other.org_caption));
        let [one, two] = [row, other].map(|row| row.org_similarity.expect("a similarity").get());
        assert!((one - two).abs() < 1e-5, "{}: {one} and {two}", row.key);
    }
    let page = fs::read_to_string(place.path("demo/report.html")).expect("a page");
    for row in &descriptive.captions {
        assert!(page.contains(&row.caption), "{} is not on the page", row.caption);
    }
    assert!(!page.contains("http"), "the page needs the network");
}

#[test]
fn smaller_demo_replaces_a_larger_one() {
    let place = Place::new();
    let demo =
        |scenes: &str| recaption().dir(place.root()).args(["demo", "--dir", "demo", "--scenes", scenes]);
    demo("3").ends(0).prints("3 captions");
    demo("1").ends(0).prints("1 captions").prints("00000000000").never_says("00001000000");
}

#[test]
fn demo_refuses_a_foreign_folder() {
    let place = Place::new();
    let mine = place.write("work/shards/thesis.tar", "years of work");
    recaption().dir(place.root()).args(["demo", "--dir", "work", "--scenes", "1"]).ends(1).warns("--dir");
    assert!(mine.exists());
}
