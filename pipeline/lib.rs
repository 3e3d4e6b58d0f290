//! Recaption: image shards in, captions out. This crate is the program: command line, configuration, wiring.
//!
//! Crates and data flow are described in `docs/src/architecture.md`. What a run does is in [`mod@run`], what a second
//! pass over its output does in [`mod@filter`], what a conversion of it does in [`mod@convert`], how
//! good captions are in [`mod@evaluate`], what a run shows Prometheus in [`mod@metrics`]; `recaption worker` is in `worker`; the stages are the crates below
//! `stages/`, the models in `recaption_onnx`, the output's types in `recaption_schemas`.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod convert;
pub mod demo;
pub mod evaluate;
pub mod filter;
pub(crate) mod finalize;
pub mod metrics;
pub mod plan;
pub mod preview;
pub(crate) mod pull;
pub(crate) mod report;
pub mod run;
pub(crate) mod runtime;
pub mod scenes;
pub(crate) mod terminal;
pub(crate) mod worker;
