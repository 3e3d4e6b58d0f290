//! Logs on stderr, as text or JSON, around the progress bar and not through it.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use recaption_schemas::{printable, redact_text};
use recaption_store::is_client_error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::terminal::BARS;

/// `--log-format`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum FormatArg {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `--log-level`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LevelArg {
    /// Errors only.
    Error,
    /// And warnings.
    Warn,
    /// And progress.
    Info,
    /// And details.
    Debug,
    /// Everything.
    Trace,
}

/// The format in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Writes a whole line above the bars, without the secrets of the URLs in it.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let redacted = redact_text(&String::from_utf8_lossy(line));
        BARS.suspend(|| io::stderr().write_all(redacted.as_bytes())).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Installs the logger; returns the format of reports on stdout. Without `--log-format`, logs are text where stderr is a
/// terminal, and reports are text where stdout or stderr is one; JSON otherwise.
pub(super) fn init(chosen: Option<FormatArg>, level: LevelArg) -> Format {
    let terminal = io::stderr().is_terminal();
    let format = match chosen {
        Some(FormatArg::Text) => Format::Text,
        Some(FormatArg::Json) => Format::Json,
        None if terminal => Format::Text,
        None => Format::Json,
    };
    let level = match level {
        LevelArg::Error => LevelFilter::ERROR,
        LevelArg::Warn => LevelFilter::WARN,
        LevelArg::Info => LevelFilter::INFO,
        LevelArg::Debug => LevelFilter::DEBUG,
        LevelArg::Trace => LevelFilter::TRACE,
    };
    let filter = Targets::new()
        // Below `info`, HTTP clients log parts of URLs, secrets included.
        .with_default(level.min(LevelFilter::INFO))
        .with_target("recaption", level)
        // The runtime's binding reports every step of its own at `info`.
        .with_target("ort", level.min(LevelFilter::WARN));
    let layer = tracing_subscriber::fmt::layer().with_writer(|| AboveBars).with_target(false);
    // A second logger in one process (tests) is no reason to fail.
    let _ = match format {
        Format::Text => tracing_subscriber::registry()
            .with(filter)
            .with(layer.with_ansi(terminal).without_time())
            .try_init(),
        Format::Json => {
            tracing_subscriber::registry().with(filter).with(layer.json().flatten_event(true)).try_init()
        }
    };
    let report = match chosen {
        None if io::stdout().is_terminal() => Format::Text,
        _ => format,
    };
    // A library's panic is logged like any other event; the sample that it costs is a reject.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("a panic without a message");
        tracing::warn!(place, panic = what, "a panic was caught");
    }));
    report
}

/// Reports the error that ends the program, with its causes.
pub(super) fn report(format: Format, error: &anyhow::Error) {
    let text = with_causes(error);
    match format {
        Format::Text => {
            // As one piece: a URL in pieces would not be known as one.
            let _ = AboveBars.write_all(format!("error: {}\n", printable(&text)).as_bytes());
        }
        Format::Json => tracing::error!(error = text, "failed"),
    }
}

/// Formats an error and its causes. Many libraries repeat a cause in the error above it; each is printed once.
pub(super) fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        // Its wrapper has put it into one line.
        if !text.is_empty() && is_client_error(cause) {
            break;
        }
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::with_causes;

    #[test]
    fn repeated_cause_is_printed_once() {
        let error = anyhow!("no such bucket").context("listing: no such bucket").context("cannot begin");
        assert_eq!(with_causes(&error), "cannot begin: listing: no such bucket");
    }
}
