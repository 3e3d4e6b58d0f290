//! Captions per second of a model folder, and where the time goes. Prints one line of JSON.
//!
//! ```text
//! cargo run --release -p recaption-onnx --example caption_bench -- MODEL IMAGES [key=value]...
//! ```
//! IMAGES is a file of u8 pixels `[N, S, S, 3]` at the model's size, without a header. Keys: `strategy` (greedy, sample,
//! beam), `beams`, `candidates`, `max_tokens`, `min_tokens`, `slots` (images decoded together), `encode_batch` (images
//! encoded together), `threads` (of each of the model's copies), `copies`, `seconds`, `static` (1: a batch is decoded until
//! its longest caption ends; 2: the same, but slots are removed as captions end), `ids` (a file that the ids of every
//! image's first caption are written to, one line each), `provider` and `device` (as `recaption run` has them; the CPU by
//! default), `overlap` (1: images are encoded on a thread of their own while others are decoded, as a run on a GPU does; the
//! default there), `cuda_graphs` (0: none), `emulate_device` (1: a GPU's code path on the CPU), `images` (of the file, at most),
//! `encoder_seconds` (of measuring the encoder alone; 0: not measured), `cache_bytes`, `profile` (1: ONNX Runtime's profile of
//! every graph, in the working folder).
//!
//! A first round over the images is not measured. Times are of whole rounds, as many as fit into `seconds`, at least one;
//! shares are of the wall-clock time, mean of the copies.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::Mutex,
    time::{Duration, Instant},
};

use recaption_onnx::{
    ModelFolder,
    caption::{
        Admission, BeamSettings, CaptionSettings, Captioner, Generated, SampleSettings, Strategy, Timings,
        image_seed,
    },
    runtime::{Encoded, Execution, ImageEncoder, Provider, SessionOptions},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

struct Options(BTreeMap<String, String>);

impl Options {
    fn number(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.0.get(key).map_or(Ok(default), |v| v.parse())?)
    }

    /// The file's images, as many as are wanted.
    fn pixels(&self, path: &str, model: &ModelFolder) -> Result<Vec<u8>> {
        let mut pixels = std::fs::read(path)?;
        let image_bytes = (model.spec.image_size as usize).pow(2) * 3;
        pixels.truncate(self.number("images", usize::MAX)?.saturating_mul(image_bytes));
        Ok(pixels)
    }

    fn sessions(&self, model: &ModelFolder, threads: usize) -> Result<SessionOptions> {
        let provider = self.0.get("provider").map_or(Ok(Provider::Cpu), |name| name.parse())?;
        let execution = Execution::resolve(provider, u32::try_from(self.number("device", 0)?)?, &[model])?;
        let profile = self.number("profile", 0)? == 1;
        let cuda_graphs = self.number("cuda_graphs", 1)? == 1;
        let emulate_device = self.number("emulate_device", 0)? == 1;
        Ok(SessionOptions {
            execution,
            profile,
            cuda_graphs,
            emulate_device,
            ..SessionOptions::on_cpu(threads)
        })
    }

    fn settings(&self, context: usize) -> Result<CaptionSettings> {
        let beams = self.number("beams", 6)?;
        let strategy = match self.0.get("strategy").map_or("greedy", String::as_str) {
            "greedy" => Strategy::Greedy,
            "sample" => Strategy::Sample(SampleSettings::default()),
            "beam" => Strategy::Beam(BeamSettings { beams, ..BeamSettings::default() }),
            other => return Err(format!("unknown strategy {other}").into()),
        };
        let (max, min) = (self.number("max_tokens", context - 1)?, self.number("min_tokens", 1)?);
        let candidates = self.number("candidates", 1)?;
        Ok(CaptionSettings {
            strategy,
            candidates,
            cache_bytes: self.number("cache_bytes", usize::MAX)? as u64,
            ..CaptionSettings::greedy(max, min, self.number("slots", 32)?)
        })
    }
}

