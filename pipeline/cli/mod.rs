//! The command line: arguments in, exit code out.

mod args;
mod array;
mod caption;
mod config;
mod convert;
mod eval;
mod exit;
mod export;
mod filter;
mod finalize;
mod finetune;
mod inspect;
mod last_run;
mod logging;
mod plan;
mod preview;
mod pull;
mod report;
mod run;
mod run_args;
mod scenes;
mod status;
mod verify;
mod worker;

use std::{ffi::OsString, process::ExitCode as ProcessExit};

use clap::Parser;

use self::args::{Args, Command};
use crate::{demo, run::ExitCode, terminal::print_failed};

/// Parses the process's arguments and runs the command.
#[must_use]
pub fn main() -> ProcessExit {
    let (args, passed) = split_passthrough_args();
    let format = logging::init(args.log_format, args.log_level);
    let code = match dispatch(args.command, &passed, format) {
        Ok(code) => code,
        Err(error) => {
            logging::report(format, &error);
            exit::exit_code_of(&error)
        }
    };
    let code = if print_failed() { ExitCode::Failed } else { code };
    ProcessExit::from(code as u8)
}

/// Splits off the arguments after `finetune`, which clap must not see: it would take flags that this program has too.
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

fn dispatch(command: Command, passed: &[OsString], format: logging::Format) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => demo::demo(&args.dir, args.scenes, args.seed),
        Command::Scenes(args) => scenes::scenes(&args),
        Command::Pull(args) => pull::pull_model(&args),
        Command::Export(args) => export::export_model(&args),
        Command::Verify(args) => verify::verify_model(&args),
        Command::Preview(args) => preview::preview(&args, format),
        Command::Plan(args) => plan::plan_run(&args, format),
        Command::Run(args) => run::run_job(&args, format),
        Command::Worker(args) => worker::serve(&args),
        Command::Status(args) => status::show(&args, format),
        Command::Retry(args) => status::retry(&args, format),
        Command::Finalize(args) => finalize::finalize_output(&args, format),
        Command::Caption(args) => caption::caption(&args),
        Command::Eval(args) => eval::eval(&args, format),
        Command::Filter(args) => filter::filter(&args, format),
        Command::Report(args) => report::write_report(&args, format),
        Command::Convert(args) => convert::convert(&args, format),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Config(args) => config::print_config(&args.command),
        Command::Finetune => match finetune::hand_over(passed)? {},
    }
}
