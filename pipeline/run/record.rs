//! The report of a run, which is also its record in `_recaption/runs/`.

use std::collections::BTreeMap;

use recaption_schemas::{Counts, FailureClass};
use recaption_store::{Location, StoreError, write_json};
use serde::Serialize;

use super::{
    ArrayTask, DeviceReport, Devices, RunModel, SelfTest,
    plan::Plan,
    progress::{Progress, StageReport, bottleneck},
};
use crate::config::{ExplicitSettings, RunConfig};

/// Exit codes, a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Everything is done, also when there was nothing to do.
    Done = 0,
    /// The run failed, or was interrupted with work left.
    Failed = 1,
    /// Bad arguments or configuration.
    Usage = 2,
    /// Finished, but shards failed or were damaged in this run.
    Incomplete = 3,
    /// Finished, and every failure left is of a shard that failed the same way before: permanent.
    Permanent = 4,
}

impl ExitCode {
    /// All codes.
    pub const ALL: [Self; 5] = [Self::Done, Self::Failed, Self::Usage, Self::Incomplete, Self::Permanent];

    /// Returns the name in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Incomplete => "incomplete",
            Self::Permanent => "permanent",
        }
    }

    /// Returns whether a scheduler should start the same command again, a limited number of times.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Failed | Self::Incomplete)
    }
}

/// A shard that failed.
#[derive(Clone, Debug, Serialize)]
pub struct FailedShard {
    /// URL, redacted.
    pub shard: String,
    /// Data or transport.
    pub class: FailureClass,
    /// Why.
    pub error: String,
    /// How many runs met this.
    pub attempts: u32,
    /// Whether it failed the same way before, at the same input, and not in transport.
    pub permanent: bool,
}

/// Totals of a run.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Id of the run: time and process.
    pub run: String,
    /// Recaption's version.
    pub version: &'static str,
    /// URL of the output, redacted.
    pub output: String,
    /// Captioner's digest.
    pub model: String,
    /// Name of the captioner's folder.
    pub model_name: String,
    /// Scorer's digest, where it is not the captioner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scorer: Option<String>,
    /// What computed, where anything was to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<&'static str>,
    /// What each GPU did, or the CPU.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceReport>,
    /// What each stage did, from the first shard on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageReport>,
    /// What worked in the busiest stage, for which the others waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bottleneck: Option<&'static str>,
    /// What is known about a device that is not the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_test: Option<SelfTest>,
    /// In an array job, which task of it this was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<ArrayTask>,
    /// Working directory: relative paths start here.
    pub directory: String,
    /// Keys that were set, by file, environment or flag.
    pub explicit_settings: ExplicitSettings,
    /// Keys that change rows.
    pub configuration: BTreeMap<String, String>,
    /// Start, RFC 3339.
    pub started: String,
    /// End, RFC 3339.
    pub finished: String,
    /// Seconds.
    pub seconds: f64,
    /// Shards that an earlier run had done.
    pub shards_skipped: usize,
    /// Shards committed by this run.
    pub shards_done: usize,
    /// Shards that another worker committed while this one ran.
    pub shards_done_by_others: usize,
    /// Shards that this run computed too, though another worker committed them first.
    pub shards_done_twice: usize,
    /// Shards that were done and are processed again, because their record or a part was invalid.
    pub shards_repaired: Vec<String>,
    /// Files of unfinished attempts that were removed.
    pub leftovers_removed: usize,
    /// Shards committed by this run that could be read only in part.
    pub shards_damaged: Vec<String>,
    /// Shards that were not selected: beyond `--limit` or `--sample`, in another task's share, not modified since `--since`, or
    /// with nothing to retry.
    pub shards_not_selected: usize,
    /// Shards of the output that are no longer among the inputs, by name.
    pub shards_orphaned: Vec<String>,
    /// Whether their rows were removed.
    pub retired: bool,
    /// Shards that failed.
    pub shards_failed: Vec<FailedShard>,
    /// Shards that were not begun or not finished because the run was interrupted.
    pub shards_incomplete: usize,
    /// Where the samples of this run's shards went.
    pub counts: Counts,
    /// Retried requests to stores; retries by the cloud clients themselves are not counted.
    pub requests_retried: u64,
    /// Decoders that panicked: each cost one sample, and is a defect of a library.
    pub decoder_panics: u64,
    /// Whether the run was asked to stop.
    pub interrupted: bool,
    #[serde(skip)]
    clock: std::time::Instant,
    #[serde(skip)]
    planned: usize,
}

