//! What both sides compute: the graphs of a run, used as in a run.
//!
//! Rows are at different positions, a slot has two rows, slots are added while rows are in flight, a slot is reloaded with another
//! image, one stays empty, and a row continues from a copy of another row's cache. Each of these has code of its own on a device.

use super::inputs::{IMAGES, images, word_id};
use crate::{
    caption::{Admission, CaptionSettings, Captioner},
    model::ModelFolder,
    runtime::{
        Decoder, Encoded, ImageEncoder, MatchImage, MatchStart, Matcher, RowUpdate, RuntimeError,
        SessionOptions, TextEncoder,
    },
};

/// Rows of a slot.
const ROWS: usize = 2;
/// Largest number of positions that a row reads.
const POSITIONS: usize = 8;
/// Number of ids that all captions start with.
const PROMPT: usize = 2;
/// Steps of the decoder.
const STEPS: usize = 9;
/// Ids per text, start and end included; fewer if the context is shorter.
const TEXT_LENGTHS: [usize; IMAGES] = [5, 9, 20];

/// A graph, by its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graph {
    /// The captioner's image encoder.
    ImageEncoder,
    /// The captioner's decoder.
    Decoder,
    /// The graph that selects tokens.
    TokenSelection,
    /// The scorer's image encoder, if the scorer is another model.
    ScorerImageEncoder,
    /// The scorer's text encoder.
    ScorerTextEncoder,
    /// The scorer's matching head, if it has one.
    ScorerFusion,
}

impl std::fmt::Display for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ImageEncoder => "image_encoder",
            Self::Decoder => "decoder",
            Self::TokenSelection => "token selection",
            Self::ScorerImageEncoder => "image_encoder (scorer)",
            Self::ScorerTextEncoder => "text_encoder (scorer)",
            Self::ScorerFusion => "fusion (scorer)",
        })
    }
}

/// Logits of one row after one step.
pub(super) struct LogitsRow {
    /// Number of the step.
    pub(super) step: usize,
    /// Image of the row, if it has just read the last id of the prompt.
    pub(super) prompted_image: Option<usize>,
    /// `[V]`.
    pub(super) logits: Vec<f32>,
}

/// What a captioner computed.
pub(super) struct CaptionerOutputs {
    /// `[IMAGES, E]`.
    pub(super) image_features: Vec<f32>,
    /// Logits of every row in flight at every step, in the order of steps and rows.
    pub(super) logits: Vec<LogitsRow>,
    /// What a whole captioner generated; only on the device.
    pub(super) captions: Option<CaptionOutputs>,
}

/// What a captioner generated after the prompt.
pub(super) struct CaptionOutputs {
    /// The first token of every image's caption.
    pub(super) first_ids: Vec<i64>,
    /// `[IMAGES, E]`.
    pub(super) image_features: Vec<f32>,
}

/// What a scorer computed.
pub(super) struct ScorerOutputs {
    /// `[IMAGES, E]`, if the scorer is another model.
    pub(super) image_features: Option<Vec<f32>>,
    /// `[texts, E]`.
    pub(super) text_features: Vec<f32>,
    /// Logits of every image with every text, if the scorer has a matching head.
    pub(super) matches: Option<Vec<[f32; 2]>>,
}

/// A graph that could not be loaded or run.
pub(super) type Failure = (Graph, RuntimeError);

fn of(graph: Graph) -> impl FnOnce(RuntimeError) -> Failure {
    move |error| (graph, error)
}

