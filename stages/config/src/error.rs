//! The error of a configuration.

use recaption_schemas::redact_text;

/// What is wrong with the configuration, and where it was set. Ends a program with the exit code of wrong usage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {what}")]
pub struct ConfigError {
    /// File, environment variable or flag.
    pub origin: String,
    /// What is wrong and what would be right.
    pub what: String,
}

impl ConfigError {
    /// Makes an error. Secrets of URLs are left out of both texts, which quote values.
    #[must_use]
    pub fn new(origin: impl Into<String>, what: impl Into<String>) -> Self {
        Self { origin: redact_text(&origin.into()), what: redact_text(&what.into()) }
    }
}
