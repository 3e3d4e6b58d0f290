//! Objectives. That of CoCa (Yu et al. 2022) is lambda_con times InfoNCE plus lambda_cap times cross-entropy of the caption, in one
//! forward pass; ALBEF's stands in [`albef`].

mod accumulate;
pub mod albef;
mod losses;

pub use self::{
    accumulate::{StepGradients, gradients},
    losses::{Losses, Weights, cross_entropy, info_nce, losses},
};
