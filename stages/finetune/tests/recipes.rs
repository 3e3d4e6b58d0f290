//! Recipes as they are configured: what a newcomer writes first works, and what is likely a slip is said.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use common::Workspace;

#[test]
fn plain_string_names_the_shards() {
    let workspace = Workspace::new();
    let shards = format!("data.train={}", workspace.path("train/*.tar").display());
    workspace.call("out", &[&shards, "optimizer.steps=4"]).ends(0);
    assert_eq!(workspace.train_lines("out").last().expect("a line")["step"], 4);
}

#[test]
fn warmup_that_never_ends_is_a_warning() {
    let workspace = Workspace::new();
    let words = "optimizer.warmup_steps leaves no step at the full learning rate";
    workspace.call("out", &["optimizer.steps=4", "optimizer.warmup_steps=4"]).ends(0).warns(words);
    workspace.call("other", &["optimizer.steps=4", "optimizer.warmup_steps=3"]).ends(0).never_warns(words);
}

#[test]
fn automatic_device_continues_a_run_on_the_named_one() {
    let workspace = Workspace::new();
    let device = if cfg!(feature = "cuda") { "run.device=cuda" } else { "run.device=cpu" };
    workspace.call("out", &["optimizer.steps=4", device]).ends(0);
    // The same checkpoints: neither `auto` nor the precision that it means is another recipe.
    let precision = if cfg!(feature = "cuda") { "run.precision=fp32" } else { "run.precision=auto" };
    workspace.call("out", &["optimizer.steps=4", "run.device=auto", precision]).ends(0);
}