impl RunReport {
    /// At the start of a run.
    #[must_use]
    pub fn begin(config: &RunConfig, model: &RunModel, output: &Location, plan: &Plan) -> Self {
        Self {
            configuration: plan.configuration.clone(),
            shards_skipped: plan.done.len(),
            shards_repaired: plan.repaired.clone(),
            shards_not_selected: plan.not_selected,
            shards_orphaned: sorted(plan.orphans.keys()),
            planned: plan.todo.len(),
            ..Self::begin_without_plan(config, model, output)
        }
    }

    /// At the start of a worker, which learns of its shards one by one.
    #[must_use]
    pub(crate) fn begin_without_plan(config: &RunConfig, model: &RunModel, output: &Location) -> Self {
        let now = chrono::Utc::now();
        Self {
            run: format!("{}-{:08x}", now.format("%Y%m%dT%H%M%S%3fZ"), std::process::id()),
            version: env!("CARGO_PKG_VERSION"),
            output: output.url(),
            model: model.folder.digest.clone(),
            model_name: model.name(),
            scorer: model.scorer.as_ref().map(|scorer| scorer.digest.clone()),
            provider: None,
            devices: Vec::new(),
            stages: Vec::new(),
            bottleneck: None,
            self_test: None,
            task: None,
            directory: std::env::current_dir()
                .map_or_else(|_| String::new(), |dir| dir.display().to_string()),
            explicit_settings: config.explicit_settings.clone(),
            configuration: model.row_keys(config),
            started: now.to_rfc3339(),
            finished: String::new(),
            seconds: 0.0,
            shards_skipped: 0,
            shards_done: 0,
            shards_done_by_others: 0,
            shards_done_twice: 0,
            shards_repaired: Vec::new(),
            leftovers_removed: 0,
            shards_damaged: Vec::new(),
            shards_not_selected: 0,
            shards_orphaned: Vec::new(),
            retired: false,
            shards_failed: Vec::new(),
            shards_incomplete: 0,
            counts: Counts::default(),
            requests_retried: 0,
            decoder_panics: 0,
            interrupted: false,
            clock: std::time::Instant::now(),
            planned: 0,
        }
    }

    /// Ends the report of a worker that was asked for shards that it did not process.
    pub(crate) fn end_with(&mut self, stopped: usize) {
        self.planned = self.ended() + stopped;
    }

    fn ended(&self) -> usize {
        self.shards_done + self.shards_done_by_others + self.shards_failed.len()
    }

    /// Counts shards that were not begun because of `--limit` as not selected.
    pub fn leave_out(&mut self, shards: usize) {
        self.planned = self.planned.saturating_sub(shards);
        self.shards_not_selected += shards;
    }

    /// Remembers what computed, and where the time went.
    pub fn computed_by(&mut self, devices: &Devices, progress: &Progress) {
        self.provider = devices.all().first().map(|device| device.execution.as_str());
        self.devices = devices.report();
        self.stages = progress.stage_reports();
        self.bottleneck = bottleneck(&self.stages).map(|worst| worst.stage.worker());
    }

    /// Writes the record and closes the clock.
    ///
    /// # Errors
    /// When the output refuses.
    pub async fn write(&mut self, output: &Location) -> Result<(), StoreError> {
        self.finished = chrono::Utc::now().to_rfc3339();
        self.seconds = self.clock.elapsed().as_secs_f64();
        self.shards_incomplete = self.planned.saturating_sub(self.ended());
        self.interrupted &= self.shards_incomplete > 0;
        write_json(&output.child("_recaption/runs").child(&format!("{}.json", self.run)), self).await
    }

    /// Devices that failed, while others went on.
    fn devices_failed(&self) -> impl Iterator<Item = &DeviceReport> {
        self.devices.iter().filter(|device| device.error.is_some())
    }

    /// The exit code that this report means.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        let permanent = self.shards_failed.iter().all(|f| f.permanent);
        if self.shards_incomplete > 0 {
            ExitCode::Failed
        } else if !self.shards_damaged.is_empty() || !permanent || self.devices_failed().next().is_some() {
            ExitCode::Incomplete
        } else if !self.shards_failed.is_empty() {
            ExitCode::Permanent
        } else {
            ExitCode::Done
        }
    }
}

/// Shards without an input that are named.
const MAX_LISTED: usize = 10;

fn sorted<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = names.cloned().collect();
    names.sort();
    names
}

