//! Where variables of the environment come from.

use std::sync::Arc;

/// Returns the value of an environment variable, if it is set.
pub type EnvLookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// An [`EnvLookup`] that is borrowed for one call.
pub(crate) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;
