//! Compares the captions of a GPU with the CPU's, and explains every difference. Prints one line of JSON.
//!
//! ```text
//! cargo run --release -p recaption-onnx --example compare_providers -- MODEL IMAGES [key=value]...
//! ```
//! IMAGES is a file of u8 pixels `[N, S, S, 3]` at the model's size, without a header. Both sides caption greedily, with the same
//! model folder and so in the same precision. Keys: `provider` (cuda by default, tensorrt, cpu), `device`, `emulate_device` (1: the
//! code of a GPU on the CPU, for machines without one), `count` (images, at most; 4000 by default), `slots` (images decoded
//! together; 256), `max_tokens`, `min_tokens`, `threads` (of the CPU), `cache_bytes`.
//!
//! Of two captions that differ, both sides read the shared prefix; the CPU's logits of the first two tokens that differ must then be
//! within `tolerance` of each other, see [`recaption_onnx::caption_comparison`]. Exit code 1 when a difference is not explained, fewer than
//! 98 % of the captions are equal, or a bound on logits or image features does not hold.

use std::{collections::BTreeMap, error::Error, fs::File, io::Read, process::ExitCode};

use recaption_onnx::{
    ModelFolder,
    caption::CaptionSettings,
    caption_comparison::{CaptionComparison, Side, compare_captions},
    runtime::{Execution, Provider, SessionOptions},
};

const USAGE: &str = "usage: compare_providers MODEL IMAGES [key=value]...; keys:";
const KEYS: [&str; 9] = [
    "provider",
    "device",
    "emulate_device",
    "count",
    "slots",
    "max_tokens",
    "min_tokens",
    "threads",
    "cache_bytes",
];

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let pair = |argument: String| match argument.split_once('=') {
            Some((key, value)) if KEYS.contains(&key) => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!("`{argument}` is not understood; {USAGE} {}", KEYS.join(", "))),
        };
        Ok(Self(arguments.map(pair).collect::<std::result::Result<_, _>>()?))
    }

    fn number(&self, key: &str, default: usize) -> Result<usize> {
        let Some(text) = self.0.get(key) else { return Ok(default) };
        Ok(text.parse().map_err(|_| format!("{key}={text}: a whole number is expected"))?)
    }

    fn device(&self, model: &ModelFolder, threads: usize) -> Result<SessionOptions> {
        let emulate_device = self.number("emulate_device", 0)? == 1;
        let default = if emulate_device { "cpu" } else { "cuda" };
        let provider: Provider = self.0.get("provider").map_or(default, String::as_str).parse()?;
        let execution = Execution::resolve(provider, u32::try_from(self.number("device", 0)?)?, &[model])?;
        if execution.is_gpu() && emulate_device {
            return Err("emulate_device=1 is for machines without a GPU: it goes with provider=cpu".into());
        }
        Ok(SessionOptions { execution, emulate_device, ..SessionOptions::on_cpu(threads) })
    }
}

/// The first `count` images of a file; fewer if it holds fewer.
fn pixels(path: &str, image_bytes: usize, count: usize) -> Result<Vec<u8>> {
    let mut pixels = Vec::new();
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    file.take((image_bytes * count) as u64).read_to_end(&mut pixels)?;
    Ok(pixels)
}

fn print(found: &CaptionComparison, provider: &str) {
    let differences: Vec<_> = found
        .differences
        .iter()
        .map(|d| {
            serde_json::json!({
                "image": d.image,
                "position": d.position,
                "cpu": d.reference_id,
                "device": d.device_id,
                "gap": d.gap,
                "explained": d.is_explained,
            })
        })
        .collect();
    println!(
        "{}",
        serde_json::json!({
            "passes": found.passes(),
            "provider": provider,
            "images": found.images,
            "equal": found.equal,
            "share": found.share(),
            "explained": found.explained(),
            "unexplained": found.unexplained(),
            "max_gap": found.max_gap(),
            "tolerance": found.tolerance,
            "unit": "standard deviations of a row of logits",
            "logit_deviation": found.logit_deviation,
            "logit_cosine": found.logit_cosine,
            "logit_rows": found.logit_rows,
            "feature_cosine": found.feature_cosine,
            "broken_bounds": found.broken_bounds,
            "cpu_seconds": found.seconds[0],
            "device_seconds": found.seconds[1],
            "differences": differences,
        })
    );
}

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(images)) = (arguments.next(), arguments.next()) else {
        return Err(format!("{USAGE} {}", KEYS.join(", ")).into());
    };
    let options = Options::parse(arguments)?;
    let model = ModelFolder::open(model.as_ref())?;
    let size = model.spec.image_size as usize;
    let pixels = pixels(&images, size * size * 3, options.number("count", 4000)?)?;
    let context = model.spec.dimensions.context_length;
    let settings = CaptionSettings {
        cache_bytes: options.number("cache_bytes", usize::MAX)? as u64,
        ..CaptionSettings::greedy(
            options.number("max_tokens", context - 1)?,
            options.number("min_tokens", 1)?,
            options.number("slots", 256)?,
        )
    };
    let threads = options.number("threads", std::thread::available_parallelism()?.get())?;
    let device = options.device(&model, threads)?;
    let cpu = SessionOptions::on_cpu(threads);
    let found = compare_captions(
        Side { model: &model, options: &cpu },
        Side { model: &model, options: &device },
        &settings,
        &pixels,
    )?;
    let name = device.execution.as_str();
    print(&found, if device.emulate_device { "cpu as device" } else { name });
    Ok(if found.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
