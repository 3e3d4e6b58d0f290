//! The objective of ALBEF (Li et al. 2021, section 3; the authors' `model_pretrain.py`): contrast of images and texts over queues
//! of momentum features (ITC), matching of pairs against hard negatives (ITM), and masked words (MLM), with the momentum copy's
//! predictions as soft labels of share alpha.
//!
//! ```text
//! clamp temperature -> move momentum copy -> per part: momentum features -> targets -> ITC -> draw negatives -> ITM -> MLM
//!                                         -> gradients, averaged over the parts -> enqueue all momentum features
//! ```
//!
//! A part of a batch is what one of the authors' processes computes: its own negatives and contrast, the shared queue, gradients
//! averaged over all parts.

mod evaluate;
mod groups;
mod losses;
mod masking;
mod negatives;
mod step;

pub use self::{
    evaluate::{Evaluation, evaluate},
    losses::{AlbefInputs, AlbefLosses, losses},
    masking::{IGNORED_LABEL, MaskedTexts, mask_texts},
    negatives::{Negatives, draw_negatives},
    step::{AlbefSettings, alpha_at, gradients},
};
