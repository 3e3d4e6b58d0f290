//! `Encoded -> Candidates`: decoding strategies over one decoder, with continuous batching.
//!
//! `captioner` owns the image encoder and the `generator`, which owns the decoder and the slots; `settings` says what is wanted; `draws` (greedy and sampling) and `beam` are
//! what one image's rows do, pure and without a model: they pose questions, and `select` answers them where the logits are;
//! `sample` and `row` are the arithmetic on one row of logits on the host.

mod beam;
mod captioner;
mod draws;
mod generator;
mod random;
mod row;
mod sample;
mod select;
mod settings;

pub use captioner::{BatchEncoder, Captioner};
pub use generator::{Admission, Generated, Generator, Timings};
pub use random::image_seed;
pub use row::best_token;
pub use select::NextToken;
pub use settings::{BeamSettings, CaptionSettings, EarlyStopping, SampleSettings, Strategy};

/// One caption of an image, as ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Generated ids without start token and prompt; with the end token, unless a beam ran out of places.
    pub ids: Vec<i64>,
    /// Sum of the model's own log-probabilities of `ids`; natural logarithm, <= 0.
    pub logprob: f32,
}
