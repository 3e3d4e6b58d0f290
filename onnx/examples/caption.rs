//! Captions image files.
//!
//! ```text
//! cargo run --release -p recaption-onnx --example caption -- MODEL IMAGE...
//! ```
//! MODEL is a folder that `recaption export` wrote, or `bundled` for the captioner of synthetic scenes inside this crate. Prints
//! a line per image: path, similarity of image and caption, mean log-probability per token, caption.

use std::{error::Error, path::PathBuf};

use recaption_onnx::{Bundled, CaptionModel, CaptionOptions, Precision, export};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(model), images) = (arguments.next(), arguments.collect::<Vec<_>>()) else {
        return Err("usage: caption MODEL IMAGE...".into());
    };
    let temporary = tempfile::tempdir()?;
    let model = if model.as_os_str() == "bundled" {
        let checkpoint = temporary.path().join("checkpoint");
        Bundled::Dsc.write_checkpoint(&checkpoint)?;
        export(&checkpoint, &temporary.path().join("model"), Precision::Fp32)?.dir
    } else {
        model
    };
    let options = CaptionOptions { similarity: true, ..CaptionOptions::default() };
    let mut model = CaptionModel::open_with(model, &options)?;
    let files = images.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    for (path, caption) in images.iter().zip(model.caption_batch(&files)?) {
        println!(
            "{}\t{:.4}\t{:.3}\t{}",
            path.display(),
            caption.similarity.unwrap_or_default(),
            caption.mean_log_probability(),
            caption.text
        );
    }
    Ok(())
}
