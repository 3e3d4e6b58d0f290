//! Matching of selected texts with their images (ITM).

use recaption_onnx::runtime::{MatchImage, RuntimeError};
use recaption_schemas::{MatchProbability, Similarity};

use super::{ScoreError, ScoreJob, Scorer, TextScores};

impl Scorer {
    /// Matches the texts that `select` names with their images, all jobs together, and adds the probabilities to `scores`.
    pub(super) fn match_texts<T>(
        &mut self,
        jobs: &[ScoreJob<T>],
        scores: &mut [TextScores],
        select: impl Fn(&ScoreJob<T>, &[Similarity]) -> Vec<usize>,
    ) -> Result<(), ScoreError> {
        let Some(matcher) = &mut self.matcher else { return Ok(()) };
        let mut selected = Vec::with_capacity(jobs.len());
        let mut texts: Vec<Vec<&[i64]>> = Vec::with_capacity(jobs.len());
        for (job, scores) in jobs.iter().zip(scores.iter()) {
            let positions = select(job, &scores.similarities);
            let ids: Option<Vec<&[i64]>> =
                positions.iter().map(|at| scores.ids.get(*at).map(|ids| ids.ids.as_slice())).collect();
            texts.push(ids.ok_or_else(|| {
                RuntimeError::Input(format!("key {}: a text to match that the job does not have", job.key))
            })?);
            selected.push(positions);
        }
        let images: Vec<MatchImage<'_>> = jobs
            .iter()
            .zip(&texts)
            .map(|(job, texts)| MatchImage { tokens: job.image.tokens(), texts })
            .collect();
        let logits = matcher.match_all(&images)?;
        for (((job, scores), positions), logits) in jobs.iter().zip(scores).zip(selected).zip(logits) {
            for (at, logits) in positions.into_iter().zip(logits) {
                let probability = MatchProbability::of_logits(logits);
                let probability = probability.ok_or_else(|| ScoreError::MatchNotFinite(job.key.clone()))?;
                scores.itm[at] = Some(probability);
            }
        }
        Ok(())
    }
}
