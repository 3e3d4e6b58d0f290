//! ALBEF in burn (Li et al. 2021, "Align before Fuse"): the authors' `model_pretrain.py` without its losses, which
//! [`objective::albef`](crate::objective::albef) has.
//!
//! ```text
//! image -> ViT -> tokens, features      text -> BERT's first layers -> tokens, features
//!                    \-> BERT's other layers (cross-attention) <-/ -> match, words
//! ```
//!
//! A momentum copy of both encoders and queues of its features are parameters of the same list (see [`table`]), and change here
//! alone: [`Albef::update_momentum`], [`Albef::enqueue`].

mod bert;
mod config;
mod encoders;
mod modules;
pub mod table;
mod vit;

use burn::tensor::Tensor;

pub use self::{
    config::{AlbefConfig, AlbefSpecialIds, BertConfig},
    encoders::Encoders,
    modules::TextBatch,
};
use super::parameters::{Parameters, host};

/// Smallest and largest temperature, the authors'.
const TEMPERATURES: (f32, f32) = (0.001, 0.5);

/// An ALBEF: its configuration and its parameters, momentum copy and queues included.
#[derive(Clone, Debug)]
pub struct Albef {
    /// Sizes and options.
    pub config: AlbefConfig,
    /// The parameters, in the order of [`table::parameters`].
    pub parameters: Parameters,
}

impl Albef {
    /// Returns the trained encoders.
    #[must_use]
    pub fn encoders(&self) -> Encoders<'_> {
        Encoders::new(&self.parameters, &self.config, false)
    }

    /// Returns the momentum copy of the encoders.
    #[must_use]
    pub fn momentum_encoders(&self) -> Encoders<'_> {
        Encoders::new(&self.parameters, &self.config, true)
    }

    /// Returns the same model without autodiff.
    #[must_use]
    pub fn without_autodiff(&self) -> Self {
        Self { config: self.config.clone(), parameters: self.parameters.without_autodiff() }
    }

    /// Returns the temperature `[1]`.
    #[must_use]
    pub fn temperature(&self) -> Tensor<1> {
        self.parameters.vector(table::TEMPERATURE)
    }

    /// Clamps the temperature to 0.001 to 0.5.
    pub fn clamp_temperature(&mut self) {
        self.parameters.clamp(table::TEMPERATURE, TEMPERATURES.0, TEMPERATURES.1);
    }

    /// Moves the momentum copy: `copy * momentum + parameter * (1 - momentum)`.
    pub fn update_momentum(&mut self, momentum: f64) {
        let names: Vec<(String, String)> = (self.parameters.list().iter())
            .filter_map(|p| Some((p.name.clone(), table::copy_name(&p.name)?)))
            .collect();
        for (name, copy) in names {
            let new = self.parameters.vector(&name).without_autodiff() * (1.0 - momentum);
            let old = self.parameters.vector(&copy).without_autodiff();
            self.parameters.set(&copy, old * momentum + new);
        }
    }

    /// Replaces the oldest columns of both queues by features of the momentum copy, `[N, E]` each, and moves the position.
    ///
    /// The queue's size must be a multiple of N, as in the authors' code.
    pub fn enqueue(&mut self, images: Tensor<2>, texts: Tensor<2>) {
        let [count, width] = images.dims();
        let size = self.config.queue_size;
        let position = self.queue_position();
        for (name, features) in [(table::IMAGE_QUEUE, images), (table::TEXT_QUEUE, texts)] {
            let queue = self.parameters.vector(name).without_autodiff().reshape([width, size]);
            let queue = queue.slice_assign([0..width, position..position + count], features.transpose());
            self.parameters.set(name, queue.reshape([width * size]));
        }
        let next = ((position + count) % size) as f32;
        let device = self.temperature().without_autodiff().device();
        self.parameters.set(table::QUEUE_POSITION, Tensor::from_floats([next], &device));
    }

    /// Returns the column of the queues that the next feature replaces.
    #[must_use]
    pub fn queue_position(&self) -> usize {
        let position = host(&self.parameters.vector(table::QUEUE_POSITION));
        position.first().map_or(0, |at| *at as usize) % self.config.queue_size
    }

    /// Returns a queue `[E, Q]`, without autodiff.
    #[must_use]
    pub fn queue(&self, name: &str) -> Tensor<2> {
        self.parameters
            .vector(name)
            .without_autodiff()
            .reshape([self.config.embed_dim, self.config.queue_size])
    }
}
