//! Shards of scenes: contents, keys, errors and cost.

#![allow(clippy::disallowed_methods, reason = "the tests decode images of their own or of fixtures")]

use std::collections::HashSet;
use std::io::Read;
use std::time::Instant;

use image::{ImageFormat, RgbImage};

use crate::scenes::*;

#[test]
fn shard_is_a_webdataset_of_its_scenes() {
    let bytes = write_shard(Vec::new(), 5, 17, 20, TextKind::Alt).unwrap();
    let mut names = Vec::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let header = entry.header();
        assert_eq!(header.entry_type(), tar::EntryType::Regular, "{name}");
        let numbers = [header.mode().unwrap(), header.uid().unwrap() as u32, header.gid().unwrap() as u32];
        assert_eq!((numbers, header.mtime().unwrap()), ([0o644, 0, 0], 0), "{name}");

        let i = names.len() as u32 / 3;
        let (scene, alt_text) = sample(5, sample_index(17, i));
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        match name.strip_prefix(&key(17, i)) {
            Some(".jpg") => assert_looks_like(&bytes, &draw(&scene, IMAGE_SIZE)),
            Some(".txt") => assert_eq!(bytes, alt_text.text(&scene).as_bytes()),
            Some(".json") => assert_eq!(Scene::from_json(&bytes).unwrap(), scene),
            _ => panic!("sample {i} has a file {name}"),
        }
        names.push(name);
    }
    assert_eq!(names[..4], ["00017000000.jpg", "00017000000.txt", "00017000000.json", "00017000001.jpg"]);
    assert_eq!(names.len(), 60);
    assert_eq!(
        bytes,
        write_shard(Vec::new(), 5, 17, 20, TextKind::Alt).unwrap(),
        "bytes depend on seed, number and count alone"
    );
}

/// Asserts that a JPEG decodes to about this image.
fn assert_looks_like(jpeg: &[u8], picture: &RgbImage) {
    /// In steps of 0 to 255, over pixels and channels; edges ring a little at quality 92.
    const MEAN_ERROR: f64 = 1.5;
    let decoded = image::load_from_memory_with_format(jpeg, ImageFormat::Jpeg).unwrap().to_rgb8();
    assert_eq!(decoded.dimensions(), picture.dimensions());
    let sum: u64 = decoded.iter().zip(picture.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let mean = sum as f64 / picture.len() as f64;
    assert!(mean < MEAN_ERROR, "mean error {mean:.2}");
}

/// The kind of text changes the texts alone.
#[test]
fn shard_has_texts_of_the_given_kind() {
    let members = |text| {
        let bytes = write_shard(Vec::new(), 5, 17, 20, text).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
        });
        entries.collect::<Vec<_>>()
    };
    let alt = members(TextKind::Alt);
    type Caption = fn(&Scene) -> String;
    for (text, caption) in [(TextKind::Short, short as Caption), (TextKind::Descriptive, descriptive)] {
        for (i, (ours, alt)) in members(text).into_iter().zip(&alt).enumerate() {
            if i % 3 == 1 {
                let (scene, _) = sample(5, sample_index(17, i as u32 / 3));
                assert_eq!(ours, (alt.0.clone(), caption(&scene).into_bytes()));
            } else {
                assert_eq!(&ours, alt);
            }
        }
    }
}

#[test]
fn longer_shard_starts_with_the_shorter() {
    const END_OF_ARCHIVE: usize = 1024;
    let (short, long) = (
        write_shard(Vec::new(), 1, 0, 3, TextKind::Alt).unwrap(),
        write_shard(Vec::new(), 1, 0, 5, TextKind::Alt).unwrap(),
    );
    let samples = short.len() - END_OF_ARCHIVE;
    assert_eq!(short[..samples], long[..samples]);
}

#[test]
fn keys_and_indices_are_unique_across_shards() {
    let at = [0, 1, 9, 10, MAX_SAMPLES - 2, MAX_SAMPLES - 1];
    let places: Vec<(u32, u32)> =
        [0, 1, 10, MAX_SHARDS - 1].iter().flat_map(|&shard| at.map(|i| (shard, i))).collect();
    let keys: Vec<String> = places.iter().map(|&(shard, i)| key(shard, i)).collect();
    assert!(keys.is_sorted() && keys.iter().all(|k| k.len() == 11), "{keys:?}");
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), places.len());
    let indices: HashSet<u64> = places.iter().map(|&(shard, i)| sample_index(shard, i)).collect();
    assert_eq!(indices.len(), places.len());
}

#[test]
fn shard_errors_name_shard_and_reason() {
    let error =
        |shard, samples| write_shard(Vec::new(), 0, shard, samples, TextKind::Alt).unwrap_err().to_string();
    assert_eq!(error(MAX_SHARDS, 1), "scenes shard 100000: a seed has shards 0 to 99999; use another seed");
    let too_many = "scenes shard 00002: 1000001 samples, but a shard holds 1000000; write more shards";
    assert_eq!(error(2, MAX_SAMPLES + 1), too_many);

    let mut room = [0; 600];
    let error = write_shard(room.as_mut_slice(), 0, 2, 1, TextKind::Alt).unwrap_err();
    assert!(error.to_string().starts_with("scenes shard 00002: 00002000000.jpg: not written: "), "{error}");
}

/// Prints the time per scene on one core: `cargo test --release scenes::tests::shard::cost -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    const SCENES: u32 = 2_000;
    let scenes: Vec<Scene> = (0..SCENES).map(|i| sample(1, u64::from(i)).0).collect();
    let mut picture = RgbImage::new(IMAGE_SIZE, IMAGE_SIZE);
    let mut jpeg = Vec::new();
    let each = |what: &str, start: Instant| {
        println!("{what}: {:.4} ms a scene", start.elapsed().as_secs_f64() * 1e3 / f64::from(SCENES));
    };
    let start = Instant::now();
    scenes.iter().for_each(|scene| draw_into(scene, &mut picture));
    each("draw", start);
    let start = Instant::now();
    for scene in &scenes {
        jpeg.clear();
        draw_into(scene, &mut picture);
        shard::encode(&picture, &mut jpeg).unwrap();
    }
    each("draw and encode", start);
    let start = Instant::now();
    let bytes = write_shard(Vec::new(), 1, 0, SCENES, TextKind::Alt).unwrap();
    each("write_shard", start);
    println!("{} bytes a scene", bytes.len() / SCENES as usize);
}
