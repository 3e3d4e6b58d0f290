//! `recaption config reference|schema|metrics|show`.

use super::args::ConfigCommand;
use crate::{config, metrics, run::ExitCode, terminal::print};

/// Prints the reference, the schema, or the effective values.
pub(super) fn print_config(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Reference => print(&config::reference()),
        ConfigCommand::Schema => {
            print(&format!("{}\n", serde_json::to_string_pretty(config::description().schema())?));
        }
        ConfigCommand::Metrics => print(&metrics::reference()),
        ConfigCommand::Show(args) => print(&args.layers()?.show()),
    }
    Ok(ExitCode::Done)
}