/// What one copy of the model did.
#[derive(Default)]
struct Work {
    images: usize,
    tokens: usize,
    steps: usize,
    admit: f64,
    step: f64,
    lengths: BTreeMap<usize, usize>,
    ids: BTreeMap<u64, Vec<i64>>,
}

impl Work {
    /// Counts a step and the captions that it ended.
    fn count(&mut self, done: Vec<Generated>) -> Result<()> {
        self.steps += 1;
        for generated in done {
            self.images += 1;
            for candidate in &generated.candidates {
                self.tokens += candidate.ids.len();
                *self.lengths.entry(candidate.ids.len()).or_default() += 1;
            }
            let best = generated.candidates.into_iter().next().ok_or("no candidate")?;
            self.ids.entry(generated.ticket).or_insert(best.ids);
        }
        Ok(())
    }
}

/// Decodes images `first, first + stride, ...` of `pixels` once.
fn round(
    captioner: &mut Captioner,
    pixels: &[u8],
    (first, stride, encode_batch): (usize, usize, usize),
    whole_batches: bool,
    work: &mut Work,
) -> Result<()> {
    let each = captioner.image_bytes();
    let mut waiting = (first..pixels.len() / each).step_by(stride).peekable();
    while waiting.peek().is_some() || captioner.active() > 0 {
        let quarter = (captioner.max_slots() / 4).clamp(1, encode_batch);
        while waiting.peek().is_some()
            && captioner.free_slots() >= quarter
            && (!whole_batches || captioner.active() == 0)
        {
            let room = if whole_batches { captioner.free_slots() } else { quarter };
            let batch: Vec<usize> = waiting.by_ref().take(room).collect();
            let images: Vec<Admission> = batch
                .iter()
                .map(|i| Admission { ticket: *i as u64, seed: image_seed(0, &i.to_string()) })
                .collect();
            let bytes: Vec<u8> =
                batch.iter().flat_map(|i| &pixels[i * each..(i + 1) * each]).copied().collect();
            let began = Instant::now();
            captioner.admit(&images, &bytes)?;
            work.admit += began.elapsed().as_secs_f64();
        }
        let began = Instant::now();
        let done = captioner.step()?;
        work.step += began.elapsed().as_secs_f64();
        work.count(done)?;
    }
    Ok(())
}

/// Encoded images that wait for slots, and how many of them have one.
type Waiting = (Vec<Admission>, Encoded, usize);

/// As [`round`], with images encoded on a thread of their own.
fn overlapped_round(
    captioner: &mut Captioner,
    pixels: &[u8],
    (first, stride, encode_batch): (usize, usize, usize),
    work: &mut Work,
) -> Result<()> {
    let each = captioner.image_bytes();
    let (encoder, generator) = captioner.parts_mut();
    let batch = encode_batch.min(generator.max_slots());
    let (to_generator, encoded) = std::sync::mpsc::sync_channel::<Waiting>(0);
    std::thread::scope(|scope| -> Result<()> {
        let encoding = scope.spawn(move || -> Result<()> {
            let all: Vec<usize> = (first..pixels.len() / each).step_by(stride).collect();
            for batch in all.chunks(batch) {
                let bytes: Vec<u8> =
                    batch.iter().flat_map(|i| &pixels[i * each..(i + 1) * each]).copied().collect();
                let mut images = batch
                    .iter()
                    .map(|i| Admission { ticket: *i as u64, seed: image_seed(0, &i.to_string()) });
                for encoded in encoder.encode(&bytes)? {
                    let images = images.by_ref().take(encoded.images()).collect();
                    to_generator.send((images, encoded, 0)).map_err(|_| "the generator ended")?;
                }
            }
            Ok(())
        });
        let mut waiting: Option<Waiting> = None;
        loop {
            if waiting.is_none() {
                waiting = if generator.active() == 0 { encoded.recv().ok() } else { encoded.try_recv().ok() };
            }
            if waiting.is_none() && generator.active() == 0 {
                break;
            }
            let began = Instant::now();
            if let Some((images, encoded, placed)) = &mut waiting {
                let count = generator.free_slots().min(images.len() - *placed);
                generator.place(&images[*placed..*placed + count], encoded, *placed)?;
                *placed += count;
            }
            waiting = waiting.filter(|(images, _, placed)| placed < &images.len());
            work.admit += began.elapsed().as_secs_f64();
            let began = Instant::now();
            let done = generator.step()?;
            work.step += began.elapsed().as_secs_f64();
            work.count(done)?;
        }
        drop(encoded);
        encoding.join().map_err(|_| "the encoding thread panicked")?
    })
}

