//! `recaption plan --shards`: the shards to do, as requests to `recaption worker`.

use recaption_output::{commits::CommitLog, locate_output};
use recaption_store::Stores;
use serde::Serialize;

use crate::{
    config::RunConfig,
    run::{RunModel, RunOptions, plan_run, refuse_output_among_inputs},
};

/// A shard to do: a request of the worker protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardToDo {
    /// URL without secrets, parts of lists as `URL#part=N`.
    pub shard: String,
    /// Bytes that are read for it; 0 where they are unknown.
    pub bytes: u64,
}

/// Lists the shards that a run would process, in its order. No hardware is looked at, and no model is loaded. Where lists in text are
/// split, their parts are stored in the output, as a run does, so that the workers need not read them.
///
/// # Errors
/// As a run: bad configuration, a model that cannot be opened, an output of another configuration, inputs or an output that cannot
/// be listed.
pub async fn shards_to_do(config: &RunConfig, options: RunOptions) -> anyhow::Result<Vec<ShardToDo>> {
    let mut stores = Stores::new(config.stores);
    let model = RunModel::open(config)?;
    let output = locate_output(&mut stores, &config.output.url)?;
    refuse_output_among_inputs(&mut stores, config, &output)?;
    let commit_log = CommitLog::new(output.clone());
    let plan = plan_run((&mut stores, &output), config, options, (&model, &commit_log)).await?;
    let to_do = |shard: &recaption_input::shards::ShardRef| ShardToDo {
        shard: shard.locatable_url(),
        bytes: shard.bytes(),
    };
    Ok(plan.todo.iter().map(|task| to_do(&task.shard)).collect())
}
