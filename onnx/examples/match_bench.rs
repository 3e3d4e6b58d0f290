//! What scoring by embeddings (ITC) and matching (ITM) cost. Prints one line of JSON.
//!
//! ```text
//! cargo run --release -p recaption-onnx --example match_bench -- MODEL IMAGES [key=value]...
//! ```
//! IMAGES is a file of u8 pixels `[N, S, S, 3]` at the model's size, without a header. Keys: `images` (of the file, at most),
//! `candidates` (texts of an image), `words` (of a text), `group` (images scored together, 16 in a run), `copies` (of the model, a
//! thread each), `provider`.
//!
//! Times are milliseconds of one copy per image. Before them, a first group is not measured. That matching does not depend on the
//! images beside it is checked bit by bit on the CPU.

use std::{collections::BTreeMap, error::Error, time::Instant};

use recaption_onnx::{
    ModelFolder,
    runtime::{
        Execution, ImageEncoder, MatchImage, MatchStart, Matcher, Provider, SessionOptions, TextEncoder,
    },
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
/// Numbers of candidates that are matched.
const MATCHED: [usize; 3] = [1, 2, 4];

/// Seconds of one copy.
#[derive(Clone, Copy, Default)]
struct Seconds {
    encode: f64,
    itc: f64,
    itm: [f64; MATCHED.len()],
}

struct Bench<'a> {
    model: &'a ModelFolder,
    options: SessionOptions,
    pixels: &'a [u8],
    texts: &'a [Vec<i64>],
    group: usize,
}

/// Returns texts of `words` ids that differ, with start and end.
fn texts(model: &ModelFolder, candidates: usize, words: usize) -> Vec<Vec<i64>> {
    let (special, vocabulary) = (model.spec.special_ids, model.spec.dimensions.vocab_size);
    let word = |text: usize, at: usize| 200 % vocabulary + (text * 7919 + at * 104_729) % (vocabulary / 2);
    let text = |text| {
        let words = (0..words).map(|at| word(text, at) as i64);
        std::iter::once(special.start).chain(words).chain([special.end]).collect()
    };
    (0..candidates).map(text).collect()
}

impl Bench<'_> {
    /// Scores all groups of images.
    fn run(&self) -> Result<Seconds> {
        let mut images = ImageEncoder::load(self.model, &self.options)?;
        let mut text_encoder = TextEncoder::load(self.model, &self.options)?;
        let mut matcher = Matcher::load(self.model, &self.options, MatchStart::default())?;
        let (each, batch) = (images.image_bytes(), self.options.execution.encode_batch(self.model));
        let groups: Vec<&[u8]> = self.pixels.chunks(self.group * each).collect();
        let mut seconds = Seconds::default();
        for (number, pixels) in groups.iter().take(1).chain(&groups).enumerate() {
            if number == 1 {
                seconds = Seconds::default();
            }
            let count = pixels.len() / each;
            let began = Instant::now();
            let mut tokens = Vec::new();
            for pixels in pixels.chunks(batch * each) {
                tokens.extend(images.encode_for_matching(pixels)?.1);
            }
            seconds.encode += began.elapsed().as_secs_f64();
            let all: Vec<&[i64]> = self.texts.iter().map(Vec::as_slice).collect();
            let every: Vec<&[i64]> = (0..count).flat_map(|_| all.iter().copied()).collect();
            let began = Instant::now();
            text_encoder.encode(&every)?;
            seconds.itc += began.elapsed().as_secs_f64();
            let size = tokens.len() / count;
            for (at, most) in MATCHED.iter().enumerate() {
                let texts = &all[..(*most).min(all.len())];
                let jobs: Vec<MatchImage<'_>> =
                    tokens.chunks_exact(size).map(|tokens| MatchImage { tokens, texts }).collect();
                let began = Instant::now();
                let logits = matcher.match_all(&jobs)?;
                seconds.itm[at] += began.elapsed().as_secs_f64();
                if number == 0
                    && !self.options.execution.is_gpu()
                    && matcher.match_all(&jobs[..1])?[0] != logits[0]
                {
                    return Err("a probability depends on the images beside it".into());
                }
            }
        }
        Ok(seconds)
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (model, images) = (arguments.next().ok_or("no MODEL")?, arguments.next().ok_or("no IMAGES")?);
    let options: BTreeMap<String, String> =
        arguments.filter_map(|a| a.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect();
    let number = |key: &str, default: usize| -> Result<usize> {
        Ok(options.get(key).map_or(Ok(default), |value| value.parse())?)
    };
    let model = ModelFolder::open(std::path::Path::new(&model))?;
    let each = (model.spec.image_size as usize).pow(2) * 3;
    let mut pixels = std::fs::read(images)?;
    pixels.truncate(number("images", usize::MAX)?.saturating_mul(each));
    let (candidates, copies) = (number("candidates", 4)?, number("copies", 1)?.max(1));
    let texts = texts(&model, candidates, number("words", 12)?);
    let provider = options.get("provider").map_or(Ok(Provider::Cpu), |name| name.parse())?;
    let execution = Execution::resolve(provider, 0, &[&model])?;
    let session = SessionOptions { execution, ..SessionOptions::on_cpu(1) };
    let bench = Bench {
        model: &model,
        options: session,
        pixels: &pixels,
        texts: &texts,
        group: number("group", 16)?,
    };
    let all = std::thread::scope(|scope| {
        let copies: Vec<_> = (0..copies).map(|_| scope.spawn(|| bench.run())).collect();
        copies
            .into_iter()
            .map(|copy| copy.join().unwrap_or_else(|_| Err("a copy panicked".into())))
            .collect::<Result<Vec<_>>>()
    })?;
    let per_image = 1000.0 / (pixels.len() / each) as f64 / copies as f64;
    let ms = |part: &dyn Fn(&Seconds) -> f64| all.iter().map(part).sum::<f64>() * per_image;
    let itm: BTreeMap<String, f64> =
        MATCHED.iter().enumerate().map(|(at, most)| (most.to_string(), ms(&|s| s.itm[at]))).collect();
    let rates: BTreeMap<&String, f64> = itm
        .iter()
        .zip(MATCHED)
        .map(|((name, ms), most)| (name, 1000.0 * copies as f64 * most as f64 / ms))
        .collect();
    let report = serde_json::json!({
        "candidates": candidates, "copies": copies, "encode_ms": ms(&|s| s.encode), "itc_ms": ms(&|s| s.itc),
        "itm_ms": itm, "texts_per_second": rates,
    });
    println!("{report}");
    Ok(())
}
