//! Reads model configurations of open_clip (`model_configs/*.json`) as an export does, and prints for each whether it is supported:
//! a line with its name, `supported` and the kind of model, or `refused` and why, separated by tabs.
//!
//! ```sh
//! cargo run --release -p recaption-onnx --example read_configs -- open_clip/model_configs/*.json
//! ```
//!
//! `scripts/open_clip_table.py` makes the table in the documentation from it.

#![allow(clippy::print_stdout, reason = "an example that prints")]

use std::path::Path;

use recaption_onnx::checkpoint::ModelConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path)?;
        let name = Path::new(&path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // The files hold what is in `model_cfg` on the hub.
        match ModelConfig::parse(&format!("{{\"model_cfg\": {text}}}")) {
            Ok(config) => println!("{name}\tsupported\t{}", config.architecture().as_str()),
            Err(why) => println!("{name}\trefused\t{why}"),
        }
    }
    Ok(())
}
