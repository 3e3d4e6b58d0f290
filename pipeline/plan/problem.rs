//! What would make a run fail, collected instead of ending at the first.

use serde::Serialize;

/// Most problems of one kind that are listed; the rest is counted.
const MAX_LISTED: usize = 10;

/// What a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Keys, flags, and the record of a preview.
    Configuration,
    /// A model folder, or a setting that does not suit it.
    Model,
    /// ONNX Runtime, its execution provider, or a device.
    Provider,
    /// An input.
    Input,
    /// The output.
    Output,
    /// Memory.
    Memory,
    /// Disk space.
    Disk,
}

impl Subject {
    /// Returns the name in texts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Input => "input",
            Self::Output => "output",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// Something that would make a run fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is about.
    pub subject: Subject,
    /// The model, shard, output or setting, redacted.
    pub place: String,
    /// What is wrong, and why.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// The problems so far, and notes on what is no problem.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<String>,
}

impl Findings {
    /// Adds a problem.
    pub(super) fn add(
        &mut self,
        subject: Subject,
        place: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let problem = Problem { subject, place: place.into(), what: what.into(), remedy: remedy.into() };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Adds problems that many shards have, the first of them by name.
    pub(super) fn add_many(&mut self, subject: Subject, found: &[(String, String)], remedy: &str) {
        for (place, what) in found.iter().take(MAX_LISTED) {
            self.add(subject, place, what, remedy);
        }
        if found.len() > MAX_LISTED {
            let more = found.len() - MAX_LISTED;
            self.add(subject, format!("{more} more"), "the same kind of problem", remedy);
        }
    }

    /// Adds a note.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// Returns an error with its causes in one line, each once.
pub(super) fn text_of(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        if !text.is_empty() && recaption_store::is_client_error(cause) {
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
    use super::*;

    #[test]
    fn long_lists_of_problems_end_with_a_count() {
        let mut findings = Findings::default();
        let found: Vec<_> = (0..25).map(|n| (format!("{n}.tar"), "gone".to_owned())).collect();
        findings.add_many(Subject::Input, &found, "look");
        assert_eq!(findings.problems.len(), 11);
        assert_eq!(findings.problems[10].place, "15 more");
    }
}
