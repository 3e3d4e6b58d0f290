//! Errors of a run that the user resolves by another recipe.

use std::path::Path;

use serde_json::Value;

use crate::config::Recipe;

/// Key on which the schedule of the learning rate depends.
const STEPS: &str = "optimizer.steps";

/// A recipe that differs from the one that the checkpoints in its folder were made with.
#[derive(Debug, thiserror::Error)]
#[error(
    "{out}: checkpoints were made with other settings: {keys}; choose another `run.out`, or pass --overwrite to start over{hint}"
)]
pub struct RecipeMismatch {
    /// The run's folder.
    pub out: String,
    /// Keys that differ, with both values.
    pub keys: String,
    /// What to do about these keys, as a clause, or empty.
    pub hint: String,
}

impl RecipeMismatch {
    /// Creates the error of other training data than the checkpoints'.
    pub(super) fn other_data(out: &Path) -> Self {
        Self {
            out: out.display().to_string(),
            keys: "data.train names other shards, or shards that changed, so the position in the data is invalid"
                .into(),
            hint: String::new(),
        }
    }
}

/// Compares the fingerprints of a checkpoint's recipe and this one.
///
/// # Errors
/// Fails with the keys that differ.
pub(super) fn compare_recipes(old: &Value, new: &Value, recipe: &Recipe) -> Result<(), RecipeMismatch> {
    let defaults = Recipe::default().fingerprint();
    let mut keys = Vec::new();
    let mut hint = String::new();
    for (section, values) in new.as_object().into_iter().flatten() {
        for (key, value) in values.as_object().into_iter().flatten() {
            // A key that came later than the run had its default then.
            let before = old[section].get(key).unwrap_or(&defaults[section][key]);
            if before == value {
                continue;
            }
            keys.push(format!("{section}.{key} was {before}, is {value}"));
            if format!("{section}.{key}") == STEPS {
                hint = format!(
                    ". The learning rate of every step depends on `{STEPS}`, so a run cannot be extended; to train on, begin a run \
                     with another `run.out` from `model.checkpoint = \"{}/{}\"`",
                    recipe.run.out.display(),
                    super::finish::MODEL
                );
            }
        }
    }
    if keys.is_empty() {
        return Ok(());
    }
    Err(RecipeMismatch { out: recipe.run.out.display().to_string(), keys: keys.join("; "), hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_that_came_later_than_a_run_had_its_default() {
        let mut recipe = Recipe::default();
        let mut old = recipe.fingerprint();
        old["data"].as_object_mut().expect("a section").remove("group_similar");
        old.as_object_mut().expect("sections").remove("albef");
        assert!(compare_recipes(&old, &recipe.fingerprint(), &recipe).is_ok());
        recipe.data.group_similar = 8;
        let error = compare_recipes(&old, &recipe.fingerprint(), &recipe).expect_err("another recipe");
        assert_eq!(error.keys, "data.group_similar was 1, is 8");
    }
}