impl RunReport {
    /// Writes where the time went.
    fn fmt_stages(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let has_samples = self.stages.iter().any(|stage| stage.samples > 0);
        if let Some(worst) = bottleneck(&self.stages).filter(|_| has_samples) {
            let stage = |report: &StageReport| format!("{} {}", report.stage.as_str(), percent(report.busy));
            let stages: Vec<String> = self.stages.iter().map(stage).collect();
            writeln!(f, "busy      {}", stages.join(", "))?;
            writeln!(f, "bottleneck {} ({} busy)", worst.stage.worker(), percent(worst.busy))?;
        }
        Ok(())
    }

    /// Writes notes that follow the totals.
    fn fmt_notes(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.shards_not_selected > 0 {
            let others = if self.task.is_some_and(|task| !task.steal) { "other tasks' shares, " } else { "" };
            writeln!(
                f,
                "note      {} shards not selected ({others}--limit, --sample, --since, or nothing to retry)",
                self.shards_not_selected
            )?;
        }
        if self.shards_done_by_others > 0 {
            writeln!(f, "note      {} shards were done by another worker", self.shards_done_by_others)?;
        }
        if self.shards_done_twice > 0 {
            writeln!(
                f,
                "note      {} shards were processed here too, though another worker committed them first",
                self.shards_done_twice
            )?;
        }
        for shard in self.shards_repaired.iter().take(MAX_LISTED) {
            writeln!(f, "redone    {shard}")?;
        }
        if self.shards_repaired.len() > MAX_LISTED {
            writeln!(f, "          and {} more", self.shards_repaired.len() - MAX_LISTED)?;
        }
        if self.leftovers_removed > 0 {
            writeln!(f, "note      {} files of dead workers were removed", self.leftovers_removed)?;
        }
        if !self.shards_orphaned.is_empty() {
            let n = self.shards_orphaned.len();
            let what = if self.retired {
                "retired: their inputs are gone, and so are their rows"
            } else {
                "of the output are no longer among the inputs; `--retire` removes their rows"
            };
            writeln!(f, "note      {n} shards {what}")?;
            for shard in self.shards_orphaned.iter().take(MAX_LISTED) {
                writeln!(f, "          {shard}")?;
            }
            if n > MAX_LISTED {
                writeln!(f, "          and {} more", n - MAX_LISTED)?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for RunReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let c = &self.counts;
        let rate = if self.seconds > 0.0 { c.read as f64 / self.seconds } else { 0.0 };
        writeln!(
            f,
            "shards    {} done, {} skipped, {} failed, {} damaged{}",
            self.shards_done,
            self.shards_skipped,
            self.shards_failed.len(),
            self.shards_damaged.len(),
            if self.shards_incomplete > 0 {
                format!(", {} incomplete", self.shards_incomplete)
            } else {
                String::new()
            }
        )?;
        writeln!(f, "samples   {} read = {} captioned + {} rejected", c.read, c.captioned, c.rejected)?;
        for (reason, n) in &c.reasons {
            writeln!(f, "          {n:>8} {reason}")?;
        }
        write!(f, "{}", c.input)?;
        writeln!(f, "time      {:.1} s, {rate:.1} images/s", self.seconds)?;
        self.fmt_stages(f)?;
        if self.devices.len() > 1 {
            for device in &self.devices {
                let (number, rate) = (device.device.unwrap_or_default(), device.images_per_second);
                writeln!(f, "gpu {number:<6}{} images, {rate:.1} images/s", device.images)?;
            }
        }
        for device in self.devices_failed() {
            let (number, error) =
                (device.device.unwrap_or_default(), device.error.as_deref().unwrap_or_default());
            writeln!(f, "failed    GPU {number}: {error}")?;
        }
        for shard in &self.shards_damaged {
            writeln!(f, "damaged   {shard}")?;
        }
        for failed in &self.shards_failed {
            let note = if failed.permanent {
                format!(" (permanent: failed {} times)", failed.attempts)
            } else {
                String::new()
            };
            writeln!(f, "failed    {}{note}", failed.error)?;
        }
        self.fmt_notes(f)?;
        writeln!(f, "model     {} ({})", self.model_name, self.model.get(..16).unwrap_or_default())?;
        writeln!(f, "output    {}", self.output)?;
        if self.interrupted {
            writeln!(f, "interrupted: the same command continues where this one stopped")?;
        }
        Ok(())
    }
}
