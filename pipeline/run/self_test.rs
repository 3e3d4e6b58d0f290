//! The self-test before the first sample: a run's models on its device against the CPU.

use anyhow::Context;
use recaption_onnx::{
    runtime::{Execution, SessionOptions},
    self_test::{Passed, SelfTestCache, cached_self_test, is_needed},
};
use serde::Serialize;

use super::RunModel;
use crate::config::RunConfig;

/// What is known about a device, as the run's record has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SelfTest {
    /// The self-test passed in this run.
    Passed,
    /// It passed in an earlier run under the same circumstances.
    Remembered,
    /// `run.self_test` is false.
    Off,
}

/// Tests the models on every device; `None` on the CPU, where there is nothing to compare with.
///
/// # Errors
/// When the device computes something else than the CPU, or a graph fails.
pub async fn self_test(
    config: &RunConfig,
    model: &RunModel,
    executions: &[Execution],
) -> anyhow::Result<Option<SelfTest>> {
    let mut result = None;
    for execution in executions {
        let (execution, cuda_graphs) = (*execution, config.model.cuda_graphs);
        let options =
            SessionOptions { execution, cuda_graphs, ..SessionOptions::on_cpu(config.resources.threads) };
        let one =
            self_test_with(config.resources.self_test, model, options, SelfTestCache::default()).await?;
        // GPUs of one model and driver share a remembered result: a test in this run takes precedence.
        result = if result == Some(SelfTest::Passed) { result } else { one };
    }
    Ok(result)
}

/// As [`self_test`], with given session options and cache.
///
/// # Errors
/// As [`self_test`].
pub async fn self_test_with(
    is_on: bool,
    model: &RunModel,
    options: SessionOptions,
    cache: SelfTestCache,
) -> anyhow::Result<Option<SelfTest>> {
    if !is_needed(&options) {
        return Ok(None);
    }
    if !is_on {
        tracing::warn!(
            provider = options.execution.as_str(),
            "run.self_test is false: nothing checks that this device computes what the CPU computes"
        );
        return Ok(Some(SelfTest::Off));
    }
    let (captioner, scorer) = (model.folder.clone(), model.scorer.clone());
    // Takes seconds, in which the runtime must keep running: it renews the lock and handles signals.
    let test = move || cached_self_test(&captioner, scorer.as_ref(), &options, &cache);
    let passed = tokio::task::spawn_blocking(test).await.context("the self-test broke down")??;
    Ok(Some(match passed {
        Passed::Now => SelfTest::Passed,
        Passed::Earlier => SelfTest::Remembered,
    }))
}
