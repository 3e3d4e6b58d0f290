//! CoCa, CLIP, BLIP and ALBEF models on ONNX Runtime: a checkpoint is exported to ONNX graphs, and the graphs caption and score images.
//!
//! [`CaptionModel`] is the whole path from images to captions:
//!
//! ```no_run
//! use recaption_onnx::CaptionModel;
//!
//! let mut model = CaptionModel::open("model")?;
//! let image = std::fs::read("cat.jpg")?;
//! println!("{}", model.caption(&image)?.text);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The modules follow the data flow: [`checkpoint`] reads a checkpoint, [`mod@export`] writes the graphs, [`model`] is the
//! folder that holds them, [`runtime`] runs them, [`caption`] generates token ids, [`tokenizer`] turns ids into text.
//! [`mod@verify`], [`mod@self_test`] and [`caption_comparison`] check that results are right. Nothing here is asynchronous or
//! reads from object stores; a caller owns a model on a thread of its own.

// `unsafe` is denied workspace-wide; only `runtime::assignment` allows it.

pub mod bundled;
pub mod caption;
pub mod caption_comparison;
mod caption_model;
pub mod checkpoint;
mod clean;
pub mod export;
pub mod model;
#[rustfmt::skip]
#[allow(unreachable_pub, reason = "generated code")]
pub(crate) mod proto;
#[cfg(test)]
mod corrupt_models;
pub mod runtime;
pub mod self_test;
pub mod tokenizer;
pub mod verify;

pub use bundled::Bundled;
pub use caption_model::{Caption, CaptionError, CaptionModel, CaptionOptions, ImageInput};
pub use export::{ExportError, export};
pub use model::{ModelError, ModelFolder, ModelSpec, Precision};
