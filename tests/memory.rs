//! Memory is bounded by what is in flight, never by the size of a shard or of the dataset.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{fs, thread::sleep, time::Duration};

use image::ImageFormat;
use support::{
    Place, output,
    program::Call,
    shards::{Pack, encoded, scenes},
};

/// What many shards may take, as a multiple of what few take.
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

/// What a story runs over.
struct Load {
    /// A shard; all are alike, which is all the same to the program.
    shard: Vec<u8>,
    /// Samples in it.
    samples: u64,
    /// Shards of the first run and of the second.
    shards: [u64; 2],
}

fn many_shards_take_no_more_than_few(load: &Load, configure: impl Fn(Call) -> Call) {
    let place = Place::new();
    let [few, many] = load.shards.map(|count| {
        let (input, output) = (place.path(&format!("in-{count}")), format!("out-{count}"));
        (0..count).for_each(|n| drop(place.write(&format!("in-{count}/{n:05}.tar"), &load.shard)));
        let peak = peak(configure(place.run(input, &output)));
        let commits = output::commits(&place.path(&output));
        assert_eq!(commits.iter().map(|commit| commit.counts.captioned).sum::<u64>(), count * load.samples);
        println!("{count} shards of {} samples: {peak:.1} MiB", load.samples);
        peak
    });
    assert!(many < few * TOLERANCE, "{few:.1} MiB, then {many:.1} MiB: {:.3}", many / few);
}

/// Little in flight, so that two small shards already fill every queue; and one heap for all threads, since what glibc
/// sets aside for every new thread would hide what the program itself holds on to.
fn little_in_flight(call: Call) -> Call {
    let settings = [
        "run.batch_size=8",
        "model.sessions=1",
        "run.threads=2",
        "input.buffer_bytes=1048576",
        "input.concurrent_shards=1",
    ];
    settings.iter().fold(call.env("MALLOC_ARENA_MAX", "1"), |call, setting| call.set(setting))
}

#[test]
fn peak_memory_does_not_grow_with_the_number_of_shards() {
    let load = Load { shard: scenes(0, 60), samples: 60, shards: [2, 20] };
    many_shards_take_no_more_than_few(&load, little_in_flight);
}

#[test]
fn peak_memory_does_not_grow_where_images_are_embedded() {
    // Bitmaps: 3 MB a shard, which would show if they were kept.
    let pack =
        (0..30).fold(Pack::new(), |pack, n| pack.file(&format!("{n:02}.bmp"), encoded(n, ImageFormat::Bmp)));
    // Some shards are open at the same time, so it takes some to reach the peak.
    let load = Load { shard: pack.close(), samples: 30, shards: [6, 30] };
    many_shards_take_no_more_than_few(&load, |call| little_in_flight(call).set("output.images=embed"));
}

/// As large as the shards that people have; a quarter of an hour on two cores, hence not among the others:
/// `cargo test --release --test memory -- --ignored --nocapture`
#[test]
#[ignore = "a quarter of an hour on two cores"]
fn peak_memory_does_not_grow_over_shards_of_two_thousand() {
    let load = Load { shard: scenes(0, 2_000), samples: 2_000, shards: [2, 20] };
    many_shards_take_no_more_than_few(&load, |call| call);
}
