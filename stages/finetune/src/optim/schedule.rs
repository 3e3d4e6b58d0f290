//! The learning rate by step.

use serde::{Deserialize, Serialize};

/// Linear warm-up, then cosine decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Highest learning rate, > 0.
    pub peak: f64,
    /// Number of steps until it is reached.
    pub warmup_steps: u64,
    /// Number of steps in all.
    pub steps: u64,
    /// Share of the peak at the last step, [0, 1]; 0 in the CoCa paper and LAION's training.
    pub final_ratio: f64,
}

impl Schedule {
    /// Returns the learning rate of step `step`, counted from 0 (open_clip's `cosine_lr`).
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let length = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / length).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        self.peak * (self.final_ratio + (1.0 - self.final_ratio) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_warms_up_then_decays_to_its_final_ratio() {
        let schedule = Schedule { peak: 1e-3, warmup_steps: 10, steps: 110, final_ratio: 0.1 };
        let close = |step: u64, want: f64| {
            let got = schedule.at(step);
            assert!((got - want).abs() < 1e-12, "step {step}: {got}, not {want}");
        };
        close(0, 1e-4);
        close(9, 1e-3);
        close(10, 1e-3);
        close(60, 0.55e-3);
        close(110, 1e-4);
        close(1000, 1e-4);
    }
}
