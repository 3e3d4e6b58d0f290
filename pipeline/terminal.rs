//! The process's terminal: progress bars, and what is printed around them.

use std::{
    io::Write,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use indicatif::{MultiProgress, ProgressDrawTarget};
use recaption_schemas::printable;

/// Progress bars of the process. Log lines are printed above them.
pub(crate) static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5)));

/// Whether something could not be printed.
static PRINT_FAILED: AtomicBool = AtomicBool::new(false);

/// Prints to stdout. A closed pipe is ignored; any other error is logged once, and [`print_failed`] reports it.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(printable(text).as_bytes()).and_then(|()| out.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
        && !PRINT_FAILED.swap(true, Relaxed)
    {
        tracing::error!(%error, "stdout cannot be written");
    }
}

/// Returns whether something could not be printed. The program then exits with code 1.
pub(crate) fn print_failed() -> bool {
    PRINT_FAILED.load(Relaxed)
}
