//! Outcomes as they come, kept in the order of the shards: sums must not depend on who finished first.

use std::collections::BTreeMap;

use recaption_evaluate::words;
use recaption_messages::{Embeddings, SampleOutcome, ShardEvent};
use recaption_schemas::CaptionRow;

use crate::{run::Events, scenes::Scene};

/// One captioned sample.
pub struct Sample {
    /// The chosen caption.
    pub caption: String,
    /// Its similarity to the image.
    pub similarity: f32,
    /// What the input said.
    pub original: Option<String>,
    /// Its similarity to the image.
    pub org_similarity: Option<f32>,
    /// Texts that it is measured against.
    pub references: Vec<String>,
    /// What the scorer saw.
    pub embeddings: Option<Embeddings>,
    /// Where the sample is one.
    pub scene: Option<Scene>,
}

/// Everything that was read.
#[derive(Default)]
pub struct Gathered {
    /// By shard and position.
    pub samples: BTreeMap<(usize, u64), Sample>,
    /// Samples without a caption, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Shards that could not be read, and why.
    pub failed: BTreeMap<String, String>,
    /// Shards that could be read in part, and why.
    pub damaged: BTreeMap<String, String>,
}

impl Gathered {
    /// The reasons, in words.
    pub fn rejected(&self) -> String {
        let reasons: Vec<String> = self.rejects.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let failed = self.failed.iter().map(|(shard, why)| format!("{shard}: {why}"));
        let all: Vec<String> = reasons.into_iter().chain(failed).collect();
        if all.is_empty() { "the shards are empty".into() } else { all.join("; ") }
    }
}

/// Takes all events; `urls` are the shards'.
///
/// # Errors
/// When samples got lost on the way.
pub async fn gather(mut events: Events, urls: Vec<String>) -> anyhow::Result<Gathered> {
    let mut gathered = Gathered::default();
    // What each shard's reader counted, and what came out of it.
    let mut counts: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    let url = |shard: usize| urls.get(shard).cloned().unwrap_or_default();
    while let Some(event) = events.recv().await {
        match event {
            ShardEvent::Begun { .. } | ShardEvent::CommittedByOther { .. } => {}
            ShardEvent::Sample(finished) => {
                counts.entry(finished.shard).or_default().1 += 1;
                match finished.outcome {
                    SampleOutcome::Caption(row) => {
                        let sample = sample(*row, finished.embeddings);
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
            anyhow::bail!("shard {}: {read} samples were read and {ended} came out", url(shard));
        }
    }
    Ok(gathered)
}

fn sample(row: CaptionRow, embeddings: Option<Embeddings>) -> Sample {
    let chosen = row.candidates.chosen();
    let meta = row.meta.as_deref().unwrap_or_default();
    Sample {
        caption: chosen.text.clone(),
        similarity: chosen.similarity.get(),
        org_similarity: row.org_similarity.map(|s| s.get()),
        original: row.org_caption.clone(),
        references: references(row.org_caption.as_deref(), meta),
        embeddings,
        scene: Scene::from_json(meta.as_bytes()).ok(),
    }
}

/// The original caption and `captions` of the JSON, each once, without those that have no words.
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
    fn references_are_the_caption_and_those_of_the_json() {
        let json = r#"{"captions": ["a dog", "a cat", 3, " ... "], "other": 1}"#;
        assert_eq!(references(Some("a cat"), json), ["a cat", "a dog"]);
        assert_eq!(references(None, json), ["a dog", "a cat"]);
        assert_eq!(references(Some("a cat"), "no json"), ["a cat"]);
        assert!(references(Some("..."), r#"{"captions": "a text"}"#).is_empty());
    }
}
