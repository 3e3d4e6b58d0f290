//! What a provider lacks, and what to do about it.

/// A requirement of a provider that is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// What is missing, without a full stop.
    pub(super) missing: String,
    /// What to do about it, a sentence.
    pub(super) remedy: String,
}

impl Problem {
    pub(super) fn new(missing: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { missing: missing.into(), remedy: remedy.into() }
    }
}

/// Returns all problems and their remedies as sentences.
pub(super) fn join_problems(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("{}. {}", p.missing, p.remedy)).collect::<Vec<_>>().join(" ")
}
