//! Memory is bounded by what is in flight, never by the size of a shard or of the dataset.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{fs, thread::sleep, time::Duration};

use support::{Place, output, program::Call, shards::scenes};

/// The most that twenty shards may take beyond what two take.
const TOLERANCE: f64 = 1.10;
/// How often a run is asked what it has used so far. The kernel keeps the peak, so only its last moments may be missed.
const POLL: Duration = Duration::from_millis(20);

/// The peak of the resident set that the kernel has seen, kibibytes. `None` once the process has ended.
fn peak_so_far(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Runs to exit code 0; the peak in MiB.
fn peak(call: Call) -> f64 {
    let mut running = call.start();
    let mut peak = 0;
    while running.is_alive() {
        peak = peak_so_far(running.id()).unwrap_or(peak);
        sleep(POLL);
    }
    let said = running.wait();
    said.check(said.status.code() == Some(0), "exit code 0 was expected");
    peak as f64 / 1024.0
}

/// Two shards, then twenty, of `count` scenes each: every shard has the same scenes, which is all the same to the program.
fn twenty_shards_take_no_more_than_two(count: u32, configure: impl Fn(Call) -> Call) {
    let place = Place::new();
    let shard = scenes(0, count);
    for number in 0..22 {
        let folder = if number < 2 { "two" } else { "twenty" };
        place.write(&format!("{folder}/{number:05}.tar"), &shard);
    }
    let two = peak(configure(place.run(place.path("two"), "out-two")));
    let twenty = peak(configure(place.run(place.path("twenty"), "out-twenty")));
    println!(
        "{count} scenes a shard: {two:.1} MiB over 2 shards, {twenty:.1} MiB over 20: {:.3}",
        twenty / two
    );
    let rows =
        output::commits(&place.path("out-twenty")).iter().map(|commit| commit.counts.captioned).sum::<u64>();
    assert_eq!(rows, 20 * u64::from(count));
    assert!(twenty < two * TOLERANCE, "{two:.1} MiB over 2 shards, {twenty:.1} MiB over 20");
}

/// Little in flight, so that two small shards already fill every queue.
fn little_in_flight(call: Call) -> Call {
    [
        "run.batch_size=8",
        "model.sessions=1",
        "run.threads=2",
        "input.buffer_bytes=1048576",
        "input.concurrent_shards=1",
    ]
    .iter()
    .fold(call, |call, setting| call.set(setting))
}

#[test]
fn peak_memory_does_not_grow_with_the_number_of_shards() {
    twenty_shards_take_no_more_than_two(50, little_in_flight);
}

#[test]
fn peak_memory_does_not_grow_where_images_are_embedded() {
    twenty_shards_take_no_more_than_two(50, |call| little_in_flight(call).set("output.images=embed"));
}

/// As large as the shards that people have; a quarter of an hour on two cores, hence not among the others:
/// `cargo test --release --test memory -- --ignored --nocapture`
#[test]
#[ignore = "a quarter of an hour on two cores"]
fn peak_memory_does_not_grow_over_shards_of_two_thousand() {
    twenty_shards_take_no_more_than_two(2_000, |call| call);
}
