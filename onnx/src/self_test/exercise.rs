//! What both sides compute: the graphs of a run, used as a run uses them.
//!
//! Rows stand at unlike positions, a slot has two rows, slots become more while rows are in flight, a slot is given another
//! image, one stays empty, and a row goes on from a copy of another row's cache. All of that takes paths of its own on a device.

use super::inputs::{PICTURES, pictures, word};
use crate::{
    caption::{Admission, CaptionSettings, Captioner},
    model::ModelFolder,
    runtime::{Decoder, Encoded, ImageEncoder, RowUpdate, RuntimeError, SessionOptions, TextEncoder},
};

/// Rows of a slot.
const ROWS: usize = 2;
/// Positions that a row reads, at most.
const POSITIONS: usize = 8;
/// Ids that all images' captions begin with.
const PROMPT: usize = 2;
/// Steps of the decoder.
const STEPS: usize = 9;
/// Ids of the texts, start and end included, where the context has room for them.
const TEXT_LENGTHS: [usize; PICTURES] = [5, 9, 20];

/// A graph, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graph {
    /// The captioner's image encoder.
    ImageEncoder,
    /// The captioner's decoder.
    Decoder,
    /// The graph that chooses tokens.
    TokenSelection,
    /// The scorer's image encoder, where the scorer is another model.
    ScorerImageEncoder,
    /// The scorer's text encoder.
    ScorerTextEncoder,
}

impl std::fmt::Display for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ImageEncoder => "image_encoder",
            Self::Decoder => "decoder",
            Self::TokenSelection => "token selection",
            Self::ScorerImageEncoder => "image_encoder (scorer)",
            Self::ScorerTextEncoder => "text_encoder (scorer)",
        })
    }
}

/// Logits of one row after one step.
pub struct LogitsRow {
    /// Step.
    pub step: usize,
    /// Image that the row is about, when it reads the last id of the common beginning; else none.
    pub asked: Option<usize>,
    /// `[V]`.
    pub logits: Vec<f32>,
}

/// What a captioner computed.
pub struct CaptionerAnswers {
    /// `[PICTURES, E]`.
    pub image_features: Vec<f32>,
    /// Of every row in flight at every step, in the order of steps and rows.
    pub logits: Vec<LogitsRow>,
    /// What a whole captioner made of the pictures; of the device's side alone.
    pub captions: Option<CaptionAnswers>,
}

/// What came out of a captioner that was asked for the token behind the common beginning.
pub struct CaptionAnswers {
    /// The first token of every picture's caption.
    pub first_ids: Vec<i64>,
    /// `[PICTURES, E]`.
    pub image_features: Vec<f32>,
}

/// What a scorer computed.
pub struct ScorerAnswers {
    /// `[PICTURES, E]`, of a scorer of its own.
    pub image_features: Option<Vec<f32>>,
    /// `[texts, E]`.
    pub text_features: Vec<f32>,
}

/// A graph that could not be loaded or run.
pub type Failure = (Graph, RuntimeError);

fn of(graph: Graph) -> impl FnOnce(RuntimeError) -> Failure {
    move |error| (graph, error)
}

/// Encodes the pictures, reads ids with the decoder and, where `caption` says so, captions them.
///
/// # Errors
/// A graph that cannot be loaded or fails.
pub fn captioner(
    model: &ModelFolder,
    options: &SessionOptions,
    caption: bool,
) -> Result<CaptionerAnswers, Failure> {
    let pixels = pictures(model.spec.image_size as usize);
    let length = POSITIONS.min(model.spec.dimensions.context_length.saturating_sub(1));
    let (encoded, decoder) = std::thread::scope(|scope| {
        // Loading is mostly work of one thread, so both load side by side.
        let decoder = scope.spawn(|| Decoder::load(model, options, length, ROWS));
        let encoded = ImageEncoder::load(model, options).and_then(|mut encoder| encoder.encode(&pixels));
        let panicked = |_| Err(RuntimeError::Input("loading the decoder panicked".into()));
        (encoded.map_err(of(Graph::ImageEncoder)), decoder.join().unwrap_or_else(panicked))
    });
    let (encoded, decoder) = (encoded?, decoder.map_err(of(Graph::Decoder))?);
    let logits = read(decoder, model, &encoded, length).map_err(of(Graph::Decoder))?;
    let image_features = encoded.features;
    let captions = caption.then(|| first_tokens(model, options, &pixels)).transpose();
    Ok(CaptionerAnswers { image_features, logits, captions: captions.map_err(of(Graph::TokenSelection))? })
}

/// Ids that all captions begin with, behind the start token; fewer in a context that has no room for them.
fn prompt(model: &ModelFolder) -> Vec<i64> {
    let d = &model.spec.dimensions;
    // A start token in front, two generated ones behind.
    let length = PROMPT.min(d.context_length.saturating_sub(3));
    (0..length).map(|i| word(d.vocab_size, [usize::MAX, 0, i])).collect()
}

