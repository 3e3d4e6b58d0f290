//! `recaption demo`: what a newcomer sees first.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::fs;

use recaption_onnx::Bundled;
use support::{Place, output, program::recaption};

/// Columns that a terminal surely has.
const WIDTH: usize = 100;

#[test]
fn three_captioners_caption_the_same_scenes_and_the_base_judges_all() {
    let place = Place::new();
    let said = recaption().dir(place.root()).args(["demo", "--dir", "demo", "--scenes", "5"]).ends(0);
    let outputs = ["output", "out-short", "out-descriptive"].map(|name| {
        said.prints(&format!("demo/{name}/captions/*.parquet"));
        output::read(&place.path("demo").join(name))
    });
    for captioner in Bundled::ALL {
        said.prints(&format!("{:<17} 5 captions", captioner.name()));
    }
    for words in [
        "alt text -> short -> descriptive",
        "as coca-scenes-base judges it",
        "ssc: short",
        "dsc: descriptive",
    ] {
        said.prints(words);
    }
    let wide = said.stdout.lines().find(|line| line.chars().count() > WIDTH && !line.contains("demo/"));
    said.check(wide.is_none(), "lines of at most 100 columns were expected");
    // One judge: the alt texts have the same similarity in every output.
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
    assert!(!page.contains("http"), "the page asks for something elsewhere");
}

#[test]
fn a_smaller_demo_after_a_larger_one_shows_its_own_scenes_alone() {
    let place = Place::new();
    let demo =
        |scenes: &str| recaption().dir(place.root()).args(["demo", "--dir", "demo", "--scenes", scenes]);
    demo("3").ends(0).prints("3 captions");
    demo("1").ends(0).prints("1 captions").prints("00000000000").never_says("00001000000");
}

#[test]
fn a_demo_clears_no_folder_but_its_own() {
    let place = Place::new();
    let mine = place.write("work/shards/thesis.tar", "years of work");
    recaption().dir(place.root()).args(["demo", "--dir", "work", "--scenes", "1"]).ends(1).warns("--dir");
    assert!(mine.exists());
}
