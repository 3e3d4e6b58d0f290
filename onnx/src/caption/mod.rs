//! Decoding captions: which token comes next, and which images share a step.

mod captioner;
mod next_token;

pub use captioner::{CaptionSettings, Captioner, Generated};
pub use next_token::{NextToken, best_token};
