//! The `recaption-finetune` program.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use recaption_config::Settings;
use recaption_finetune::{
    config::{ConfigError, Recipe, reference},
    device::DeviceError,
    run::{RecipeMismatch, StopSignal, TrainOptions, TrainOutcome, TrainedModel, stderr_above_bars, train},
};
use recaption_input::shards::ListError;
use tracing_subscriber::{filter::LevelFilter, fmt};

/// Trains or fine-tunes a captioner by a recipe, and writes it in open_clip's format and as verified ONNX graphs.
/// The same command continues a run that was stopped or killed.
#[derive(Parser)]
#[command(name = "recaption-finetune", version)]
struct Args {
    /// Recipe, TOML.
    #[arg(required_unless_present_any = ["reference", "schema"])]
    recipe: Option<PathBuf>,
    /// Sets any key of the recipe, such as optimizer.lr=1e-5; the value is TOML, or else a string. May be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    #[arg(long, value_name = "FOLDER", help = Recipe::description().help("run.out"))]
    out: Option<PathBuf>,
    /// Delete the checkpoints of another recipe in the output folder, and start from the beginning.
    #[arg(long)]
    overwrite: bool,
    /// Print the effective value of every key, and where each was set; do not train.
    #[arg(long)]
    show: bool,
    /// Print all keys with default, range and meaning, as Markdown.
    #[arg(long, exclusive = true)]
    reference: bool,
    /// Print the JSON schema (draft 2020-12) of a recipe.
    #[arg(long, exclusive = true)]
    schema: bool,
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
                cause.is::<ConfigError>()
                    || cause.is::<RecipeMismatch>()
                    || cause.is::<DeviceError>()
                    || matches!(
                        cause.downcast_ref(),
                        Some(ListError::Pattern { .. } | ListError::NoMatch { .. })
                    )
            });
            ExitCode::from(if usage { USAGE } else { FAILED })
        }
    }
}

fn run(args: &Args, terminal: bool) -> anyhow::Result<ExitCode> {
    if args.reference {
        print!("{}", reference());
    } else if args.schema {
        println!("{}", serde_json::to_string_pretty(Recipe::description().schema())?);
    }
    let Some(path) = &args.recipe else { return Ok(ExitCode::SUCCESS) };
    let layers = Recipe::layers(path, &args.set, args.out.as_deref())?;
    if args.show {
        print!("{}", layers.show());
        return Ok(ExitCode::SUCCESS);
    }
    let recipe = Recipe::build(&layers)?;
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
