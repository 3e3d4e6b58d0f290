//! The page in headless Chromium.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use recaption_schemas::{CaptionRow, EmbeddedImage, Reject, RejectReason};
use serde_json::{Value, json};

use crate::{
    outputs::{HOSTILE, SHARD, hostile_output, match_rows, shard, vocabulary_rows},
    page::report,
    support::{Place, shards::jpeg},
};

/// Chromium, and the folder of the modules that drive it; `None` where it is missing and that is allowed.
fn browser() -> Option<(PathBuf, PathBuf)> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("cargo's own folder");
    let modules = target.join("test-services/browser");
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let chromium = std::env::split_paths(&folders)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|path| path.is_file());
    match chromium.filter(|_| modules.join("node_modules/puppeteer-core").is_dir()) {
        Some(chromium) => Some((modules, chromium)),
        None => {
            let what = "NO BROWSER: the report page was not tested in one. `apt-get install chromium`, then `make test-services`";
            assert!(std::env::var_os("RECAPTION_WITHOUT_BROWSER").is_some(), "{what}");
            println!("{what}");
            None
        }
    }
}

/// Checks what slider, typed thresholds and the choice of the score did.
fn check_threshold(met: &Value, rows: &[CaptionRow], thresholds: [&str; 2]) {
    // The slider by keyboard: 20 steps of 0.001.
    let number =
        |state: &Value| state["value"].as_str().and_then(|v| v.parse::<i64>().ok()).expect("a number");
    assert_eq!(number(&met["after"]) - number(&met["before"]), 20);
    assert_ne!(met["after"]["share"], met["before"]["share"]);
    assert_ne!(met["after"]["command"], met["before"]["command"]);
    let reached = met["reached"].to_string();
    assert!(
        ["threshold-number", "by", "copy"].iter().all(|id| reached.contains(&format!("\"{id}\""))),
        "{reached}"
    );
    // Typed thresholds keep what a count of the rows does.
    let scores: Vec<f32> = rows
        .iter()
        .map(|row| row.candidates.chosen().similarity.get())
        .chain((0..HOSTILE.len()).map(|n| 0.2 + n as f32 / 100.0))
        .collect();
    for (typed, threshold) in met["typed"].as_array().expect("states").iter().zip(thresholds) {
        let least: f64 = threshold.parse().expect("a number");
        let kept = scores.iter().filter(|score| **score >= least as f32).count();
        assert_eq!(typed["count"], json!(format!("{kept} of 408 captions")));
        assert_eq!(
            typed["command"],
            json!(format!("recaption filter out --min-similarity {threshold} --to out-above-{threshold}"))
        );
        assert_eq!((&typed["above"], &typed["below"]), (&json!(4), &json!(4)));
    }
    let command = met["originals"]["command"].as_str().expect("a command");
    assert!(command.contains(" --by org_similarity "), "{command}");
}

/// Checks that the threshold of matching moves over its own figure, and keeps what a count of the rows does.
fn check_matching(met: &Value, rows: &[CaptionRow]) {
    let itm = rows.iter().filter_map(|row| row.candidates.chosen().itm).map(|itm| itm.get());
    let kept = itm.filter(|itm| *itm >= 0.5).count();
    let matching = &met["matching"];
    assert_eq!(matching["count"], json!(format!("{kept} of 408 captions; 208 without this score go")));
    assert_eq!(matching["command"], json!("recaption filter out --min-itm 0.500 --to out-itm-above-0.500"));
    assert_eq!((&matching["above"], &matching["below"]), (&json!(4), &json!(4)));
    let figures =
        ["before", "matching", "originalsMatching", "originals"].map(|state| met[state]["figure"].clone());
    assert_eq!(figures, [json!("cut"), json!("cut-itm"), json!("cut-itm"), json!("cut")]);
    // The axis is from 0 to 1.
    assert_eq!(matching["cuts"], json!({"cut": null, "cut-itm": "500"}));
    let command = met["originalsMatching"]["command"].as_str().expect("a command");
    assert!(
        command.starts_with("recaption filter out --min-itm 0.") && command.contains(" --by org_itm "),
        "{command}"
    );
    assert_eq!(met["originals"]["cuts"]["cut-itm"], Value::Null, "the line goes with the score");
    // The first cards in the order of itm.
    let scores = |name: &str| -> Vec<f64> {
        met[name].as_array().expect("cards").iter().map(|itm| itm.as_f64().expect("a number")).collect()
    };
    let (matched, mismatched) = (scores("matched"), scores("mismatched"));
    assert!(matched.is_sorted_by(|a, b| a >= b) && mismatched.is_sorted(), "{matched:?} {mismatched:?}");
    assert!(matched[0] > 0.9 && mismatched[0] < 0.1, "{matched:?} {mismatched:?}");
}

#[test]
fn page_works_in_a_browser() {
    let Some((modules, chromium)) = browser() else { return };
    let place = Place::new();
    let images: Vec<Vec<u8>> = (0..4).map(jpeg).collect();
    let mut rows = vocabulary_rows(400);
    match_rows(&mut rows);
    for (n, row) in rows.iter_mut().enumerate() {
        row.image = Some(EmbeddedImage { bytes: images[n % 4].clone(), path: "x.jpg".to_owned() });
    }
    let reject = |n: usize| Reject::new(format!("x{n}"), RejectReason::CorruptImage, "broken");
    hostile_output(&place);
    shard(&place.path("out"), SHARD, &rows, &(0..5).map(reject).collect::<Vec<_>>());
    report(&place, "out", &["--samples", "300"]);
    let thresholds = ["0.100", "0.333"];
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/browser.mjs"))
        .args([&modules, &chromium, &place.path("page.html")])
        .args(["check", "house"])
        .args(thresholds)
        .output()
        .expect("node starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let met: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for view in met["views"].as_array().expect("views") {
        let name = format!("{} px, {}", view["width"], view["scheme"]);
        assert_eq!(view["violations"], json!([]), "{name}");
        assert!(view["passes"].as_u64() > Some(20), "{name}: axe looked at too little");
        assert_eq!((&view["console"], &view["requests"]), (&json!([]), &json!([])), "{name}");
        assert!(view["overflow"].as_i64().expect("pixels") <= 0, "{name}: {view}");
    }
    assert_eq!((&met["met"]["console"], &met["met"]["requests"]), (&json!([]), &json!([])));
    assert_ne!(met["views"][0]["background"], met["views"][1]["background"], "light and dark are the same");
    check_threshold(&met, &rows, thresholds);
    check_matching(&met, &rows);
    // Filters.
    assert_eq!(met["all"], json!({"shown": "24 of 300 shown", "cards": 24}));
    let cards = met["filtered"]["cards"].as_array().expect("cards");
    assert!(!cards.is_empty() && cards.len() <= 24);
    assert_ne!(met["filtered"]["shown"], met["all"]["shown"]);
    assert_ne!(met["scored"]["shown"], met["all"]["shown"]);
    assert_eq!(met["reasons"]["reason:corrupt_image"], json!("5 of 5 shown"));
    assert_eq!(met["reasons"]["reason:caption_rule"], json!("8 of 8 shown"));
    assert!(met["images"].as_array().expect("images").iter().all(|shown| shown == &json!(true)));
    // Without scripts, totals and tables.
    assert_eq!(met["noScript"]["hidden"], json!(true));
    assert!(met["noScript"]["rows"].as_u64() > Some(100), "{}", met["noScript"]);
    assert!(met["noScript"]["totals"].as_str().is_some_and(|text| text.contains("408")));
    assert_eq!(met["elements"].as_array().map(Vec::len), Some(2), "{}", met["elements"]);
}
