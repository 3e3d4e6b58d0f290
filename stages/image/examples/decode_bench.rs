//! How long one image takes from file bytes to the model's pixels, on one thread.
//!
//!     cargo run --release -p recaption-image --example decode_bench -- [--json] [--seconds 1.0] IMAGE...
//!
//! Prints milliseconds per image for every file (mean over about a second, and the fastest call), for 224 pixels,
//! shortest side, bicubic. `benchmarks/pillow_decode.py` measures Pillow over the same files.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use recaption_image::{DecodeOptions, Interpolation, Preprocess, ResizeMode, prepare};

const PREPROCESS: Preprocess =
    Preprocess { size: 224, resize_mode: ResizeMode::Shortest, interpolation: Interpolation::Bicubic };

struct Timing {
    mean_ms: f64,
    best_ms: f64,
    calls: u32,
}

fn main() -> ExitCode {
    let (mut json, mut seconds, mut files) = (false, 1.0, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--seconds" => match arguments.next().and_then(|text| text.parse().ok()) {
                Some(value) => seconds = value,
                None => return fail("--seconds needs a number"),
            },
            _ => files.push(argument),
        }
    }
    let mut lines = Vec::new();
    for file in &files {
        let timing =
            match std::fs::read(file).map_err(|e| e.to_string()).and_then(|bytes| measure(&bytes, seconds)) {
                Ok(timing) => timing,
                Err(error) => return fail(&format!("{file}: {error}")),
            };
        if json {
            let Timing { mean_ms, best_ms, calls } = timing;
            lines.push(format!(
                "{file:?}: {{\"ms\": {mean_ms:.4}, \"best_ms\": {best_ms:.4}, \"calls\": {calls}}}"
            ));
        } else {
            println!(
                "{:8.3} ms  (best {:.3}, {} calls)  {file}",
                timing.mean_ms, timing.best_ms, timing.calls
            );
        }
    }
    if json {
        println!("{{{}}}", lines.join(", "));
    }
    ExitCode::SUCCESS
}

/// Repeats one image for about `seconds`, after one call that fills the thread's buffers.
fn measure(bytes: &[u8], seconds: f64) -> Result<Timing, String> {
    let once = || prepare(bytes, None, &PREPROCESS, &DecodeOptions::default()).map_err(|e| e.to_string());
    once()?;
    let (start, mut best, mut calls) = (Instant::now(), Duration::MAX, 0);
    while start.elapsed().as_secs_f64() < seconds {
        let call = Instant::now();
        std::hint::black_box(once()?);
        best = best.min(call.elapsed());
        calls += 1;
    }
    let mean_ms = start.elapsed().as_secs_f64() * 1e3 / f64::from(calls);
    Ok(Timing { mean_ms, best_ms: best.as_secs_f64() * 1e3, calls })
}

fn fail(message: &str) -> ExitCode {
    eprintln!("decode_bench: {message}");
    ExitCode::FAILURE
}
