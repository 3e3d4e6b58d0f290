//! Hours and cost of a plan.

use serde_json::{Value, json};

use super::{
    plan,
    support::{Place, program::Call},
};

/// The record of a preview, as far as `plan` reads it, of a run that was made.
fn preview_of(record: &Value, rate: f64, threads: u64) -> String {
    json!({
        "format": 1, "version": "0", "date": "", "seed": 0, "images": 4, "captioned": 4, "rejected": 0, "reasons": {},
        "seconds": 1.0, "images_per_second": rate, "bytes_per_image": null, "tar_bytes_per_sample": null,
        "shard_samples": {}, "shards": 1, "shards_failed": {}, "input_bytes": 1, "bytes_read": 1,
        "configuration": record["configuration"], "model": record["model"], "threads": threads,
        "provider": "cpu", "devices": [],
    })
    .to_string()
}

#[test]
fn hours_and_cost_come_from_a_preview_that_fits_or_a_rate() {
    let place = Place::new();
    let input = place.draw("in", 3, 6);
    let record = place.run(&input, "done").ends(0).report();
    place.write("preview.json", preview_of(&record, 2.0, 2));
    let priced = || {
        let call = plan(&place, &input, "out").args(["--preview", "preview.json", "--price-per-hour", "3.6"]);
        call.args(["--threads", "2"])
    };
    let planned = priced().set("filter.min_similarity=0.1").ends(0).report();
    let forecast = &planned["forecast"];
    let number = |value: &Value| value.as_f64().expect("a number");
    assert_eq!(forecast["images_per_second"], json!(2.0), "{planned:#}");
    assert!((number(&forecast["hours"]) - 18.0 / 2.0 / 3600.0).abs() < 1e-12);
    let workers = forecast["workers"].as_array().expect("a list");
    assert_eq!(workers.len(), 2, "more workers than shards are of no use: {forecast:#}");
    assert!((number(&workers[1]["hours"]) - 18.0 / 2.0 / 3600.0 / 2.0).abs() < 1e-12);
    assert!((number(&forecast["cost"]["total"]) - 3.6 * 18.0 / 2.0 / 3600.0).abs() < 1e-12);
    assert!((number(&forecast["cost"]["per_million_images"]) - 3.6 * 1e6 / 2.0 / 3600.0).abs() < 1e-6);

    // Measured with another configuration or on other hardware: not used, and said.
    let other = priced().set("caption.max_tokens=9").ends(0).report();
    assert!(other["notes"].to_string().contains("`caption.max_tokens` was 35, is 9"), "{other:#}");
    assert_eq!(other["forecast"], json!(null));
    let other = priced().set("caption.max_tokens=9").args(["--rate", "4"]).ends(0).report();
    assert_eq!(
        (&other["forecast"]["images_per_second"], &other["forecast"]["rate_from"]),
        (&json!(4.0), &json!("--rate"))
    );
    place.write("preview.json", preview_of(&record, 2.0, 64));
    let other = priced().ends(0).report();
    assert!(other["notes"].to_string().contains("there were 64 threads, are 2"), "{other:#}");
}

#[test]
fn images_of_lists_take_the_space_that_the_preview_saw() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    let record = place.run(&input, "done").ends(0).report();
    let preview = preview_of(&record, 2.0, 2).replace("\"bytes_per_image\":null", "\"bytes_per_image\":1e6");
    assert!(preview.contains("1e6"), "{preview}");
    place.write("preview.json", preview);
    let rows: String = (0..300).map(|n| format!("{{\"url\": \"http://127.0.0.1:1/{n}.jpg\"}}\n")).collect();
    let list = place.write("urls.jsonl", rows);
    let needed = |call: Call| {
        let planned = call.args(["--threads", "2"]).ends(0).report();
        let is_noted = planned["notes"].to_string().contains("the size of images that lists name is unknown");
        (planned["disk"]["needed_bytes"].as_u64().expect("a number"), is_noted)
    };
    let listed = || plan(&place, &list, "out");
    let (rows, is_noted) = needed(listed());
    assert!(!is_noted && rows < 1_000_000, "no image is stored: {rows}");
    assert_eq!(needed(listed().set("output.images=embed")), (rows, true));
    let previewed = || listed().args(["--preview", "preview.json"]).set("output.images=embed");
    assert_eq!(needed(previewed()), (rows + 300_000_000, false));
    assert_eq!(needed(previewed().args(["--limit", "1"])), (rows + 300_000_000, false), "a whole shard");
    // Images of tars are in the tars.
    let bytes = std::fs::metadata(input.join("00000.tar")).expect("a tar").len();
    let both = needed(previewed().arg("--input").arg(&input)).0;
    assert_eq!(both, rows + 300_000_000 + rows / 300 * 2 + bytes);
}
