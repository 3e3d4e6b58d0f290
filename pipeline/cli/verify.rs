//! `recaption verify MODEL GOLDEN`.

use recaption_onnx::{
    ModelFolder,
    runtime::{Execution, SessionOptions},
    verify::{self, CheckStatus},
};

use super::args::VerifyArgs;
use crate::{
    config::{Layers, RunConfig},
    run::ExitCode,
    terminal::print,
};

/// Compares a model with reference tensors and prints a line for each.
pub(super) fn verify_model(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let model = ModelFolder::open(&args.model)?;
    let mut layers = Layers::default();
    args.provider.add_to(&mut layers)?;
    let config = RunConfig::build_requiring(&layers, &[])?.model;
    let execution = Execution::resolve(config.provider, config.devices.first(), &[&model])?;
    config.refuse_unwanted_cpu(&[execution])?;
    let options = SessionOptions { execution, ..SessionOptions::default() };
    let checks = verify::verify(&model, &args.golden, &options)?;
    for check in &checks {
        let word = match check.status {
            CheckStatus::Pass => "ok",
            CheckStatus::Fail => "FAIL",
            CheckStatus::Unchecked => "unchecked",
        };
        print(&format!("{word:<9} {:<15} {}\n", check.tensor, check.detail));
    }
    Ok(if verify::passed(&checks) { ExitCode::Done } else { ExitCode::Failed })
}
