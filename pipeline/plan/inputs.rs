//! The inputs of a run, listed; what cannot be listed or found is a problem, and the rest is planned.

use recaption_input::shards::{ListError, ShardRef, list_shards};
use recaption_schemas::redact_text;
use recaption_store::Stores;

use super::problem::{Findings, Subject};
use crate::config::RunConfig;

/// What to do about inputs that are not there.
const REMEDY: &str = "correct input.shards, or make the input readable";

/// Lists the shards of all patterns. A pattern that cannot be listed is a problem, and the others are listed without it.
pub(super) async fn list_inputs(
    stores: &mut Stores,
    config: &RunConfig,
    findings: &mut Findings,
) -> Vec<ShardRef> {
    let (patterns, format) = (&config.input.shards, config.input.read.format);
    if patterns.is_empty() {
        return Vec::new();
    }
    let error = match list_shards(stores, patterns, format).await {
        Ok(shards) => return looked_up(shards, findings),
        Err(error) => error,
    };
    let mut usable = Vec::new();
    if patterns.len() > 1 {
        for pattern in patterns {
            match list_shards(stores, std::slice::from_ref(pattern), format).await {
                Ok(_) => usable.push(pattern.clone()),
                Err(error) => add(&error, findings),
            }
        }
    }
    // Patterns that are fine alone need not be fine together.
    if usable.len() == patterns.len() || usable.is_empty() {
        add(&error, findings);
        return Vec::new();
    }
    match list_shards(stores, &usable, format).await {
        Ok(shards) => looked_up(shards, findings),
        Err(error) => {
            add(&error, findings);
            Vec::new()
        }
    }
}

fn add(error: &ListError, findings: &mut Findings) {
    let place = match error {
        ListError::Pattern { pattern, .. } | ListError::NoMatch { pattern, .. } => pattern.clone(),
        ListError::AllUnavailable { url, .. } | ListError::Ambiguous(url) => url.clone(),
        ListError::Store(error) => super::output::parts_of(error).0,
        ListError::Collision(first, _) => first.clone(),
    };
    findings.add(Subject::Input, place, redact_text(&error.to_string()), REMEDY);
}

/// Adds a problem for each shard that was not found, and returns all.
fn looked_up(shards: Vec<ShardRef>, findings: &mut Findings) -> Vec<ShardRef> {
    let failed: Vec<(String, String)> = shards
        .iter()
        .filter_map(|shard| Some((shard.url.clone(), shard.lookup_error()?.message.clone())))
        .collect();
    findings.add_many(Subject::Input, &failed, REMEDY);
    shards
}
