//! docs/src/supported-models.md against what an export says of each configuration of open_clip in `tests/data/open_clip_configs.json`.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

use std::{collections::BTreeMap, path::Path};

use recaption_onnx::checkpoint::ModelConfig;
use serde_json::{Value, json};

/// Heads of the page's tables: of supported and of refused configurations.
const TABLES: [(&str, bool); 2] =
    [("| supported as | configurations |", true), ("| refused because | configurations |", false)];

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).expect("a file")
}

/// Name of a configuration -> whether the page has it as supported, and the kind or reason.
fn page() -> BTreeMap<String, (bool, String)> {
    let page = text("docs/src/supported-models.md");
    let mut rows = BTreeMap::new();
    for (head, is_supported) in TABLES {
        let table = page.split_once(head).expect("the table").1;
        for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
            let row = row.strip_prefix("| ").and_then(|row| row.strip_suffix(" |")).expect("a row");
            let (what, names) = row.rsplit_once(" | ").expect("two columns");
            for name in names.split(", ") {
                let name = name.trim_end_matches('*').trim_matches('`').to_owned();
                let what = what.replace("\\|", "|").replace("&lt;", "<");
                assert!(rows.insert(name.clone(), (is_supported, what)).is_none(), "{name} is there twice");
            }
        }
    }
    rows
}

#[test]
fn table_of_open_clips_configurations_is_what_the_reader_says() {
    let configs: BTreeMap<String, Value> =
        serde_json::from_str(&text("tests/data/open_clip_configs.json")).expect("JSON");
    let page = page();
    assert_eq!(page.keys().collect::<Vec<_>>(), configs.keys().collect::<Vec<_>>());
    for (name, entry) in &configs {
        let read = ModelConfig::parse(&json!({"model_cfg": entry["config"]}).to_string());
        let (is_supported, what) = &page[name];
        match read {
            Ok(config) => {
                let kind = config.architecture().as_str();
                assert!(*is_supported && what.to_lowercase().starts_with(kind), "{name} is a {kind}: {what}");
            }
            Err(why) => assert_eq!((*is_supported, what), (false, &why), "{name}"),
        }
    }
}

/// Counts that other pages name.
#[test]
fn open_clip_3_3_has_144_configurations_and_its_siglips_are_supported() {
    let configs: BTreeMap<String, Value> =
        serde_json::from_str(&text("tests/data/open_clip_configs.json")).expect("JSON");
    let is_old =
        |entry: &Value| entry["versions"].as_array().is_some_and(|v| v.contains(&Value::from("3.3.0")));
    assert_eq!(configs.values().filter(|entry| is_old(entry)).count(), 144);
    let page = page();
    for family in ["SigLIP", "CLIPA", "worldwide"] {
        let names: Vec<&String> = configs
            .keys()
            .filter(|name| name.starts_with("ViT-") && name.contains(family) && !name.contains("naflex"))
            .collect();
        assert!(names.len() >= 6, "{family}");
        names.iter().for_each(|name| assert!(page[*name].0, "{name}: {}", page[*name].1));
    }
}
