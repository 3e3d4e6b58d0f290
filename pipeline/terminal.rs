//! The process's terminal: progress bars, and what is printed around them.

use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressDrawTarget};

/// Progress bars of the process. Log lines are printed above them.
pub static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5)));
