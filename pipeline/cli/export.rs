//! `recaption export --checkpoint DIR|hf://ORG/NAME --out MODEL`.

use recaption_onnx::{Precision, export};

use super::args::{ExportArgs, PrecisionArg};
use crate::{run::ExitCode, terminal::print};

/// Exports a checkpoint and prints what was made.
pub(super) fn export_model(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let precision = match args.precision {
        PrecisionArg::Fp32 => Precision::Fp32,
        PrecisionArg::Fp16 => Precision::Fp16,
        PrecisionArg::Int8 => Precision::Int8,
    };
    let model = export(&args.checkpoint.resolve()?, &args.out, precision)?;
    let bytes: u64 = model.spec.files.iter().map(|f| f.size).sum();
    print(&format!(
        "{}: {} parameters, {precision}, {:.1} MB, digest {}\n",
        args.out.display(),
        model.spec.parameters,
        bytes as f64 / 1e6,
        &model.digest[..16]
    ));
    if !model.has_tokenizer() {
        tracing::warn!(
            "the checkpoint has no tokenizer.json, nor vocab.json and merges.txt (of a BLIP or ALBEF: nor vocab.txt): `verify` works, `run` and `caption` need one"
        );
    }
    Ok(ExitCode::Done)
}
