//! The `recaption-finetune` program.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use recaption_finetune::{
    config::{Recipe, RecipeError},
    device::DeviceError,
    run::{RecipeMismatch, StopSignal, TrainOptions, TrainOutcome, TrainedModel, stderr_above_bars, train},
};
use recaption_input::shards::ListError;
use tracing_subscriber::{filter::LevelFilter, fmt};

/// Train or fine-tune a captioner by a recipe: writes a CoCa in open_clip's format, its ONNX export and its card.
/// A run that was stopped or killed continues with the same command.
#[derive(Parser)]
#[command(name = "recaption-finetune", version)]
struct Args {
    /// Recipe (TOML)
    recipe: PathBuf,
    /// Set a key of the recipe, as in `--set optimizer.lr=1e-5`; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Output folder; overrides the recipe's `run.out`
    #[arg(long)]
    out: Option<PathBuf>,
    /// Start over where another recipe has left checkpoints
    #[arg(long)]
    overwrite: bool,
}

/// Exit code of a failure or of a run that was stopped.
const FAILED: u8 = 1;
/// Exit code of an invalid recipe or argument.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let terminal = std::io::stderr().is_terminal();
    let level = if terminal { LevelFilter::WARN } else { LevelFilter::INFO };
    fmt().with_writer(stderr_above_bars).with_max_level(level).with_ansi(terminal).with_target(false).init();
    match run(&args, terminal) {
        Ok(code) => code,
        Err(error) => {
            // Secrets of URLs are redacted.
            eprintln!("error: {}", recaption_schemas::redact_text(&format!("{error:#}")));
            let usage = error.chain().any(|cause| {
                cause.is::<RecipeError>()
                    || cause.is::<RecipeMismatch>()
                    || cause.is::<DeviceError>()
                    || matches!(
                        cause.downcast_ref(),
                        Some(ListError::Pattern { .. } | ListError::Nothing { .. })
                    )
            });
            ExitCode::from(if usage { USAGE } else { FAILED })
        }
    }
}

fn run(args: &Args, terminal: bool) -> anyhow::Result<ExitCode> {
    let mut changes = args.set.clone();
    changes.extend(args.out.as_ref().map(|out| format!("run.out={:?}", out.display().to_string())));
    let recipe = Recipe::read(&args.recipe, &changes)?;
    let options = TrainOptions { overwrite: args.overwrite, terminal };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let stop = StopSignal::default();
    let outcome = runtime.block_on(async {
        stop.listen().context("cannot install signal handlers")?;
        train(&recipe, options, &stop).await
    })?;
    Ok(match outcome {
        TrainOutcome::Finished(trained) => {
            print_trained(&trained);
            ExitCode::SUCCESS
        }
        TrainOutcome::Stopped(step) => {
            println!("stopped after step {step}; the same command continues");
            ExitCode::from(FAILED)
        }
    })
}

fn print_trained(trained: &TrainedModel) {
    println!("model     {} (step {})", trained.model.display(), trained.step);
    println!("ONNX      {}", trained.onnx.display());
    for check in &trained.checks {
        println!("          {check}");
    }
    if let Some(v) = trained.validation {
        println!(
            "held out  {} samples: contrastive {:.4}, caption {:.4}, exact {:.2} %",
            v.samples,
            v.contrastive,
            v.caption,
            100.0 * v.exact
        );
    }
}
