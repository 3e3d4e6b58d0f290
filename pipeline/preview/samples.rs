//! What a preview shows of each sample.

use recaption_messages::SampleOutcome;
use recaption_schemas::{CaptionRow, Reject};
use serde::Serialize;

use crate::report::{ReportCaption, ReportReject};

/// A sample with a caption.
#[derive(Clone, Debug, Serialize)]
pub struct PreviewCaption {
    /// URL of the shard, redacted.
    pub shard: String,
    /// Key of the sample.
    pub key: String,
    /// The chosen caption.
    pub caption: String,
    /// Similarity of image and caption, [-1, 1].
    pub similarity: f32,
    /// Probability that image and caption match, [0, 1], if the scorer matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itm: Option<f32>,
    /// The original caption.
    pub org_caption: Option<String>,
    /// Similarity of image and original caption, [-1, 1].
    pub org_similarity: Option<f32>,
    /// Probability that image and original caption match, [0, 1], with `score.match_original`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_itm: Option<f32>,
    /// All candidates with their similarities, the best first.
    pub candidates: Vec<(String, f32)>,
    /// Width of the stored image, pixels.
    pub width: u32,
    /// Height of the stored image, pixels.
    pub height: u32,
    /// The stored image.
    #[serde(skip)]
    pub(super) image: Option<Vec<u8>>,
}

/// A sample without a caption.
#[derive(Clone, Debug, Serialize)]
pub struct PreviewReject {
    /// URL of the shard, redacted.
    pub shard: String,
    /// Key of the sample.
    pub key: String,
    /// The reason's name.
    pub reason: &'static str,
    /// The reason in detail.
    pub detail: String,
    /// The caption that was not kept.
    pub caption: Option<String>,
    /// Similarity of image and that caption, [-1, 1].
    pub similarity: Option<f32>,
    /// The original caption.
    pub org_caption: Option<String>,
}

impl PreviewCaption {
    fn new(shard: &str, row: CaptionRow) -> Self {
        let chosen = row.candidates.chosen();
        let (caption, similarity) = (chosen.text.clone(), chosen.similarity.get());
        let itm = chosen.itm.map(|itm| itm.get());
        let candidates =
            row.candidates.as_slice().iter().map(|one| (one.text.clone(), one.similarity.get())).collect();
        Self {
            shard: shard.to_owned(),
            key: row.key,
            caption,
            similarity,
            itm,
            org_caption: row.org_caption,
            org_similarity: row.org_similarity.map(|similarity| similarity.get()),
            org_itm: row.org_itm.map(|itm| itm.get()),
            candidates,
            width: row.width,
            height: row.height,
            image: row.image.map(|image| image.bytes),
        }
    }

    /// Takes what the page shows, with the image.
    pub(super) fn report(&mut self) -> ReportCaption {
        let candidates = self.candidates.iter().map(|(text, score)| (text.clone(), Some(*score)));
        ReportCaption {
            shard: self.shard.clone(),
            key: self.key.clone(),
            caption: self.caption.clone(),
            similarity: Some(self.similarity),
            itm: self.itm,
            org_caption: self.org_caption.clone(),
            org_similarity: self.org_similarity,
            org_itm: self.org_itm,
            candidates: candidates.collect(),
            width: self.width,
            height: self.height,
            image: self.image.take(),
        }
    }
}

impl PreviewReject {
    fn new(shard: &str, reject: Reject) -> Self {
        Self {
            shard: shard.to_owned(),
            key: reject.key,
            reason: reject.reason.as_str(),
            detail: reject.detail,
            caption: reject.caption,
            similarity: reject.similarity,
            org_caption: reject.org_caption,
        }
    }

    /// Returns what the page shows.
    pub(super) fn report(&self) -> ReportReject {
        ReportReject {
            shard: self.shard.clone(),
            key: self.key.clone(),
            reason: self.reason.to_owned(),
            detail: self.detail.clone(),
            caption: self.caption.clone(),
            similarity: self.similarity,
            org_caption: self.org_caption.clone(),
        }
    }
}

/// Sorts outcomes, with the URLs of their shards, into captions and rejects.
pub(super) fn sort<'a>(
    outcomes: impl Iterator<Item = (&'a str, SampleOutcome)>,
) -> (Vec<PreviewCaption>, Vec<PreviewReject>) {
    let (mut captions, mut rejects) = (Vec::new(), Vec::new());
    for (shard, outcome) in outcomes {
        match outcome {
            SampleOutcome::Caption(row) => captions.push(PreviewCaption::new(shard, *row)),
            SampleOutcome::Reject(reject) => rejects.push(PreviewReject::new(shard, *reject)),
            // Nothing is retried here.
            SampleOutcome::Kept(_) => {}
        }
    }
    (captions, rejects)
}
