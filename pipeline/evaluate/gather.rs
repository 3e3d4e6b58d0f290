//! Results of samples, sorted by shard and position: sums in floating point must not depend on the order of arrival.

use std::collections::BTreeMap;

use recaption_evaluate::words;
use recaption_messages::{Embeddings, SampleOutcome, ShardEvent};
use recaption_schemas::CaptionRow;

use crate::{run::Events, scenes::Scene};

/// One captioned sample.
pub(super) struct EvalSample {
    /// The chosen caption.
    pub(super) caption: String,
    /// Similarity of image and chosen caption, in [-1, 1].
    pub(super) similarity: f32,
    /// Probability that image and chosen caption match, if the scorer matches.
    pub(super) itm: Option<f32>,
    /// The input's own caption.
    pub(super) original: Option<String>,
    /// Similarity of image and original caption, in [-1, 1].
    pub(super) org_similarity: Option<f32>,
    /// Reference captions; may be empty.
    pub(super) references: Vec<String>,
    /// The scorer's features.
    pub(super) embeddings: Option<Embeddings>,
    /// The scene, if the sample's JSON is one.
    pub(super) scene: Option<Scene>,
}

/// Everything that was read.
#[derive(Default)]
pub(super) struct Gathered {
    /// Captioned samples by shard and position.
    pub(super) samples: BTreeMap<(usize, u64), EvalSample>,
    /// Number of rejects by reason.
    pub(super) rejects: BTreeMap<String, u64>,
    /// Shards that could not be read, with the error.
    pub(super) failed: BTreeMap<String, String>,
    /// Shards that could be read in part, with the damage.
    pub(super) damaged: BTreeMap<String, String>,
}

impl Gathered {
    /// Describes why samples have no caption.
    pub(super) fn describe_rejects(&self) -> String {
        let reasons: Vec<String> = self.rejects.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let failed = self.failed.iter().map(|(shard, why)| format!("{shard}: {why}"));
        let all: Vec<String> = reasons.into_iter().chain(failed).collect();
        if all.is_empty() { "the shards are empty".into() } else { all.join("; ") }
    }
}

/// Receives all events; `urls` are the shards', by number.
///
/// # Errors
/// Fails when the number of results of a shard differs from the number of its samples.
pub(super) async fn gather(mut events: Events, urls: Vec<String>) -> anyhow::Result<Gathered> {
    let mut gathered = Gathered::default();
    // Per shard: samples that its reader counted, results that arrived.
    let mut counts: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    let url = |shard: usize| urls.get(shard).cloned().unwrap_or_default();
    while let Some(event) = events.recv().await {
        match event {
            ShardEvent::Begun { .. }
            | ShardEvent::CommittedByOther { .. }
            | ShardEvent::ClaimedByOther { .. } => {}
            ShardEvent::Sample(finished) => {
                counts.entry(finished.shard).or_default().1 += 1;
                match finished.outcome {
                    SampleOutcome::Caption(row) => {
                        let sample = eval_sample(*row, finished.embeddings);
                        gathered.samples.insert((finished.shard, finished.index), sample);
                    }
                    SampleOutcome::Reject(reject) => {
                        *gathered.rejects.entry(reject.reason.to_string()).or_default() += 1;
                    }
                    // Nothing is retried here.
                    SampleOutcome::Kept(_) => {}
                }
            }
            ShardEvent::Read { shard, contents: end } => {
                counts.entry(shard).or_default().0 = end.samples;
                if let Some(damage) = end.damage {
                    gathered.damaged.insert(url(shard), damage.detail);
                }
            }
            ShardEvent::Failed { shard, error } => {
                counts.remove(&shard);
                gathered.failed.insert(url(shard), error.to_string());
            }
        }
    }
    gathered.samples.retain(|(shard, _), _| !gathered.failed.contains_key(&url(*shard)));
    for (shard, (read, ended)) in counts {
        if read != ended && !gathered.failed.contains_key(&url(shard)) {
            anyhow::bail!("internal error: shard {}: {read} samples but {ended} results", url(shard));
        }
    }
    Ok(gathered)
}

fn eval_sample(row: CaptionRow, embeddings: Option<Embeddings>) -> EvalSample {
    let chosen = row.candidates.chosen();
    let meta = row.meta.as_deref().unwrap_or_default();
    EvalSample {
        caption: chosen.text.clone(),
        similarity: chosen.similarity.get(),
        itm: chosen.itm.map(|itm| itm.get()),
        org_similarity: row.org_similarity.map(|s| s.get()),
        original: row.org_caption.clone(),
        references: references(row.org_caption.as_deref(), meta),
        embeddings,
        scene: Scene::from_json(meta.as_bytes()).ok(),
    }
}

/// Returns the original caption and the JSON's `captions`, each once, without those that have no words.
fn references(original: Option<&str>, meta: &str) -> Vec<String> {
    let json = serde_json::from_str::<serde_json::Value>(meta).unwrap_or_default();
    let listed = json.get("captions").and_then(|c| c.as_array()).into_iter().flatten();
    let texts = original.into_iter().chain(listed.filter_map(|c| c.as_str()));
    let mut references: Vec<String> = Vec::new();
    for text in texts.filter(|text| !words(text).is_empty()) {
        if !references.iter().any(|known| known == text) {
            references.push(text.to_owned());
        }
    }
    references
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_caption_and_json_captions() {
        let json = r#"{"captions": ["a dog", "a cat", 3, " ... "], "other": 1}"#;
        assert_eq!(references(Some("a cat"), json), ["a cat", "a dog"]);
        assert_eq!(references(None, json), ["a dog", "a cat"]);
        assert_eq!(references(Some("a cat"), "no json"), ["a cat"]);
        assert!(references(Some("..."), r#"{"captions": "a text"}"#).is_empty());
    }
}
