//! The synthetic scenes dataset: small, licence-free images whose captions are exactly known.
//!
//! A [`Scene`] is a background and one to three flat-coloured objects, each in its own cell of a 3x3 grid.
//! Tests and the demo draw shards of scenes, run the pipeline over them like over any other dataset, and then
//! check captions and scores word by word, because everything that a caption can truthfully name is in the scene.
//!
//! Data flow: [`SceneRng`] draws a [`Scene`] and its [`AltText`]; [`draw`] makes its pixels, [`short`] and
//! [`descriptive`] its captions; [`write_shard`] packs all of it as a webdataset shard; [`Accuracy`] and
//! [`names_true_object`] measure other captions, and [`false_captions`] tests scorers. Pixels, captions and JSON equal those of the Python reference
//! generator (fixtures: `tests/data/scenes`); the random numbers are our own. Nothing here reads a clock, a file or
//! the environment: a seed gives the same shards for ever. [`write_shard_file`] alone writes files.

mod accuracy;
mod alt_text;
mod draw;
mod file;
mod generate;
mod grammar;
mod negatives;
mod scene;
mod shard;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use self::{
    accuracy::Accuracy,
    alt_text::{AltText, TextKind, is_junk},
    draw::{REFERENCE_SIZE, draw, draw_into},
    file::write_shard_file,
    generate::{SceneRng, sample},
    grammar::{descriptive, names_true_object, short},
    negatives::{Change, TRUE_PAIR, false_captions},
    scene::{GRID, MAX_OBJECTS, MAX_OFFSET, Object, Scene, SceneError},
    shard::{IMAGE_SIZE, JPEG_QUALITY, MAX_SAMPLES, MAX_SHARDS, ShardError, key, sample_index, write_shard},
    vocabulary::{Background, Colour, Shape, Size},
};
