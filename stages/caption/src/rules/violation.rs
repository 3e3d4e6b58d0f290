//! Rules that a caption violated, as rejects describe them.

use std::fmt;

/// A rule that a text violates. Displays as `rules.max_words = 12 (the caption has 15 words)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleViolation {
    /// The rule's configuration key.
    pub rule: &'static str,
    /// The rule's value.
    pub setting: String,
    /// What the text has instead.
    pub detail: String,
}

impl fmt::Display for RuleViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.rule, self.setting, self.detail)
    }
}

/// Describes a sample none of whose candidates may be chosen: the rules with their counts, then the best candidate's violation.
///
/// `violations` has one rule per candidate, best candidate first; empty gives an empty text.
#[must_use]
pub fn describe_violations(violations: &[RuleViolation]) -> String {
    let Some(first) = violations.first() else { return String::new() };
    if violations.len() == 1 {
        return first.to_string();
    }
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for rule in violations.iter().map(|violation| violation.rule) {
        match counts.iter_mut().find(|(name, _)| *name == rule) {
            Some((_, n)) => *n += 1,
            None => counts.push((rule, 1)),
        }
    }
    let counts: Vec<String> = counts.into_iter().map(|(rule, n)| format!("{rule} {n}")).collect();
    format!("all {} candidates break a rule: {}; the best: {first}", violations.len(), counts.join(", "))
}
