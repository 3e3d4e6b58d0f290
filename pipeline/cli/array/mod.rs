//! Flags of array jobs, and what they mean together with the environment: `--task-index`, `--task-count`, `--steal`.

mod environment;
#[cfg(test)]
mod tests;

use environment::{Detected, Variable, detect, number};

use crate::{config::ConfigError, run::ArrayTask};

/// Stands for `--task-count` where the flag is not given.
const COUNT_VARIABLE: &str = "RECAPTION_TASK_COUNT";

/// Which task of an array job this process is.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(super) struct ArrayArgs {
    /// Number of this task in an array job, from 0 to --task-count - 1; without it the environment of Slurm, AWS Batch, Cloud
    /// Run or Kubernetes tells.
    #[arg(long, value_name = "I")]
    pub task_index: Option<u32>,
    /// Number of tasks in the array job; 1 turns the detection of array jobs off. Also RECAPTION_TASK_COUNT.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub task_count: Option<u32>,
    /// Help with the shards of other tasks once this task's own are done [default: true].
    #[arg(long, value_name = "BOOL")]
    pub steal: Option<bool>,
}

/// Flags of a run that concern one process, and that an array job cannot have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Exclusive {
    pub(super) limit: bool,
    pub(super) lock: bool,
}

impl Exclusive {
    /// Returns the first flag that is set, and why it does not go with an array job.
    fn first(self) -> Option<(&'static str, &'static str)> {
        if self.lock {
            return Some(("--lock", "all tasks but one would exit at once"));
        }
        self.limit.then_some(("--limit", "every task would read that many samples; use --sample"))
    }
}

/// What flags and environment mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolved {
    /// No array job, or one of a single task.
    Alone,
    /// The flags name the task.
    Given(ArrayTask),
    /// This scheduler's environment names the task.
    Detected(ArrayTask, &'static str),
    /// This scheduler's environment names a task, which does not go with this flag.
    Ignored(&'static str, &'static str),
}

impl ArrayArgs {
    /// Returns the task that this process is, `None` outside of array jobs, and logs what was detected.
    ///
    /// # Errors
    /// Half of the flags, an index that is not below the count, flags that an array job cannot have, variables that are no
    /// numbers.
    pub(super) fn resolve(self, exclusive: Exclusive) -> Result<Option<ArrayTask>, ConfigError> {
        let resolved = self.resolve_with(exclusive, &|name| std::env::var(name).ok())?;
        Ok(match resolved {
            Resolved::Alone => None,
            Resolved::Given(task) => {
                let ArrayTask { index, count, steal } = task;
                tracing::info!(index, count, steal, "task of an array job");
                Some(task)
            }
            Resolved::Detected(task, scheduler) => {
                let ArrayTask { index, count, steal } = task;
                tracing::info!(
                    scheduler,
                    index,
                    count,
                    steal,
                    "array job detected: this task's share of the shards comes first; --task-count 1 turns this off"
                );
                Some(task)
            }
            Resolved::Ignored(scheduler, flag) => {
                tracing::info!(
                    scheduler,
                    flag,
                    "array job detected and ignored: the flag concerns one process"
                );
                None
            }
        })
    }

    fn resolve_with(self, exclusive: Exclusive, variable: Variable<'_>) -> Result<Resolved, ConfigError> {
        let steal = self.steal.unwrap_or(true);
        let (count, origin) = self.count(variable)?;
        let is_explicit = self.task_index.is_some() || self.task_count.is_some() || !steal;
        let (index, count, scheduler) = match (self.task_index, count) {
            (Some(index), Some(count)) => (u64::from(index), count, None),
            (Some(index), None) => {
                let what =
                    format!("the number of tasks is missing: give --task-count with --task-index {index}");
                return Err(ConfigError::new("--task-index", what));
            }
            // Turned off.
            (None, Some(1)) => return Ok(Resolved::Alone),
            (None, count) => match (detect(variable)?, count) {
                (Some(detected), count) => {
                    let (index, count) = detected.task(count, steal)?;
                    (index, count, Some(detected))
                }
                (None, Some(count)) => {
                    let what = format!(
                        "which of the {count} tasks this is is missing: give --task-index, or leave {origin} out"
                    );
                    return Err(ConfigError::new(origin, what));
                }
                (None, None) if !steal => {
                    let what = "without stealing, shards are left to the other tasks of an array job, and this is none: give \
                                --task-index and --task-count";
                    return Err(ConfigError::new("--steal", what));
                }
                (None, None) => return Ok(Resolved::Alone),
            },
        };
        if index >= count {
            return Err(out_of_range(index, count, scheduler.as_ref()));
        }
        if count == 1 {
            return Ok(Resolved::Alone);
        }
        match (exclusive.first(), &scheduler) {
            (Some((flag, _)), Some(detected)) if !is_explicit => {
                return Ok(Resolved::Ignored(detected.scheduler, flag));
            }
            (Some((flag, why)), _) => {
                return Err(ConfigError::new(flag, format!("it does not go with an array job: {why}")));
            }
            (None, _) => {}
        }
        let narrow = |n: u64| u32::try_from(n).map_err(|_| too_large(n));
        let task = ArrayTask { index: narrow(index)?, count: narrow(count)?, steal };
        Ok(scheduler.map_or(Resolved::Given(task), |detected| Resolved::Detected(task, detected.scheduler)))
    }

    /// Returns the number of tasks, and what gave it.
    fn count(self, variable: Variable<'_>) -> Result<(Option<u64>, &'static str), ConfigError> {
        if let Some(count) = self.task_count {
            return Ok((Some(count.into()), "--task-count"));
        }
        match number(variable, COUNT_VARIABLE)? {
            Some(0) => Err(ConfigError::new(COUNT_VARIABLE, "an array job has at least one task")),
            count => Ok((count, COUNT_VARIABLE)),
        }
    }
}

fn out_of_range(index: u64, count: u64, detected: Option<&Detected>) -> ConfigError {
    let origin = detected.map_or("--task-index", |detected| detected.variable);
    let what = format!(
        "task {index} of {count} does not exist: the index counts from 0 and is below the number of tasks"
    );
    ConfigError::new(origin, what)
}

fn too_large(number: u64) -> ConfigError {
    ConfigError::new("--task-count", format!("{number} tasks are too many"))
}
