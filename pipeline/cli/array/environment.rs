//! Array jobs in the environment: what schedulers tell the processes that they start.
//!
//! | scheduler | index | count |
//! |---|---|---|
//! | Slurm | (`SLURM_ARRAY_TASK_ID` - `_MIN`) / `_STEP` | `SLURM_ARRAY_TASK_COUNT` |
//! | AWS Batch | `AWS_BATCH_JOB_ARRAY_INDEX` | `AWS_BATCH_JOB_ARRAY_SIZE` |
//! | Cloud Run | `CLOUD_RUN_TASK_INDEX` | `CLOUD_RUN_TASK_COUNT` |
//! | Kubernetes | `JOB_COMPLETION_INDEX` | not told |
//!
//! The first of them that is set counts. Kubernetes comes last: the others run inside of it, and not the other way round.

use crate::config::ConfigError;

/// Returns the value of an environment variable, if it is set.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The task of an array job that a scheduler's environment names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Detected {
    /// The scheduler's name.
    pub(super) scheduler: &'static str,
    /// The variable that has the index.
    pub(super) variable: &'static str,
    /// Number of the task, from 0.
    pub(super) index: u64,
    /// Number of tasks, where the scheduler tells it.
    pub(super) count: Option<u64>,
    /// Whether indices below the count are missing, as in Slurm's `--array=1,5,6`.
    pub(super) has_gaps: bool,
}

impl Detected {
    /// Returns index and count, with the count that was given, if any.
    ///
    /// # Errors
    /// A count that neither the scheduler nor the user tells; a list of tasks with gaps whose shares nobody would do.
    pub(super) fn task(&self, given: Option<u64>, steal: bool) -> Result<(u64, u64), ConfigError> {
        let Some(count) = given.or(self.count) else {
            let what = format!(
                "{} does not tell how many tasks its array job has: give --task-count, or set RECAPTION_TASK_COUNT; \
                 --task-count 1 where this is none",
                self.scheduler
            );
            return Err(ConfigError::new(self.variable, what));
        };
        if self.has_gaps && given.is_none() && !steal {
            let what = "the array's task numbers have gaps, and without stealing nobody would do the shares that lie there: \
                        give --task-index and --task-count";
            return Err(ConfigError::new(self.variable, what));
        }
        Ok((self.index, count))
    }
}

/// Detects the task of an array job.
///
/// # Errors
/// A variable that is no number, or numbers that contradict each other.
pub(super) fn detect(variable: Variable<'_>) -> Result<Option<Detected>, ConfigError> {
    if let Some(slurm) = slurm(variable)? {
        return Ok(Some(slurm));
    }
    let simple = [
        ("AWS Batch", "AWS_BATCH_JOB_ARRAY_INDEX", Some("AWS_BATCH_JOB_ARRAY_SIZE")),
        ("Cloud Run", "CLOUD_RUN_TASK_INDEX", Some("CLOUD_RUN_TASK_COUNT")),
        ("Kubernetes", "JOB_COMPLETION_INDEX", None),
    ];
    for (scheduler, index, count) in simple {
        let variable_of_index = index;
        let Some(index) = number(variable, index)? else { continue };
        let count = match count {
            Some(name) => number(variable, name)?,
            None => None,
        };
        let detected = Detected { scheduler, variable: variable_of_index, index, count, has_gaps: false };
        return Ok(Some(detected));
    }
    Ok(None)
}

/// Detects a task of a Slurm array. Its numbers begin anywhere and have a step: `--array=1-7:2%4` has the tasks 1, 3, 5 and 7, of
/// which 4 run at a time. In a list such as `--array=1,5,6`, tasks between the first and the last are missing.
fn slurm(variable: Variable<'_>) -> Result<Option<Detected>, ConfigError> {
    const ID: &str = "SLURM_ARRAY_TASK_ID";
    let Some(id) = number(variable, ID)? else { return Ok(None) };
    let first = number(variable, "SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
    let last = number(variable, "SLURM_ARRAY_TASK_MAX")?;
    let step = number(variable, "SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
    let count = number(variable, "SLURM_ARRAY_TASK_COUNT")?;
    let Some(offset) = id.checked_sub(first) else {
        let what = format!("task {id} lies before SLURM_ARRAY_TASK_MIN = {first}");
        return Err(ConfigError::new(ID, what));
    };
    // A step that the numbers do not have is none.
    let is_regular = |span: u64| span.is_multiple_of(step);
    let step = if is_regular(offset) && last.is_none_or(|last| is_regular(last.saturating_sub(first))) {
        step
    } else {
        1
    };
    let places = last.map(|last| last.saturating_sub(first) / step + 1);
    let has_gaps = matches!((places, count), (Some(places), Some(count)) if places != count);
    let count = places.or(count);
    Ok(Some(Detected { scheduler: "Slurm", variable: ID, index: offset / step, count, has_gaps }))
}

/// Reads a variable that has a number from 0 on; `None` where it is not set or empty.
///
/// # Errors
/// Anything else.
pub(super) fn number(variable: Variable<'_>, name: &'static str) -> Result<Option<u64>, ConfigError> {
    let Some(text) = variable(name).filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| {
        let what = format!(
            "`{text}` is no task number; correct it, give --task-index and --task-count, or --task-count 1 where this is no \
             array job"
        );
        ConfigError::new(name, what)
    })
}
