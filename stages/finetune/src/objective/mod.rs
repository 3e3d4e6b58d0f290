//! The objective of CoCa (Yu et al. 2022): lambda_con times InfoNCE plus lambda_cap times cross-entropy of the caption, in one
//! forward pass.

mod accumulate;
mod losses;

pub use self::{
    accumulate::{StepGradients, gradients},
    losses::{Losses, Weights, cross_entropy, info_nce, losses},
};
