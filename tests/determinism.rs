//! A row depends on image, model and configuration alone: not on threads, batches, copies of the model, the order of shards, or
//! what else is in flight.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::path::PathBuf;

use support::{
    Place,
    output::{self, Rows, part_bytes},
    program::Call,
    shards::{Pack, jpeg},
};

/// Draws four shards of scenes, and a fifth of images without text.
fn input(place: &Place) -> PathBuf {
    let input = place.draw("in", 4, 20);
    let bare = (0..10).fold(Pack::new(), |pack, n| pack.file(&format!("bare{n}.jpg"), jpeg(n)));
    place.write("in/bare.tar", bare.file("broken.jpg", &jpeg(11)[..900]).close());
    input
}

/// Runs once per setting and asserts that every run writes the same rows, and the same bytes, as the first.
fn assert_same_output(settings: &[&[&str]]) {
    let place = Place::new();
    let input = input(&place);
    let mut first: Option<Rows> = None;
    for (number, setting) in settings.iter().enumerate() {
        let name = format!("out-{number}");
        setting.iter().fold(place.run(&input, &name), |run: Call, set| run.set(set)).ends(0);
        let rows = output::read(&place.path(&name));
        assert_eq!((rows.captions.len(), rows.rejects.len()), (90, 1), "{setting:?}");
        let first = first.get_or_insert_with(|| rows.clone());
        for (row, wanted) in rows.captions.iter().zip(&first.captions) {
            assert_eq!(row, wanted, "{setting:?}");
        }
        assert_eq!(&rows, first, "{setting:?}");
        assert_eq!(
            part_bytes(&place.path(&name)),
            part_bytes(&place.path("out-0")),
            "{setting:?}: bytes of the parts"
        );
    }
}

#[test]
fn rows_are_independent_of_threads() {
    assert_same_output(&[
        &["run.threads=1"],
        &["run.threads=2"],
        &["run.threads=4"],
        &["run.threads=4", "model.sessions=1"],
    ]);
}

#[test]
fn rows_are_independent_of_batches() {
    assert_same_output(&[
        &["run.batch_size=1"],
        &["run.batch_size=2"],
        &["run.batch_size=7"],
        &["run.batch_size=32"],
    ]);
}

#[test]
fn rows_are_independent_of_model_copies() {
    assert_same_output(&[&["model.sessions=1"], &["model.sessions=2"], &["model.sessions=3"]]);
}

#[test]
fn rows_are_independent_of_concurrent_shards() {
    assert_same_output(&[
        &["input.concurrent_shards=1"],
        &["input.concurrent_shards=4"],
        &["input.buffer_bytes=1048576"],
    ]);
}

#[test]
fn rows_are_independent_of_shard_order() {
    let place = Place::new();
    let input = input(&place);
    place.run(&input, "forwards").ends(0);
    let names = ["bare", "00002", "00000", "00003", "00001"].map(|name| input.join(format!("{name}.tar")));
    place.run_all(&names, "shuffled").ends(0);
    // One after another, each as a run of its own, as many workers would.
    for name in &names {
        place.run(name, "alone").ends(0);
    }
    let forwards = place.path("forwards");
    for other in ["shuffled", "alone"].map(|name| place.path(name)) {
        assert_eq!(output::read(&other), output::read(&forwards));
        assert_eq!(part_bytes(&other), part_bytes(&forwards));
    }
}
