//! The `recaption-finetune` program.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use recaption_config::Settings;
use recaption_finetune::{
    config::{ConfigError, Recipe, reference},
    device::{self, DeviceError},
    run::{
        RecipeMismatch, StopSignal, TrainOptions, TrainOutcome, TrainedModel, compare_albef, measure_pairs,
        stderr_above_bars, train,
    },
};
use recaption_input::shards::ListError;
use tracing_subscriber::{filter::LevelFilter, fmt};

/// Trains or fine-tunes a captioner (CoCa) or a scorer (ALBEF) by a recipe, and writes it in open_clip's format, an ALBEF under its
/// authors' names, and as verified ONNX graphs.
/// The same command continues a run that was stopped or killed.
#[derive(Parser)]
#[command(name = "recaption-finetune", version)]
struct Args {
    /// Recipe, TOML.
    #[arg(required_unless_present_any = ["reference", "schema", "golden", "pairs"])]
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
    /// Compare losses and gradients of the ALBEF in --checkpoint with a golden file of a training step; do not train.
    #[arg(long, value_name = "FILE", requires = "checkpoint", conflicts_with = "recipe")]
    golden: Option<PathBuf>,
    /// Print how well the models in --checkpoint tell true captions of these shards from false ones, per kind of change, as
    /// AUC; do not train. The shards are those of `recaption scenes --caption pairs`. May be repeated.
    #[arg(long, value_name = "SHARDS", requires = "checkpoint", conflicts_with_all = ["recipe", "golden"])]
    pairs: Vec<String>,
    /// Fail if the AUC of matching over all changes is below this.
    #[arg(long, value_name = "AUC", requires = "pairs")]
    min_auc: Option<f64>,
    /// Directory of the model that --golden or --pairs is about; of a CoCa for --pairs alone. May be repeated for --pairs.
    #[arg(long, value_name = "FOLDER")]
    checkpoint: Vec<PathBuf>,
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
    if let Some(golden) = &args.golden {
        let [checkpoint] = args.checkpoint.as_slice() else {
            anyhow::bail!("--golden takes one --checkpoint")
        };
        return compare(checkpoint, golden);
    }
    if !args.pairs.is_empty() {
        return measure(args);
    }
    let Some(path) = &args.recipe else { return Ok(ExitCode::SUCCESS) };
    let layers = Recipe::layers(path, &args.set, args.out.as_deref())?;
    if args.show {
        print!("{}", layers.show());
        return Ok(ExitCode::SUCCESS);
    }
    let recipe = Recipe::build(&layers)?;
    let options = TrainOptions { overwrite: args.overwrite, terminal };
    let runtime = runtime()?;
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

/// Prints a verdict per loss and gradient.
fn compare(checkpoint: &Path, golden: &Path) -> anyhow::Result<ExitCode> {
    let checks = compare_albef(checkpoint, golden)?;
    checks.iter().for_each(|check| println!("{check}"));
    let failed = checks.iter().filter(|check| !check.passed).count();
    if failed > 0 {
        eprintln!("error: {failed} of {} comparisons failed", checks.len());
    }
    Ok(ExitCode::from(if failed > 0 { FAILED } else { 0 }))
}

/// Prints the AUCs of models on pairs.
fn measure(args: &Args) -> anyhow::Result<ExitCode> {
    let device = device::open(device::CPU)?.inner();
    let report = runtime()?.block_on(measure_pairs(&args.checkpoint, &args.pairs, &device))?;
    print!("{report}");
    let Some(wanted) = args.min_auc else { return Ok(ExitCode::SUCCESS) };
    let auc = report.least_overall("ITM").context("--min-auc is about matching, which only an ALBEF has")?;
    if auc < wanted {
        eprintln!("error: the AUC of matching is {auc:.4}, below {wanted}");
    }
    Ok(ExitCode::from(if auc < wanted { FAILED } else { 0 }))
}

/// Starts the runtime.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().context("cannot start the runtime")
}

fn print_trained(trained: &TrainedModel) {
    println!("model     {} (step {})", trained.model.display(), trained.step);
    println!("ONNX      {}", trained.onnx.display());
    for check in &trained.checks {
        println!("          {check}");
    }
    if let Some(v) = trained.validation {
        let matching = v.matching.map_or(String::new(), |loss| format!("matching {loss:.4}, "));
        println!(
            "held out  {} samples: contrastive {:.4}, {matching}caption {:.4}, exact {:.2} %",
            v.samples,
            v.contrastive,
            v.caption,
            100.0 * v.exact
        );
    }
}