/// Encodes the images, reads ids with the decoder and, with `caption`, captions them.
///
/// # Errors
/// When a graph cannot be loaded or fails.
pub(super) fn run_captioner(
    model: &ModelFolder,
    options: &SessionOptions,
    caption: bool,
) -> Result<CaptionerOutputs, Failure> {
    let pixels = images(model.spec.image_size as usize);
    let length = POSITIONS.min(model.spec.dimensions.context_length.saturating_sub(1));
    let (encoded, decoder) = std::thread::scope(|scope| {
        // Loading uses mostly one thread, so both load concurrently.
        let decoder = scope.spawn(|| Decoder::load(model, options, length, ROWS));
        let encoded = ImageEncoder::load(model, options).and_then(|mut encoder| encoder.encode(&pixels));
        let panicked = |_| Err(RuntimeError::Input("loading the decoder panicked".into()));
        (encoded.map_err(of(Graph::ImageEncoder)), decoder.join().unwrap_or_else(panicked))
    });
    let (encoded, decoder) = (encoded?, decoder.map_err(of(Graph::Decoder))?);
    let logits = read(decoder, model, &encoded, length).map_err(of(Graph::Decoder))?;
    let image_features = encoded.features;
    let captions = caption.then(|| first_tokens(model, options, &pixels)).transpose();
    Ok(CaptionerOutputs { image_features, logits, captions: captions.map_err(of(Graph::TokenSelection))? })
}

/// Returns the ids that all captions start with, after the start token; fewer if the context is short.
fn prompt(model: &ModelFolder) -> Vec<i64> {
    let d = &model.spec.dimensions;
    // Leaves room for the start token and two generated ones.
    let length = PROMPT.min(d.context_length.saturating_sub(3));
    (0..length).map(|i| word_id(d.vocab_size, [usize::MAX, 0, i])).collect()
}

/// An image in a slot.
#[derive(Clone, Copy)]
struct Place {
    slot: usize,
    image: usize,
    /// Step at which its rows read the start token.
    started: usize,
}

/// Reads given ids for [`STEPS`] steps; returns the logits.
fn read(
    mut decoder: Decoder,
    model: &ModelFolder,
    encoded: &Encoded,
    length: usize,
) -> Result<Vec<LogitsRow>, RuntimeError> {
    let (vocabulary, start) = (model.spec.dimensions.vocab_size, model.spec.special_ids.start);
    let prompt = prompt(model);
    let id = |slot: usize, row: usize, position: usize| match position {
        0 => start,
        _ if row == 0 && position <= prompt.len() => prompt[position - 1],
        _ => word_id(vocabulary, [slot, row, position]),
    };
    let mut places = vec![Place { slot: 0, image: 0, started: 0 }, Place { slot: 1, image: 1, started: 1 }];
    decoder.resize(2, &[])?;
    decoder.load_images(&[(1, 1), (0, 0)], encoded)?;
    let mut rows_read = Vec::new();
    for step in 0..STEPS {
        match step {
            2 => {
                decoder.resize(4, &[0, 1])?;
                decoder.load_image(3, encoded, 2)?;
                places.push(Place { slot: 3, image: 2, started: step });
            }
            3 => decoder.copy_caches(&[(0, 1, step.min(length))])?,
            5 => {
                decoder.load_image(1, encoded, 0)?;
                places[1] = Place { slot: 1, image: 0, started: step };
            }
            _ => {}
        }
        let mut updates = vec![None; decoder.slots() * ROWS];
        let mut prompted = vec![None; updates.len()];
        for place in places.iter().filter(|place| place.started <= step && step - place.started < length) {
            let position = step - place.started;
            for row in 0..ROWS {
                let index = place.slot * ROWS + row;
                updates[index] = Some(RowUpdate { id: id(place.slot, row, position), position });
                prompted[index] = (row == 0 && position == prompt.len()).then_some(place.image);
            }
        }
        if updates.iter().all(Option::is_none) {
            break;
        }
        let logits = decoder.step(&updates)?;
        let rows = logits.chunks_exact(vocabulary).zip(updates.iter().zip(prompted));
        rows_read.extend(rows.filter(|(_, (update, _))| update.is_some()).map(|(logits, (_, prompted))| {
            LogitsRow { step, prompted_image: prompted, logits: logits.to_vec() }
        }));
    }
    Ok(rows_read)
}