/// Images per second of the encoder alone, on all threads; `None` where no time is given to it.
fn encode_rate(
    model: &ModelFolder,
    sessions: &SessionOptions,
    pixels: &[u8],
    seconds: f64,
) -> Result<Option<f64>> {
    if seconds == 0.0 {
        return Ok(None);
    }
    let mut encoder = ImageEncoder::load(model, sessions)?;
    let batch = &pixels[..pixels.len().min(sessions.execution.encode_batch(model) * encoder.image_bytes())];
    let images = batch.len() / encoder.image_bytes();
    encoder.encode(batch)?;
    let began = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || began.elapsed().as_secs_f64() < seconds {
        encoder.encode(batch)?;
        rounds += 1;
    }
    Ok(Some((rounds * images) as f64 / began.elapsed().as_secs_f64()))
}

/// How images come into slots.
#[derive(Clone, Copy)]
struct Batching {
    whole_batches: bool,
    overlap: bool,
    encode_batch: usize,
}

/// Whole rounds, every copy on a thread of its own; what was done, and the seconds it took.
fn decode(
    captioners: &mut [Captioner],
    pixels: &[u8],
    seconds: f64,
    batching: Batching,
) -> Result<(Work, f64)> {
    let copies = captioners.len();
    let total = Mutex::new(Work::default());
    let mut rounds = 0;
    let began = Instant::now();
    while rounds == 0 || began.elapsed().as_secs_f64() < seconds {
        std::thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> = captioners
                .iter_mut()
                .enumerate()
                .map(|(i, captioner)| {
                    let total = &total;
                    scope.spawn(move || -> Result<()> {
                        let mut work = Work::default();
                        let Batching { whole_batches, overlap, encode_batch } = batching;
                        if overlap {
                            overlapped_round(captioner, pixels, (i, copies, encode_batch), &mut work)?;
                        } else {
                            round(captioner, pixels, (i, copies, encode_batch), whole_batches, &mut work)?;
                        }
                        let mut total = total.lock().map_err(|_| "a thread panicked")?;
                        total.images += work.images;
                        total.tokens += work.tokens;
                        total.steps += work.steps;
                        total.admit += work.admit;
                        total.step += work.step;
                        work.lengths.iter().for_each(|(l, n)| *total.lengths.entry(*l).or_default() += n);
                        for (ticket, ids) in work.ids {
                            total.ids.entry(ticket).or_insert(ids);
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a thread panicked")?)
        })?;
        rounds += 1;
    }
    let wall = began.elapsed().as_secs_f64();
    Ok((total.into_inner().map_err(|_| "a thread panicked")?, wall))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(images)) = (arguments.next(), arguments.next()) else {
        return Err("usage: caption_bench MODEL IMAGES [key=value]...".into());
    };
    let options = Options(
        arguments.filter_map(|a| a.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect(),
    );
    let model = ModelFolder::open(model.as_ref())?;
    let pixels = options.pixels(&images, &model)?;
    let settings = options.settings(model.spec.dimensions.context_length)?;
    let copies = options.number("copies", 1)?;
    let cores = std::thread::available_parallelism()?.get();
    let threads = options.number("threads", (cores / copies).max(1))?;
    let seconds = options.number("seconds", 1)? as f64;
    let batching = options.number("static", 0)?;
    let sessions = options.sessions(&model, threads)?;
    let on_gpu = usize::from(sessions.execution.is_gpu());
    let how = Batching {
        whole_batches: batching > 0,
        overlap: options.number("overlap", on_gpu)? == 1 && batching == 0,
        encode_batch: options.number("encode_batch", sessions.execution.encode_batch(&model))?,
    };
    let mut captioners = (0..copies)
        .map(|_| Captioner::load(&model, &sessions, settings.clone()))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    captioners.iter_mut().for_each(|captioner| captioner.parts_mut().1.shrink_when_idle(batching != 1));
    let slot_bytes = captioners[0].slot_bytes();
    // Unmeasured: memory is touched for the first time, weights come in.
    decode(&mut captioners, &pixels, 0.0, how)?;
    let before: Vec<_> = captioners.iter().map(Captioner::timings).collect();
    let (work, wall) = decode(&mut captioners, &pixels, seconds, how)?;
    let spent: Vec<_> = captioners.iter().map(Captioner::timings).collect();
    drop_and_write(captioners, options.0.get("ids"), &work)?;
    let all_threads = SessionOptions { threads: threads * copies, ..sessions };
    let rate = encode_rate(&model, &all_threads, &pixels, options.number("encoder_seconds", 2)? as f64)?;
    print_results(
        &work,
        Measured { before, spent, wall, copies, encode_rate: rate, slot_bytes },
        &settings,
        how,
    );
    Ok(())
}

/// What was measured around the rounds.
struct Measured {
    before: Vec<(Duration, Timings)>,
    spent: Vec<(Duration, Timings)>,
    wall: f64,
    copies: usize,
    encode_rate: Option<f64>,
    slot_bytes: usize,
}

/// Frees the models, and writes every image's ids to a file if one is named.
fn drop_and_write(captioners: Vec<Captioner>, path: Option<&String>, work: &Work) -> Result<()> {
    drop(captioners);
    if let Some(path) = path {
        let lines: Vec<String> = work.ids.values().map(|ids| format!("{ids:?}\n")).collect();
        std::fs::write(path, lines.concat())?;
    }
    Ok(())
}

fn print_results(work: &Work, measured: Measured, settings: &CaptionSettings, how: Batching) {
    let Measured { before, spent, wall, copies, encode_rate, slot_bytes } = measured;
    let share = |part: fn(&(Duration, Timings)) -> Duration| {
        let seconds = |all: &[(Duration, Timings)]| all.iter().map(|s| part(s).as_secs_f64()).sum::<f64>();
        (seconds(&spent) - seconds(&before)) / copies as f64 / wall
    };
    let rows_fetched: u64 = spent.iter().map(|(_, timings)| timings.rows_fetched).sum();
    let lengths: Vec<usize> = work.lengths.iter().flat_map(|(l, n)| std::iter::repeat_n(*l, *n)).collect();
    println!(
        "{}",
        serde_json::json!({
            "captions_per_second": work.images as f64 / wall,
            "tokens_per_second": work.tokens as f64 / wall,
            "encode_images_per_second": encode_rate,
            "admit_share": work.admit / copies as f64 / wall,
            "step_share": work.step / copies as f64 / wall,
            "encode_share": share(|s| s.0),
            "decode_share": share(|s| s.1.decode),
            "select_share": share(|s| s.1.select),
            "copy_share": share(|s| s.1.copy),
            "overlap": how.overlap,
            "rows_fetched": rows_fetched,
            "steps": work.steps,
            "step_ms": work.step / work.steps as f64 * 1e3,
            "rows_per_step": settings.max_slots * settings.rows_per_image(),
            "slot_bytes": slot_bytes,
            "images": work.images,
            "mean_length": work.tokens as f64 / lengths.len() as f64,
            "longest": lengths.last(),
            "seconds": wall,
        })
    );
}
