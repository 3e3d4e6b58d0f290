//! Progress on a terminal: a bar of steps, the losses with their curve, the last validation.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::LazyLock,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::metrics_line::{MetricsLine, TrainLine, ValidationLine};

/// Number of points of the curve.
const CURVE_POINTS: usize = 60;

/// The bars of the process; log lines are printed above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Returns a writer that prints whole lines on stderr above the progress bars.
pub fn stderr_above_bars() -> impl Write {
    AboveBars
}

struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write_all(line)).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// What a run is going to show, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgressPlan {
    /// Number of steps in all.
    pub(super) steps: u64,
    /// Number of steps between numbers of training.
    pub(super) log_every: u64,
    /// Number of steps between validations; `None` without held-out data.
    pub(super) validate_every: Option<u64>,
}

/// The progress bars of a run. They disappear when dropped.
pub(super) struct ProgressBars {
    steps: ProgressBar,
    losses: ProgressBar,
    validation: ProgressBar,
    curve: VecDeque<f64>,
}

impl ProgressBars {
    /// Shows the bars, with the steps at which the first numbers come.
    pub(super) fn new(plan: ProgressPlan) -> Self {
        let style =
            |text: &str| ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar());
        let steps = style("steps       {wide_bar} {pos}/{len}  {elapsed} elapsed, {eta} left");
        let steps = BARS.add(ProgressBar::new(plan.steps).with_style(steps));
        let row = || ProgressBar::no_length().with_style(style("{prefix:<11} {wide_msg}"));
        let (losses, validation) = (BARS.add(row()), BARS.add(row()));
        losses.set_prefix("training");
        losses.set_message(first_numbers(plan.log_every, plan.steps));
        validation.set_prefix("validation");
        validation.set_message(match plan.validate_every {
            Some(every) => first_numbers(every, plan.steps),
            None => "none: the recipe has no data.validation".to_owned(),
        });
        Self { steps, losses, validation, curve: VecDeque::new() }
    }

    /// Shows the number of steps done.
    pub(super) fn set_step(&self, step: u64) {
        self.steps.set_position(step);
    }

    /// Shows a line of metrics.
    pub(super) fn show(&mut self, line: &MetricsLine) {
        match line {
            MetricsLine::Train(line) => self.show_losses(line),
            MetricsLine::Validation(line) => self.show_validation(line),
        }
    }

    fn show_losses(&mut self, l: &TrainLine) {
        self.curve.push_back(l.contrastive_loss + l.caption_loss + l.matching_loss.unwrap_or(0.0));
        if self.curve.len() > CURVE_POINTS {
            self.curve.pop_front();
        }
        self.losses.set_message(format!(
            "contrastive {:.4}  caption {:.4}{}  gradient {:.2}  lr {:.1e}  {:.0} samples/s  {}",
            l.contrastive_loss,
            l.caption_loss,
            matching(l.matching_loss),
            l.gradient_norm,
            l.lr,
            l.samples_per_second,
            sparkline(&self.curve)
        ));
    }

    fn show_validation(&self, l: &ValidationLine) {
        self.validation.set_message(format!(
            "step {}: contrastive {:.4}  caption {:.4}{}  exact {:.1} %{}",
            l.step,
            l.contrastive_loss,
            l.caption_loss,
            matching(l.matching_loss),
            100.0 * l.exact,
            if l.best { "  (best)" } else { "" }
        ));
    }
}

impl Drop for ProgressBars {
    fn drop(&mut self) {
        for bar in [&self.steps, &self.losses, &self.validation] {
            bar.finish_and_clear();
            BARS.remove(bar);
        }
    }
}

/// Formats the matching loss, which only ALBEF has.
fn matching(loss: Option<f64>) -> String {
    loss.map_or(String::new(), |loss| format!("  matching {loss:.4}"))
}

/// Says when the first numbers of a row come.
fn first_numbers(every: u64, steps: u64) -> String {
    format!("first numbers after step {}", every.min(steps))
}

/// Draws values as blocks of eight heights.
fn sparkline(values: &VecDeque<f64>) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let height = |v: &f64| ((v - low) / (high - low).max(1e-12) * 7.0).round().clamp(0.0, 7.0) as usize;
    values.iter().map(|v| BLOCKS[height(v)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_when_first_numbers_come() {
        let bars =
            |validate_every| ProgressBars::new(ProgressPlan { steps: 40, log_every: 50, validate_every });
        let with = bars(Some(20));
        assert_eq!(with.losses.message(), "first numbers after step 40", "a shorter run logs its last step");
        assert_eq!(with.validation.message(), "first numbers after step 20");
        assert_eq!(bars(None).validation.message(), "none: the recipe has no data.validation");
    }

    #[test]
    fn sparkline_spans_all_heights() {
        assert_eq!(sparkline(&VecDeque::from([0.0, 3.5, 7.0])), "▁▅█");
        assert_eq!(sparkline(&VecDeque::from([2.0, 2.0])), "▁▁");
        assert_eq!(sparkline(&VecDeque::new()), "");
    }
}
