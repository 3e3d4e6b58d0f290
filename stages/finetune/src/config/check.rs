//! What the keys of a recipe mean together.

use recaption_config::ConfigError;

use super::{Compute, Initialisation, Layers, ObjectiveKind, Recipe};
use crate::data::{Caption, Format};

impl Recipe {
    /// Checks what no range of a single key says.
    pub(super) fn check(&self, layers: &Layers) -> Result<(), ConfigError> {
        let error = |key: &str, what: String| Err(layers.error(key, what));
        let (optimizer, run, objective) = (&self.optimizer, &self.run, &self.objective);
        if let Some(beta) = optimizer.betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            let what =
                format!("`optimizer.betas` holds {beta}: expected two numbers from 0 to 1, 1 excluded");
            return error("optimizer.betas", what);
        }
        if objective.kind == ObjectiveKind::Albef {
            self.check_albef(layers)?;
        }
        if self.image_encoder().is_some()
            && (objective.kind, self.model.init) != (ObjectiveKind::Albef, Initialisation::Random)
        {
            let what = "`model.image_encoder` is for `objective.kind = \"albef\"` with `model.init = \"random\"`: leave it out";
            return error("model.image_encoder", what.into());
        }
        if objective.contrastive == 0.0 && objective.caption == 0.0 {
            let what = "both weights of [objective] are 0: nothing would be learnt";
            return error("objective.caption", what.into());
        }
        self.check_data(layers)?;
        if run.out.to_string_lossy().contains("://") {
            let out = run.out.display();
            return error(
                "run.out",
                format!("`run.out` = {out}: expected a local folder; copy it afterwards"),
            );
        }
        if run.patience > 0 && self.data.validation.is_empty() {
            let what =
                "`run.patience` needs `data.validation`: without it no step can be compared with another";
            return error("run.patience", what.into());
        }
        if objective.contrastive > 0.0 && run.batch_size < 2 {
            let what = "`objective.contrastive` needs a `run.batch_size` of at least 2";
            return error("run.batch_size", what.into());
        }
        if let Err(what) = self.freeze() {
            return error("model.freeze", what);
        }
        if optimizer.steps <= optimizer.warmup_steps {
            let (steps, warmup_steps) = (optimizer.steps, optimizer.warmup_steps);
            tracing::warn!(
                steps,
                warmup_steps,
                "optimizer.warmup_steps leaves no step at the full learning rate; set it below optimizer.steps"
            );
        }
        Ok(())
    }

    /// Checks the keys of `[data]` together, and with the batch.
    fn check_data(&self, layers: &Layers) -> Result<(), ConfigError> {
        let error = |key: &str, what: String| Err(layers.error(key, what));
        if matches!(self.data.caption, Caption::Matched(_)) && self.data.format != Format::Output {
            let what = "`data.caption` selects by matching probability, which an output of `recaption run` has: set `data.format` = \"output\"";
            return error("data.caption", what.into());
        }
        let (group, part) = (self.data.group_similar, self.run.part());
        if group > 1 && !part.is_multiple_of(group) {
            let what = format!("`data.group_similar` {group} does not divide the batch, {part} samples");
            return error("data.group_similar", what);
        }
        if let Some(crop) = &self.data.crop
            && !crop.is_valid()
        {
            let what = format!("`data.crop`: {:?} and {:?} are no ranges", crop.scale, crop.ratio);
            return error("data.crop", what);
        }
        Ok(())
    }

    /// Checks the keys of the objective `albef` together.
    fn check_albef(&self, layers: &Layers) -> Result<(), ConfigError> {
        let error = |key: &str, what: String| Err(layers.error(key, what));
        let (run, queue) = (&self.run, self.albef.queue_size);
        let (batch, part) = (run.batch_size, run.part());
        if part < 2 || batch == 0 || !batch.is_multiple_of(part) {
            let what = format!(
                "`objective.kind = \"albef\"`: `run.batch_size` {batch} in parts of {part}: expected equal parts of at least 2, which hold the negatives"
            );
            return error(if run.micro_batch.is_some() { "run.micro_batch" } else { "run.batch_size" }, what);
        }
        if !queue.is_multiple_of(batch) {
            let what = format!("`albef.queue_size` {queue} is no multiple of `run.batch_size` {batch}");
            return error("albef.queue_size", what);
        }
        // The keys that only a CoCa has.
        for (key, is_set) in [
            ("model.freeze", !self.model.freeze.is_empty()),
            ("optimizer.layer_decay", self.optimizer.layer_decay != 1.0),
            ("optimizer.ema_decay", self.optimizer.ema_decay > 0.0),
            ("objective.label_smoothing", self.objective.label_smoothing > 0.0),
            ("run.precision", run.precision == Compute::Bf16),
        ] {
            if is_set {
                return error(
                    key,
                    format!("`{key}` is not supported with `objective.kind = \"albef\"`; leave it out"),
                );
            }
        }
        Ok(())
    }
}
