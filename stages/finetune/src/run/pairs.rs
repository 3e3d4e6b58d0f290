//! How finely a scorer reads: the area under the ROC curve of true captions against captions that one change made false, per kind
//! of change. Shards are those of `recaption scenes --caption pairs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
};

use anyhow::{Context, bail};
use burn::tensor::{Device, Tensor};
use recaption_image::DecodeOptions;

use super::learner::{Learner, open_trained};
use crate::{
    batch::{Batch, PatchSettings},
    data::{Caption, Format, Inputs, LoaderSettings, load_all},
    model::albef::TextBatch,
};

/// End of the key of a true pair; a false one's ends with what was changed.
const TRUE_PAIR: &str = "true";
/// Separates the end of a key.
const SEPARATOR: char = '-';
/// Number of pairs per forward pass.
const PART: usize = 64;
/// Name of the row over all changes.
const ALL: &str = "all";

/// AUCs of some scores, by change.
#[derive(Clone, Debug, PartialEq)]
pub struct PairReport {
    /// What each column is a score of: the model's folder and `ITM`, `ITC` or `similarity`.
    pub columns: Vec<String>,
    /// A row per change and one over all: name, number of false captions, AUC of each column.
    pub rows: Vec<(String, usize, Vec<f64>)>,
}

impl PairReport {
    /// Returns the smallest AUC over all changes among the columns whose name ends with `kind`; `None` without such a column.
    #[must_use]
    pub fn least_overall(&self, kind: &str) -> Option<f64> {
        let (_, _, aucs) = self.rows.iter().find(|(name, ..)| name == ALL)?;
        let columns = self.columns.iter().zip(aucs).filter(|(column, _)| column.ends_with(kind));
        columns.map(|(_, auc)| *auc).min_by(f64::total_cmp)
    }
}

impl fmt::Display for PairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| change | false captions | {} |", self.columns.join(" | "))?;
        writeln!(f, "|---|---|{}", "---|".repeat(self.columns.len()))?;
        for (name, count, aucs) in &self.rows {
            let aucs: Vec<String> = aucs.iter().map(|auc| format!("{auc:.4}")).collect();
            writeln!(f, "| {name} | {count} | {} |", aucs.join(" | "))?;
        }
        Ok(())
    }
}

/// Measures trained models on pairs: an ALBEF by matching and similarity, a CoCa by similarity.
///
/// # Errors
/// Fails when a model or a shard cannot be read, and when there are no true pairs or no false ones.
pub async fn measure_pairs(
    checkpoints: &[impl AsRef<Path>],
    shards: &[String],
    device: &Device,
) -> anyhow::Result<PairReport> {
    let mut report = PairReport { columns: Vec::new(), rows: Vec::new() };
    let mut rows: BTreeMap<String, (usize, Vec<f64>)> = BTreeMap::new();
    for checkpoint in checkpoints {
        let checkpoint = checkpoint.as_ref();
        let (model, tokenizer) = open_trained(checkpoint, device)?;
        let inputs = Arc::new(Inputs::list(shards, Format::Shards, Caption::Text).await?);
        let settings = LoaderSettings {
            batch_size: PART,
            window: PART,
            group_similar: 1,
            seed: 0,
            preprocess: model.preprocess(),
            decode: DecodeOptions::default(),
            crop: None,
            cache_bytes: 0,
        };
        let (batches, counts) = load_all(inputs, Arc::new(tokenizer), settings, usize::MAX).await?;
        tracing::info!("{}: {counts}", checkpoint.display());
        let mut scores: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for batch in &batches {
            for (kind, values) in score(&model, batch, device)? {
                scores.entry(kind).or_default().extend(values);
            }
        }
        let keys: Vec<&str> = batches.iter().flat_map(|b| b.keys.iter().map(String::as_str)).collect();
        for (kind, scores) in scores {
            report.columns.push(format!("{} {kind}", checkpoint.display()));
            for (change, count, auc) in aucs(&keys, &scores)? {
                let row = rows.entry(change).or_insert((count, Vec::new()));
                row.1.push(auc);
            }
        }
    }
    // The row over all changes comes last.
    let all = rows.remove(ALL);
    report.rows = rows.into_iter().map(|(name, (count, aucs))| (name, count, aucs)).collect();
    report.rows.extend(all.map(|(count, aucs)| (ALL.to_owned(), count, aucs)));
    Ok(report)
}