/// Captions the images greedily, with two tokens of which the second is the end token; images are added while others are in
/// flight.
fn first_tokens(
    model: &ModelFolder,
    options: &SessionOptions,
    pixels: &[u8],
) -> Result<CaptionOutputs, RuntimeError> {
    let settings = CaptionSettings { prompt: prompt(model), ..CaptionSettings::greedy(2, 0, IMAGES + 1) };
    let mut captioner = Captioner::load(model, options, settings)?;
    let each = captioner.image_bytes();
    let admission = |i: usize| Admission { ticket: i as u64, seed: i as u64 };
    captioner.admit(&[admission(0)], &pixels[..each])?;
    let mut done = captioner.step()?;
    let others: Vec<Admission> = (1..IMAGES).map(admission).collect();
    captioner.admit(&others, &pixels[each..])?;
    while captioner.active() > 0 {
        done.extend(captioner.step()?);
    }
    done.sort_by_key(|generated| generated.ticket);
    let first = |ids: Option<&Vec<i64>>| ids.and_then(|ids| ids.first().copied()).unwrap_or(-1);
    Ok(CaptionOutputs {
        first_ids: done.iter().map(|g| first(g.candidates.first().map(|best| &best.ids))).collect(),
        image_features: done.iter().flat_map(|g| g.image_features.iter().copied()).collect(),
    })
}

/// Encodes texts of different lengths and, if the scorer is another model, the images.
///
/// # Errors
/// When a graph cannot be loaded or fails.
pub(super) fn run_scorer(
    model: &ModelFolder,
    options: &SessionOptions,
    is_separate: bool,
) -> Result<ScorerOutputs, Failure> {
    let has_head = is_separate && model.fusion().is_ok();
    let encode = || {
        let pixels = images(model.spec.image_size as usize);
        let mut encoder = ImageEncoder::load(model, options)?;
        if has_head {
            return encoder.encode_for_matching(&pixels);
        }
        Ok((encoder.encode(&pixels)?.features, Vec::new()))
    };
    let encoded = is_separate.then(encode).transpose().map_err(of(Graph::ScorerImageEncoder))?;
    let (image_features, tokens) = encoded.unzip();
    let (d, special) = (&model.spec.dimensions, model.spec.special_ids);
    let text = |(number, length): (usize, &usize)| {
        let words = (*length).min(d.context_length).saturating_sub(2);
        let words = (0..words).map(|i| word_id(d.vocab_size, [usize::MAX, number + 1, i]));
        std::iter::once(special.start).chain(words).chain([special.end]).collect::<Vec<i64>>()
    };
    let texts: Vec<Vec<i64>> = TEXT_LENGTHS.iter().enumerate().map(text).collect();
    let texts: Vec<&[i64]> = texts.iter().map(Vec::as_slice).collect();
    let text_features = TextEncoder::load(model, options)
        .and_then(|mut encoder| encoder.encode(&texts))
        .map_err(of(Graph::ScorerTextEncoder))?;
    let matches = tokens.filter(|_| has_head).map(|tokens| match_all(model, options, &tokens, &texts));
    let matches = matches.transpose().map_err(of(Graph::ScorerFusion))?;
    Ok(ScorerOutputs { image_features, text_features, matches })
}

/// Matches every image with every text, as a run does.
fn match_all(
    model: &ModelFolder,
    options: &SessionOptions,
    tokens: &[f32],
    texts: &[&[i64]],
) -> Result<Vec<[f32; 2]>, RuntimeError> {
    let mut matcher = Matcher::load(model, options, MatchStart::default())?;
    let images: Vec<MatchImage<'_>> =
        tokens.chunks_exact(tokens.len() / IMAGES).map(|tokens| MatchImage { tokens, texts }).collect();
    Ok(matcher.match_all(&images)?.concat())
}
