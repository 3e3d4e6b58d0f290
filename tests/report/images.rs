//! Where the images of a page come from.

use std::fs;

use recaption_schemas::{CaptionRow, EmbeddedImage, sha256_hex};
use serde_json::{Value, json};

use crate::{
    outputs::{SHARD, row, shard},
    page::{Page, report},
    support::{
        Place,
        shards::{Pack, jpeg},
    },
};

#[test]
fn images_come_from_rows_or_inputs_and_are_verified() {
    let place = Place::new();
    let images: Vec<Vec<u8>> = (0..6).map(jpeg).collect();
    let mut pack = Pack::new();
    for (n, image) in images.iter().enumerate().take(5) {
        pack = pack.file(&format!("{n}.jpg"), image).file(&format!("{n}.txt"), "an original");
    }
    let tar = place.write("in/00000.tar", pack.close());
    place.write("folder/0.jpg", &images[0]);
    let with_image = |n: usize| CaptionRow {
        sha256: sha256_hex(&images[n]),
        ..row(&n.to_string(), "a caption", 0.3, None)
    };
    let mut rows: Vec<CaptionRow> = (0..5).map(with_image).collect();
    // Not the input's image any more.
    rows[4].sha256 = sha256_hex(b"another image");
    let out = place.path("out");
    shard(&out, &format!("file://{}", tar.display()), &rows, &[]);
    shard(&out, &format!("file://{}/", place.path("folder").display()), &[with_image(0)], &[]);
    shard(&out, "file:///nowhere/gone.tar", &[row("gone", "a caption", 0.3, None)], &[]);
    shard(&out, "file:///nowhere/list.csv#part=2", &[row("listed", "a caption", 0.3, None)], &[]);
    let (said, page) = report(&place, "out", &[]);
    said.prints("sample    8 captions, 5 with an image");
    let reason = |page: &Page, key: &str, shard: &str| {
        let found =
            |one: &&Value| one["k"] == json!(key) && one["s"].as_str().is_some_and(|s| s.contains(shard));
        let sample = page.samples().iter().find(found).expect("a sample");
        sample["m"].as_str().unwrap_or_default().to_owned()
    };
    assert!(reason(&page, "4", "00000.tar").contains("its SHA-256 differs"));
    assert!(
        reason(&page, "gone", "gone.tar").contains("cannot be found")
            || reason(&page, "gone", "gone.tar").contains("cannot be read")
    );
    assert!(reason(&page, "listed", "list.csv").contains("--fetch"));

    let (said, page) = report(&place, "out", &["--image-bytes", "1"]);
    said.check(!said.stdout.contains("5 with an image"), "fewer images were expected");
    assert!(page.samples().iter().any(|one| one["m"].as_str().is_some_and(|m| m.contains("--image-bytes"))));
    report(&place, "out", &["--no-images"]).0.prints("8 captions, 0 with an image");

    // An address of this machine is refused, as in a run.
    let url = Some("http://127.0.0.1:9/x.jpg".to_owned());
    shard(
        &place.path("urls"),
        "file:///nowhere/urls.csv#part=1",
        &[CaptionRow { url, ..with_image(0) }],
        &[],
    );
    let (_, page) = report(&place, "urls", &["--fetch"]);
    assert!(
        reason(&page, "0", "urls.csv").contains("the image cannot be fetched"),
        "{}",
        page.data["samples"]
    );

    // Without its inputs the report is the same but for the images.
    fs::remove_dir_all(place.path("in")).expect("the input");
    report(&place, "out", &[]).0.prints("sample    8 captions, 1 with an image");

    // Images in the rows need no input.
    let embedded = |n: usize| CaptionRow {
        image: Some(EmbeddedImage { bytes: images[n].clone(), path: format!("{n}.jpg") }),
        ..with_image(n)
    };
    shard(&place.path("embedded"), SHARD, &(0..6).map(embedded).collect::<Vec<_>>(), &[]);
    report(&place, "embedded", &[]).0.prints("sample    6 captions, 6 with an image");
}