/// Scores the pairs of a batch, by kind of score.
fn score(model: &Learner, batch: &Batch, device: &Device) -> anyhow::Result<Vec<(&'static str, Vec<f64>)>> {
    match model {
        Learner::Coca(model) => {
            let inputs = batch.to_device(&model.config, device);
            let output = model.forward(inputs.patches, &inputs.texts, true, false);
            let text = output.text_features.context("no text features")?;
            Ok(vec![("similarity", values(output.image_features * text)?)])
        }
        Learner::Albef(model) => {
            let encoders = model.encoders();
            let image = encoders.image(batch.patches(&PatchSettings::of_albef(&model.config), device));
            let texts = TextBatch::new(&batch.ids, model.config.special_ids.pad, device);
            let text = encoders.text(&texts);
            let similarity = encoders.image_features(&image) * encoders.text_features(&text);
            let matches = encoders.matches(text, &texts.lengths, image);
            // A match's logit above the other's orders pairs as the probability does.
            let sign = Tensor::<2>::from_floats([[-1.0, 1.0]], device);
            Ok(vec![("ITM", values(matches * sign)?), ("ITC", values(similarity)?)])
        }
    }
}

/// Copies the sums of rows to the host.
fn values(x: Tensor<2>) -> anyhow::Result<Vec<f64>> {
    let sums: Vec<f32> = x.sum_dim(1).into_data_as::<f32>().try_into_vec()?;
    Ok(sums.into_iter().map(f64::from).collect())
}

/// Computes the AUC of each change, and of all, from the keys and scores of pairs: change, number of false captions, AUC. A change
/// is compared with the true captions of its own images.
fn aucs(keys: &[&str], scores: &[f64]) -> anyhow::Result<Vec<(String, usize, f64)>> {
    let parts = || {
        let pairs = keys.iter().zip(scores);
        pairs.filter_map(|(key, score)| Some((key.rsplit_once(SEPARATOR)?, score)))
    };
    let truths: BTreeMap<&str, f64> = parts()
        .filter(|((_, end), _)| *end == TRUE_PAIR)
        .map(|((image, _), score)| (image, *score))
        .collect();
    let changes: BTreeSet<&str> = parts().map(|((_, end), _)| end).filter(|end| *end != TRUE_PAIR).collect();
    if truths.is_empty() || changes.is_empty() {
        bail!(
            "no keys that end with `-{TRUE_PAIR}` and with what was changed: write pairs with `recaption scenes --caption pairs`"
        );
    }
    let mut rows = Vec::new();
    let mut add = |name: &str, is_in: &dyn Fn(&str) -> bool| {
        let chosen = || parts().filter(|((_, end), _)| *end != TRUE_PAIR && is_in(end));
        let images: BTreeSet<&str> = chosen().map(|((image, _), _)| image).collect();
        let right: Vec<f64> = images.iter().filter_map(|image| truths.get(image).copied()).collect();
        let wrong: Vec<f64> = chosen().map(|(_, score)| *score).collect();
        rows.push((name.to_owned(), wrong.len(), auc(&right, &wrong)));
    };
    for change in &changes {
        add(change, &|end| end == *change);
    }
    add(ALL, &|_| true);
    Ok(rows)
}

/// Computes the share of pairs of a right and a wrong score in which the right one is higher; equal ones count half.
fn auc(right: &[f64], wrong: &[f64]) -> f64 {
    let mut sorted = wrong.to_vec();
    sorted.sort_by(f64::total_cmp);
    let below = |score: &f64| {
        let (below, not_above) =
            (sorted.partition_point(|w| w < score), sorted.partition_point(|w| w <= score));
        (below + not_above) as f64 / 2.0
    };
    right.iter().map(below).sum::<f64>() / (right.len() * wrong.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_counts_ordered_pairs() {
        assert_eq!(auc(&[2.0, 3.0], &[1.0, 0.0]), 1.0);
        assert_eq!(auc(&[0.0], &[1.0, 0.0]), 0.25);
        assert_eq!(auc(&[1.0, 4.0], &[2.0, 3.0]), 0.5);
    }

    #[test]
    fn each_change_is_compared_with_its_own_images() {
        let keys = ["a-true", "a-swap", "a-place", "b-true", "b-place"];
        let rows = aucs(&keys, &[0.9, 0.1, 0.95, 0.2, 0.3]).expect("pairs");
        // b's true caption, which scores low, has no swap.
        assert_eq!(rows[0], ("place".to_owned(), 2, 0.25));
        assert_eq!(rows[1], ("swap".to_owned(), 1, 1.0));
        assert_eq!((rows[2].0.as_str(), rows[2].1), ("all", 3));
        assert!(aucs(&["a", "b"], &[0.1, 0.2]).is_err());
    }
}
