//! CUDA graphs: a step whose shapes and addresses stay the same is captured once and replayed, which saves kernel launches.
//!
//! Slots are allocated in powers of two and keep their addresses until their number changes. A step is captured after enough
//! steps over the same slots; ONNX Runtime then runs it several times, which is harmless: a step writes the same positions of
//! the caches. Captured steps cannot be freed, so their number is bounded.

use ort::session::{IoBinding, RunOptions, Session};

/// ONNX Runtime's run option for the number of a captured graph, -1 to neither capture nor replay.
const GRAPH_ID: &str = "gpu_graph_id";
/// Steps over the same slots before one is captured.
const STEPS_BEFORE_CAPTURE: usize = 4;
/// Largest number of captured steps per decoder.
const MAX_CAPTURES: usize = 16;

/// Decides which steps are captured and replayed.
#[derive(Debug)]
pub(super) struct Replay {
    enabled: bool,
    /// Steps since the slots' addresses changed.
    steps: usize,
    captures: usize,
}

impl Replay {
    /// Starts without captured steps; `enabled` means that the session was created for CUDA graphs.
    pub(super) fn new(enabled: bool) -> Self {
        Self { enabled, steps: 0, captures: 0 }
    }

    /// Returns whether steps are captured at all.
    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Starts over after the slots' addresses changed, which invalidates captured steps.
    pub(super) fn restart(&mut self) {
        self.steps = 0;
    }

    /// Returns the number of the captured graph that the next step uses, or -1.
    fn next_id(&mut self) -> i64 {
        self.steps += 1;
        if self.steps == STEPS_BEFORE_CAPTURE + 1 {
            self.captures += 1;
        }
        let captured = self.steps > STEPS_BEFORE_CAPTURE && self.captures <= MAX_CAPTURES;
        if captured { self.captures as i64 } else { -1 }
    }

    /// Runs one step.
    pub(super) fn run(&mut self, session: &mut Session, binding: &IoBinding) -> ort::Result<()> {
        if !self.enabled {
            return session.run_binding(binding).map(drop);
        }
        let mut options = RunOptions::new()?;
        options.set(GRAPH_ID, self.next_id().to_string())?;
        session.run_binding_with_options(binding, &options).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_captured_once_they_repeat() {
        let mut replay = Replay::new(true);
        let ids: Vec<i64> = (0..STEPS_BEFORE_CAPTURE + 3).map(|_| replay.next_id()).collect();
        assert_eq!(ids[..STEPS_BEFORE_CAPTURE], [-1; STEPS_BEFORE_CAPTURE]);
        assert_eq!(ids[STEPS_BEFORE_CAPTURE..], [1, 1, 1]);
        replay.restart();
        assert_eq!(replay.next_id(), -1, "new addresses");
        for _ in 1..STEPS_BEFORE_CAPTURE {
            replay.next_id();
        }
        assert_eq!(replay.next_id(), 2, "another capture");
    }

    #[test]
    fn captures_are_bounded() {
        let mut replay = Replay::new(true);
        let mut largest = 0;
        for _ in 0..2 * MAX_CAPTURES {
            replay.restart();
            largest =
                (0..2 * STEPS_BEFORE_CAPTURE).map(|_| replay.next_id()).max().max(Some(largest)).unwrap_or(0);
        }
        assert_eq!(largest, MAX_CAPTURES as i64);
        replay.restart();
        assert!((0..100).all(|_| replay.next_id() == -1));
    }
}
