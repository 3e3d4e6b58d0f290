//! The command line: arguments in, exit code out.

mod args;
mod caption;
mod eval;
mod filter;
mod finetune;
mod inspect;
pub mod logging;
mod run_args;
mod scenes;
mod status;

use std::{
    ffi::OsString,
    io::Write,
    process::ExitCode as ProcessExit,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use clap::Parser;
use recaption_input::shards::ListError;
use recaption_onnx::{
    ModelFolder, Precision, export,
    runtime::{Execution, SessionOptions},
    verify::{self, Outcome},
};
use recaption_schemas::printable;
use recaption_store::StoreError;

use self::{
    args::{Args, Command, ConfigCommand, ExportArgs, VerifyArgs},
    run_args::RunArgs,
};
use crate::{
    config::{self, ConfigError, Layers, RunConfig},
    demo::{self, DemoHost},
    run::{self, ExitCode, LockedOut, Mismatch, Reporter, RunOptions, RunReport, Stop},
};

/// Parses the process's arguments and does what they say.
#[must_use]
pub fn main() -> ProcessExit {
    let (args, passed) = split_passthrough_args();
    let format = logging::init(args.log_format, args.log_level);
    let code = match dispatch(args.command, &passed, format) {
        Ok(code) => code,
        Err(error) => {
            logging::report(format, &error);
            exit_code_of(&error)
        }
    };
    let code = if UNPRINTED.load(Ordering::Relaxed) { ExitCode::Failed } else { code };
    ProcessExit::from(code as u8)
}

/// The arguments, and what stands behind `finetune`. clap does not see the latter: it would take flags that are also ours.
fn split_passthrough_args() -> (Args, Vec<OsString>) {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    if let Some(at) = words.iter().position(|word| word == finetune::WORD)
        && let Ok(args) = Args::try_parse_from(&words[..=at])
        && matches!(args.command, Command::Finetune)
    {
        return (args, words.split_off(at + 1));
    }
    (Args::parse(), Vec::new())
}

/// Bad arguments and configuration are told apart from everything else.
fn exit_code_of(error: &anyhow::Error) -> ExitCode {
    let usage = error.chain().any(|cause| {
        cause.is::<ConfigError>()
            || cause.is::<Mismatch>()
            || matches!(cause.downcast_ref::<StoreError>(), Some(StoreError::Url { .. }))
            || matches!(
                cause.downcast_ref::<ListError>(),
                Some(
                    ListError::Pattern { .. }
                        | ListError::Nothing { .. }
                        | ListError::Collision(..)
                        | ListError::Ambiguous(_)
                ) | Some(ListError::Store(StoreError::Url { .. }))
            )
    });
    if usage { ExitCode::Usage } else { ExitCode::Failed }
}

fn dispatch(command: Command, passed: &[OsString], format: logging::Format) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => {
            let run = |config: &RunConfig, options| run_to_end(config, options, Reporter::Auto);
            let host = DemoHost { print: &print, run: &run };
            demo::demo(&args.dir, args.scenes, args.seed, &host)
        }
        Command::Scenes(args) => scenes::scenes(&args),
        Command::Export(args) => export_model(&args),
        Command::Verify(args) => verify_model(&args),
        Command::Run(args) => run_job(&args, format),
        Command::Status(args) => status::show(&args, format),
        Command::Retry(args) => status::retry(&args, format),
        Command::Caption(args) => caption::caption(&args),
        Command::Eval(args) => eval::eval(&args, format),
        Command::Filter(args) => filter::filter(&args, format),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Config(args) => print_config(&args.command),
        Command::Finetune => match finetune::hand_over(passed)? {},
    }
}

/// Whether something could not be printed.
static UNPRINTED: AtomicBool = AtomicBool::new(false);

/// Prints to stdout. A reader that went away is no error of ours; a full disk is one, and makes the exit code 1.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(printable(text).as_bytes()).and_then(|()| out.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
        && !UNPRINTED.swap(true, Ordering::Relaxed)
    {
        tracing::error!(%error, "stdout cannot be written");
    }
}

fn export_model(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let precision = match args.precision {
        args::PrecisionArg::Fp32 => Precision::Fp32,
        args::PrecisionArg::Fp16 => Precision::Fp16,
        args::PrecisionArg::Int8 => Precision::Int8,
    };
    let model = export(&args.checkpoint, &args.out, precision)?;
    let bytes: u64 = model.spec.files.iter().map(|f| f.size).sum();
    print(&format!(
        "{}: {} parameters, {precision}, {:.1} MB, digest {}\n",
        args.out.display(),
        model.spec.parameters,
        bytes as f64 / 1e6,
        &model.digest[..16]
    ));
    if !model.has_tokenizer() {
        tracing::warn!("the checkpoint has no tokenizer.json: `verify` works, `run` and `caption` need one");
    }
    Ok(ExitCode::Done)
}

fn verify_model(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let model = ModelFolder::open(&args.model)?;
    let mut layers = Layers::default();
    args.provider.add_to(&mut layers)?;
    let config = RunConfig::build_requiring(&layers, &[])?.model;
    let execution = Execution::resolve(config.provider, config.devices.first(), &[&model])?;
    config.refuse_unwanted_cpu(&[execution])?;
    let options = SessionOptions { execution, ..SessionOptions::default() };
    let checks = verify::verify(&model, &args.golden, &options)?;
    for check in &checks {
        let word = match check.outcome {
            Outcome::Pass => "ok",
            Outcome::Fail => "FAIL",
            Outcome::Unchecked => "unchecked",
        };
        print(&format!("{word:<9} {:<15} {}\n", check.tensor, check.detail));
    }
    Ok(if verify::passed(&checks) { ExitCode::Done } else { ExitCode::Failed })
}

/// Prints the reference, the schema, or the effective values.
fn print_config(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Reference => print(&config::reference()),
        ConfigCommand::Schema => {
            print(&format!("{}\n", serde_json::to_string_pretty(config::description().schema())?));
        }
        ConfigCommand::Show(args) => print(&args.layers()?.show()),
    }
    Ok(ExitCode::Done)
}

fn run_job(args: &RunArgs, format: logging::Format) -> anyhow::Result<ExitCode> {
    let config = RunConfig::build(&args.layers()?)?;
    finish_run(&config, args.options(), format)
}

/// Runs a job and tells how it ended.
fn finish_run(config: &RunConfig, options: RunOptions, format: logging::Format) -> anyhow::Result<ExitCode> {
    let report = match run_to_end(config, options, Reporter::Auto) {
        Err(error) if error.is::<LockedOut>() => {
            tracing::info!("{error}");
            return Ok(ExitCode::Done);
        }
        report => report?,
    };
    match format {
        logging::Format::Text => print(&report.to_string()),
        logging::Format::Json => print(&format!("{}\n", serde_json::to_string(&report)?)),
    }
    Ok(report.exit_code())
}

/// Runs a job on a runtime of its own, with signal handlers.
pub(crate) fn run_to_end(
    config: &RunConfig,
    options: RunOptions,
    reporter: Reporter,
) -> anyhow::Result<RunReport> {
    on_runtime(async {
        let stop = Arc::new(Stop::default());
        run::install_signal_handlers(&stop).context("cannot install signal handlers")?;
        run::run(config, options, &stop, &reporter).await
    })
}

/// Does `work` on a runtime that does not wait, in the end, for what hangs: an open of a file that never comes back.
pub(crate) fn on_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}
