//! The training loop.

use std::time::Instant;

use anyhow::Context;

use super::{
    finish::finish,
    open,
    options::{TrainOptions, TrainOutcome},
    stop::StopSignal,
};
use crate::{config::Recipe, data::Loader};

/// Trains by the recipe, or continues from its newest checkpoint.
///
/// # Errors
/// Fails on invalid settings, unusable data, a loss that is not finite, and when a file cannot be written. Checkpoints stay.
pub async fn train(
    recipe: &Recipe,
    options: TrainOptions,
    stop: &StopSignal,
) -> anyhow::Result<TrainOutcome> {
    if options.overwrite {
        open::delete_previous(&recipe.run.out)?;
    }
    let (mut training, inputs, tokenizer) = open::open(recipe, options).await?;
    if training.progress.step > 0 {
        tracing::info!(step = training.progress.step, "continuing from a checkpoint");
    }
    let loader = Loader::start(inputs, tokenizer, training.loader_settings(), training.progress.position)
        .context("cannot start the loader")?;
    // A run that ran out of patience has done so when it is started again.
    while training.progress.step < recipe.optimizer.steps && !training.is_out_of_patience() {
        let begin = Instant::now();
        let loaded = loader.next()?;
        training.step(&loaded.batch)?;
        training.progress.position = loaded.position;
        training.progress.counts.add(&loaded.counts);
        let seconds = begin.elapsed().as_secs_f64();
        training.progress.log.seconds += seconds;
        training.progress.seconds += seconds;

        let step = training.progress.step;
        let is_last = step == recipe.optimizer.steps;
        if is_last || step.is_multiple_of(recipe.run.log_every) {
            training.log()?;
        }
        let validates = is_last || step.is_multiple_of(recipe.run.validate_every);
        let stops = stop.is_requested();
        let saves = is_last || stops || step.is_multiple_of(recipe.run.checkpoint_every);
        if validates || saves {
            training.check_weights(&loaded.batch)?;
        }
        let out_of_patience = validates && training.validate(&loaded.batch)?;
        if saves || out_of_patience {
            training.save()?;
        }
        if out_of_patience {
            tracing::info!(
                step,
                validations = training.progress.validations_since_best,
                "stopped early: the last validations were not better than the best"
            );
            break;
        }
        if stops && !is_last {
            return Ok(TrainOutcome::Stopped(step));
        }
    }
    drop(loader);
    Ok(TrainOutcome::Finished(Box::new(finish(training)?)))
}
