//! `recaption finalize OUT`.

use std::path::PathBuf;

use recaption_output::{locate_output, open_output};
use recaption_store::Stores;

use super::{
    last_run::{absolute, configuring, enter, environment_stores},
    logging::Format,
    run_args::set_inputs,
};
use crate::{
    config::{ConfigError, Layers, RunConfig},
    finalize::{FinalizeJob, PageOptions, finalize},
    run::{ExitCode, LastRun, is_made_by_filter},
    runtime::on_runtime,
    terminal::print,
};

/// `recaption finalize`. Loads no model, and changes no row.
#[derive(Debug, clap::Args)]
pub(super) struct FinalizeArgs {
    /// Output of `recaption run`: folder or bucket prefix; by default output.url of --config.
    #[arg(value_name = "OUT", required_unless_present = "config")]
    output: Option<String>,
    /// Configuration of the run, where its record is missing because every process was killed. Else inputs and settings are
    /// those of the last run.
    #[arg(long, value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    /// Shards, where those of the last run had secrets in their URLs, which its record does not hold. May be repeated.
    #[arg(long, value_name = "URL")]
    input: Vec<String>,
    /// Sets any configuration key; the value is TOML, or else a string. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Write no OUT/report.html: the page reads all rows, and shards of the input for its images.
    #[arg(long)]
    no_report: bool,
    /// Show no images in the page, and read none.
    #[arg(long, conflicts_with = "no_report")]
    no_images: bool,
}

/// Finalizes an output and prints what was found.
pub(super) fn finalize_output(args: &FinalizeArgs, format: Format) -> anyhow::Result<ExitCode> {
    // Looked up before the directory changes.
    let named = args.output.as_deref().map(absolute).transpose()?;
    let (mut layers, origin) = match &args.config {
        Some(path) => {
            let mut layers = Layers::default();
            layers.add_file(path)?;
            layers.add_process_environment()?;
            (layers, path.display().to_string())
        }
        None => layers_of_last_run(named.as_deref().unwrap_or_default(), args.names_inputs())?,
    };
    for assignment in &args.set {
        layers.add_assignment(assignment)?;
    }
    set_inputs(&mut layers, &args.input)?;
    if layers.require("input.shards").is_err() {
        let what = "no record of a run that ended here has inputs; give the run's configuration as --config CONFIG.toml, or its inputs as --input URL";
        return Err(ConfigError::new(named.unwrap_or(origin), what.to_owned()).into());
    }
    if let Some(url) = named {
        layers.set("output.url", url, "OUT")?;
    }
    let config = RunConfig::build_requiring(&layers, &["output.url", "input.shards"])?;
    let job = FinalizeJob {
        origin: if args.input.is_empty() { origin } else { "--input".to_owned() },
        must_match: args.config.is_some(),
        page: (!args.no_report).then_some(PageOptions { images: !args.no_images }),
        config,
    };
    let mut stores = Stores::new(job.config.stores);
    let output = open_output(&mut stores, &job.config.output.url)?;
    let report = on_runtime(finalize(stores, output, &job))?;
    match format {
        Format::Text => print(&report.to_string()),
        Format::Json => print(&format!("{}\n", serde_json::to_string(&report)?)),
    }
    Ok(report.exit_code())
}

impl FinalizeArgs {
    /// Returns whether inputs are given, which are relative to this directory.
    fn names_inputs(&self) -> bool {
        let is_input = |assignment: &String| assignment.trim_start().starts_with("input.shards");
        !self.input.is_empty() || self.set.iter().any(is_input)
    }
}

/// Returns the settings of the last run; the environment's where no run has ended. Goes where the run was started, unless inputs
/// are given: no other setting that is used here is a path.
fn layers_of_last_run(output: &str, inputs_given: bool) -> anyhow::Result<(Layers, String)> {
    // Of an output that could not be written, no record is looked for.
    let place = locate_output(&mut environment_stores()?, output)?;
    let (last, is_filtered) = on_runtime(async {
        let last = match LastRun::find(&place).await? {
            Some(last) => Some(configuring(last, &place, !inputs_given).await?),
            None => None,
        };
        Ok((last, is_made_by_filter(&place).await?))
    })?;
    if let Some(last) = last {
        if !inputs_given {
            enter(&last);
        }
        return Ok((last.layers()?, format!("run {}", last.run)));
    }
    if is_filtered {
        let what = "it was made by `recaption filter`, which has nothing to finalize";
        return Err(ConfigError::new(place.url(), what.to_owned()).into());
    }
    let mut layers = Layers::default();
    layers.add_process_environment()?;
    Ok((layers, "the arguments".to_owned()))
}
