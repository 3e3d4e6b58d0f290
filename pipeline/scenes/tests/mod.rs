//! JSON, pixels and captions against the Python reference generator's (`tests/data/scenes`).

#![allow(clippy::disallowed_methods, reason = "the tests decode images of their own or of fixtures")]

mod generate;
mod negatives;
mod shard;

use std::collections::HashMap;

use image::{GenericImageView, ImageFormat, RgbImage};
use serde::Deserialize;

use super::{
    alt_text::{JUNK, ONE_OBJECT},
    *,
};

/// One row of `scenes.json`: a scene with the reference generator's texts.
#[derive(Deserialize)]
struct Reference {
    scene: String,
    short: String,
    descriptive: String,
    #[serde(default)]
    alt_texts: Vec<ReferenceAltText>,
}

#[derive(Deserialize)]
struct ReferenceAltText {
    kind: String,
    #[serde(default)]
    object: usize,
    #[serde(default)]
    template: usize,
    #[serde(default)]
    number: u8,
    text: String,
}

/// Number of scenes in a row of a contact sheet.
const SHEET_COLUMNS: u32 = 8;
const SHEETS: [(u32, &[u8]); 3] = [
    (96, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/scenes/sheet-96.png"))),
    (100, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/scenes/sheet-100.png"))),
    (192, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/scenes/sheet-192.png"))),
];

fn reference() -> Vec<Reference> {
    let json = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/scenes/scenes.json"));
    serde_json::from_str(json).unwrap()
}

fn scene(json: &str) -> Scene {
    Scene::from_json(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e}"))
}

/// Formats a scene of one object, with `tail` in place of its last fields.
fn json_with(tail: &str) -> String {
    format!(
        r#"{{"background": "grey", "objects": [{{"shape": "star", "colour": "red", "size": "small", {tail}}}]}}"#
    )
}

#[test]
fn json_equals_the_reference() {
    for row in reference() {
        let scene = scene(&row.scene);
        assert_eq!(scene.to_json(), row.scene);
        let by_serde: serde_json::Value = serde_json::to_value(&scene).unwrap();
        // As strings, so that the order of keys matters.
        assert_eq!(
            by_serde.to_string(),
            serde_json::from_str::<serde_json::Value>(&row.scene).unwrap().to_string()
        );
    }
}

#[test]
fn invalid_scenes_are_rejected_with_a_reason() {
    let good = r#""row": 0, "col": 1, "dx": 0, "dy": 0"#;
    scene(&json_with(good));
    let twice = format!(r#"{good}}}, {{"shape": "ring", "colour": "red", "size": "small", {good}"#);
    for (json, reason) in [
        (
            json_with(&good.replace(r#""row": 0"#, r#""row": 3"#)),
            "object 0: row 3, col 1 is outside the grid",
        ),
        (
            json_with(&good.replace(r#""col": 1"#, r#""col": 3"#)),
            "object 0: row 0, col 3 is outside the grid",
        ),
        (json_with(&good.replace(r#""row": 0"#, r#""row": -1"#)), "invalid value: integer `-1`"),
        (json_with(&good.replace(r#""dx": 0"#, r#""dx": -2"#)), "object 0: dx -2, dy 0 is too far"),
        (json_with(&good.replace(r#""dy": 0"#, r#""dy": 2"#)), "object 0: dx 0, dy 2 is too far"),
        (json_with(&good.replace(r#", "dy": 0"#, "")), "missing field `dy`"),
        (json_with(&format!(r#"{good}, "dz": 0"#)), "unknown field `dz`"),
        (json_with(&twice), "object 1: row 0, col 1 is taken"),
        (json_with(good).replace("star", "blob"), "unknown variant `blob`"),
        (json_with(good).replace("red", "Red"), "unknown variant `Red`"),
        (json_with(good).replace("small", "tiny"), "unknown variant `tiny`"),
        (json_with(good).replace("grey", "gray"), "unknown variant `gray`"),
        (r#"{"background": "grey", "objects": []}"#.to_owned(), "0 objects; a scene has 1 to 3"),
        (r#"{"background": "grey"}"#.to_owned(), "missing field `objects`"),
        ("{".to_owned(), "EOF"),
    ] {
        let error = Scene::from_json(json.as_bytes()).expect_err(&json).to_string();
        assert!(error.contains(reason), "{json}\n{error}\nlacks {reason}");
    }
    let object = scene(&json_with(good)).objects()[0];
    let row: Vec<Object> = (0..3).map(|col| Object { col, ..object }).collect();
    assert!(Scene::new(Background::Teal, row.clone()).is_ok());
    let four = [row, vec![Object { row: 2, ..object }]].concat();
    assert!(matches!(Scene::new(Background::Teal, four), Err(SceneError::ObjectCount { count: 4 })));
}

#[test]
fn pixels_equal_the_reference() {
    for (size, png) in SHEETS {
        let sheet = image::load_from_memory_with_format(png, ImageFormat::Png).unwrap().to_rgb8();
        let (mut different, mut off_edge, mut pixels) = (0, 0, 0);
        for (i, row) in (0..).zip(reference()) {
            let ours = draw(&scene(&row.scene), size);
            assert_eq!(ours.dimensions(), (size, size));
            let (left, top) = (i % SHEET_COLUMNS * size, i / SHEET_COLUMNS * size);
            let theirs = sheet.view(left, top, size, size).to_image();
            for (x, y, pixel) in ours.enumerate_pixels() {
                pixels += 1;
                different += u32::from(pixel != theirs.get_pixel(x, y));
                off_edge += u32::from(!is_near(&theirs, x, y, pixel));
            }
        }
        println!(
            "{size} px: {different} of {pixels} pixels differ, {off_edge} of them more than a pixel from an edge"
        );
        assert_eq!(off_edge, 0, "at {size} px");
        assert_eq!(different, 0, "at {size} px, all on edges");
    }
}

/// Returns whether `image` has this colour at `x`, `y` or next to it.
fn is_near(image: &RgbImage, x: u32, y: u32, colour: &image::Rgb<u8>) -> bool {
    (x.saturating_sub(1)..=x + 1)
        .flat_map(|x| (y.saturating_sub(1)..=y + 1).map(move |y| (x, y)))
        .any(|(x, y)| image.get_pixel_checked(x, y) == Some(colour))
}

#[test]
fn reused_image_is_drawn_over() {
    let mut image = RgbImage::new(96, 96);
    for index in 0..50 {
        let (scene, _) = sample(3, index);
        draw_into(&scene, &mut image);
        assert_eq!(image, draw(&scene, 96));
    }
}

#[test]
fn every_size_can_be_drawn() {
    let (scene, _) = sample(0, 0);
    for size in [0, 1, 2, 7, 95, 97, 500] {
        assert_eq!(draw(&scene, size).dimensions(), (size, size));
    }
    draw_into(&scene, &mut RgbImage::new(96, 10));
    draw_into(&scene, &mut RgbImage::new(10, 96));
    draw_into(&scene, &mut RgbImage::new(0, 96));
}

#[test]
fn captions_equal_the_reference() {
    for row in reference() {
        let scene = scene(&row.scene);
        assert_eq!(short(&scene), row.short);
        assert_eq!(descriptive(&scene), row.descriptive);
    }
}

#[test]
fn alt_texts_equal_the_reference() {
    let mut seen = HashMap::new();
    for row in reference() {
        let scene = scene(&row.scene);
        for ReferenceAltText { kind, object, template, number, text } in row.alt_texts {
            let alt_text = match kind.as_str() {
                "junk" => AltText::Junk { template: JUNK[template], number },
                "one object" => {
                    AltText::OneObject { template: ONE_OBJECT[template], object: scene.objects()[object] }
                }
                "names" => AltText::Names,
                "descriptive" => AltText::Descriptive,
                _ => panic!("unknown kind {kind}"),
            };
            assert_eq!(alt_text.text(&scene), text);
            *seen.entry((kind, template)).or_insert(0) += 1;
        }
    }
    assert_eq!(seen.len(), JUNK.len() + ONE_OBJECT.len() + 2, "kinds and templates: {seen:?}");
}

#[test]
fn true_objects_are_named_by_colour_and_shape() {
    let scene = scene(
        r#"{"background": "teal", "objects": [
            {"shape": "heart", "colour": "red", "size": "large", "row": 0, "col": 0, "dx": 0, "dy": 0},
            {"shape": "ring", "colour": "orange", "size": "small", "row": 1, "col": 1, "dx": 0, "dy": 0}]}"#,
    );
    for (caption, is_true) in [
        ("a red heart", true),
        ("picture of an orange ring in the center", true),
        (descriptive(&scene).as_str(), true),
        ("a red ring", false),
        ("an orange heart", false),
        ("a heart that is red", false),
        ("Red Heart", false),
        ("", false),
    ] {
        assert_eq!(names_true_object(&scene, caption), is_true, "{caption}");
    }
}

#[test]
fn junk_is_recognised_by_its_templates() {
    for index in 0..500 {
        let (scene, alt_text) = sample(11, index);
        let text = alt_text.text(&scene);
        assert_eq!(is_junk(&text), matches!(alt_text, AltText::Junk { .. }), "{text}");
        assert_eq!(is_junk(&text), !names_true_object(&scene, &text), "{text}");
    }
    for caption in ["", "img_.jpg", "img_7.jpeg", "photo", "photo x", "a thumbnail", "photo 7 red heart"] {
        assert!(!is_junk(caption), "{caption}");
    }
}
