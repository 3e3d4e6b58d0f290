//! The `recaption-finetune` program.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use recaption_finetune::{
    config::{Recipe, RecipeError},
    device::DeviceError,
    run::{Ended, Mismatch, Options, Stop, train},
};
use recaption_input::shards::ListError;
use tracing_subscriber::{filter::LevelFilter, fmt};

/// Trains or fine-tunes the captioner by a recipe: a CoCa in open_clip's format comes out, exported to ONNX and verified.
/// A run that was stopped or killed goes on with the same command.
#[derive(Parser)]
#[command(name = "recaption-finetune", version)]
struct Args {
    /// The recipe, TOML.
    recipe: PathBuf,
    /// Changes a key: `--set optimizer.lr=1e-5`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Folder of everything that the run writes; the recipe's `run.out` otherwise.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Begin anew where another recipe has left checkpoints.
    #[arg(long)]
    overwrite: bool,
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let terminal = std::io::stderr().is_terminal();
    let level = if terminal { LevelFilter::WARN } else { LevelFilter::INFO };
    fmt().with_writer(std::io::stderr).with_max_level(level).with_ansi(terminal).with_target(false).init();
    match work(&args, terminal) {
        Ok(code) => code,
        Err(error) => {
            // Chains say where and why; secrets of URLs never get that far.
            eprintln!("error: {}", recaption_schemas::redact_text(&format!("{error:#}")));
            let usage = error.chain().any(|cause| {
                cause.is::<RecipeError>()
                    || cause.is::<Mismatch>()
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

fn work(args: &Args, terminal: bool) -> anyhow::Result<ExitCode> {
    let mut changes = args.set.clone();
    changes.extend(args.out.as_ref().map(|out| format!("run.out={:?}", out.display().to_string())));
    let recipe = Recipe::read(&args.recipe, &changes)?;
    let options = Options { overwrite: args.overwrite, terminal };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let stop = Stop::default();
    let ended = runtime.block_on(async {
        stop.listen().context("cannot install signal handlers")?;
        train(&recipe, options, &stop).await
    })?;
    Ok(match ended {
        Ended::Done(finished) => {
            println!("model     {} (step {})", finished.model.display(), finished.step);
            println!("ONNX      {}", finished.onnx.display());
            for check in &finished.checks {
                println!("          {check}");
            }
            if let Some(v) = finished.validation {
                println!(
                    "held out  {} samples: contrastive {:.4}, caption {:.4}, exact {:.2} %",
                    v.samples,
                    v.contrastive,
                    v.caption,
                    100.0 * v.exact
                );
            }
            ExitCode::SUCCESS
        }
        Ended::Stopped(step) => {
            println!("stopped behind step {step}; the same command goes on");
            ExitCode::from(FAILED)
        }
    })
}