/// What stands in a slot.
#[derive(Clone, Copy)]
struct Place {
    slot: usize,
    image: usize,
    /// Step at which its rows read the start token.
    since: usize,
}

/// Reads given ids for [`STEPS`] steps.
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
        _ => word(vocabulary, [slot, row, position]),
    };
    let mut places = vec![Place { slot: 0, image: 0, since: 0 }, Place { slot: 1, image: 1, since: 1 }];
    decoder.resize(2, &[])?;
    decoder.load_images(&[(1, 1), (0, 0)], encoded)?;
    let mut answers = Vec::new();
    for step in 0..STEPS {
        match step {
            2 => {
                decoder.resize(4, &[0, 1])?;
                decoder.load_image(3, encoded, 2)?;
                places.push(Place { slot: 3, image: 2, since: step });
            }
            3 => decoder.copy_caches(&[(0, 1, step.min(length))])?,
            5 => {
                decoder.load_image(1, encoded, 0)?;
                places[1] = Place { slot: 1, image: 0, since: step };
            }
            _ => {}
        }
        let mut updates = vec![None; decoder.slots() * ROWS];
        let mut asked = vec![None; updates.len()];
        for place in places.iter().filter(|place| place.since <= step && step - place.since < length) {
            let position = step - place.since;
            for row in 0..ROWS {
                let index = place.slot * ROWS + row;
                updates[index] = Some(RowUpdate { id: id(place.slot, row, position), position });
                asked[index] = (row == 0 && position == prompt.len()).then_some(place.image);
            }
        }
        if updates.iter().all(Option::is_none) {
            break;
        }
        let logits = decoder.step(&updates)?;
        let rows = logits.chunks_exact(vocabulary).zip(updates.iter().zip(asked));
        answers.extend(
            rows.filter(|(_, (update, _))| update.is_some()).map(|(logits, (_, asked))| LogitsRow {
                step,
                asked,
                logits: logits.to_vec(),
            }),
        );
    }
    Ok(answers)
}

/// Captions the pictures greedily, two tokens of which the second is the end, with images that join while others are in flight.
fn first_tokens(
    model: &ModelFolder,
    options: &SessionOptions,
    pixels: &[u8],
) -> Result<CaptionAnswers, RuntimeError> {
    let settings = CaptionSettings { prompt: prompt(model), ..CaptionSettings::greedy(2, 0, PICTURES + 1) };
    let mut captioner = Captioner::load(model, options, settings)?;
    let each = captioner.image_bytes();
    let admission = |i: usize| Admission { ticket: i as u64, seed: i as u64 };
    captioner.admit(&[admission(0)], &pixels[..each])?;
    let mut done = captioner.step()?;
    let others: Vec<Admission> = (1..PICTURES).map(admission).collect();
    captioner.admit(&others, &pixels[each..])?;
    while captioner.active() > 0 {
        done.extend(captioner.step()?);
    }
    done.sort_by_key(|generated| generated.ticket);
    let first = |ids: Option<&Vec<i64>>| ids.and_then(|ids| ids.first().copied()).unwrap_or(-1);
    Ok(CaptionAnswers {
        first_ids: done.iter().map(|g| first(g.candidates.first().map(|best| &best.ids))).collect(),
        image_features: done.iter().flat_map(|g| g.image_features.iter().copied()).collect(),
    })
}

/// Encodes texts of unlike length and, where the scorer is not the captioner, the pictures.
///
/// # Errors
/// A graph that cannot be loaded or fails.
pub fn scorer(
    model: &ModelFolder,
    options: &SessionOptions,
    is_separate: bool,
) -> Result<ScorerAnswers, Failure> {
    let encode = || {
        let pixels = pictures(model.spec.image_size as usize);
        Ok(ImageEncoder::load(model, options)?.encode(&pixels)?.features)
    };
    let image_features = is_separate.then(encode).transpose().map_err(of(Graph::ScorerImageEncoder))?;
    let (d, special) = (&model.spec.dimensions, model.spec.special_ids);
    let text = |(number, length): (usize, &usize)| {
        let words = (*length).min(d.context_length).saturating_sub(2);
        let words = (0..words).map(|i| word(d.vocab_size, [usize::MAX, number + 1, i]));
        std::iter::once(special.start).chain(words).chain([special.end]).collect::<Vec<i64>>()
    };
    let texts: Vec<Vec<i64>> = TEXT_LENGTHS.iter().enumerate().map(text).collect();
    let texts: Vec<&[i64]> = texts.iter().map(Vec::as_slice).collect();
    let text_features = TextEncoder::load(model, options)
        .and_then(|mut encoder| encoder.encode(&texts))
        .map_err(of(Graph::ScorerTextEncoder))?;
    Ok(ScorerAnswers { image_features, text_features })
}
