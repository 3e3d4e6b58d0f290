//! Metrics of captions, computed and printed.

use std::{collections::BTreeMap, fmt};

use recaption_evaluate::{EvalPair, Recall, bleu, cider_d, distinct, mean_words, recall, rouge_l, words};
use serde::Serialize;

use super::{
    gather::{EvalSample, Gathered},
    scenes::ScenesReport,
};
use crate::run::ExitCode;

/// Largest number of samples, the first ones, that retrieval is measured on: its cost is quadratic, and COCO's test split has
/// 5,000.
const RETRIEVAL_SAMPLES: usize = 5000;

/// Metrics of a set of captions.
#[derive(Clone, Debug, Serialize)]
pub struct EvalReport {
    /// Number of captioned samples.
    pub captions: usize,
    /// Number of rejected samples by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Shards that could not be read, with the error.
    pub shards_failed: BTreeMap<String, String>,
    /// Shards that could be read in part, with the damage.
    pub shards_damaged: BTreeMap<String, String>,
    /// Metrics against references; `None` if no sample has one.
    pub references: Option<References>,
    /// Retrieval between images and original captions; `None` if no sample has one.
    pub retrieval: Option<Retrieval>,
    /// Mean similarity of image and caption, in [-1, 1].
    pub similarity: f64,
    /// Mean similarity of image and original caption, in [-1, 1].
    pub org_similarity: Option<f64>,
    /// Mean probability that image and caption match, in [0, 1], if the scorer matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itm: Option<f64>,
    /// Whether the captioner scored its own captions.
    pub circular: bool,
    /// distinct-1 and distinct-2, in [0, 1].
    pub distinct: [f64; 2],
    /// Mean number of words of a caption.
    pub words: f64,
    /// Metrics of the samples that are synthetic scenes.
    pub scenes: Option<ScenesReport>,
}

/// Metrics of captions against references.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct References {
    /// Number of captions that have a reference.
    pub captions: usize,
    /// CIDEr-D, 0 to 10.
    pub cider_d: f64,
    /// BLEU-1 to BLEU-4, 0 to 1.
    pub bleu: [f64; 4],
    /// ROUGE-L, 0 to 1.
    pub rouge_l: f64,
}

/// Recall among the best 1, 5 and 10, in [0, 1].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Retrieval {
    /// Number of pairs that were searched.
    pub pairs: usize,
    /// Recall of texts for image queries.
    pub image_to_text: [f64; 3],
    /// Recall of images for text queries.
    pub text_to_image: [f64; 3],
}

impl EvalReport {
    /// Computes the metrics of at least one sample.
    pub(super) fn new(gathered: Gathered, circular: bool) -> Self {
        let samples: Vec<EvalSample> = gathered.samples.into_values().collect();
        let captions: Vec<Vec<String>> = samples.iter().map(|s| words(&s.caption)).collect();
        Self {
            captions: samples.len(),
            rejects: gathered.rejects,
            shards_failed: gathered.failed,
            shards_damaged: gathered.damaged,
            references: References::new(&samples),
            retrieval: Retrieval::new(&samples),
            similarity: mean(samples.iter().map(|s| f64::from(s.similarity))).unwrap_or(0.0),
            org_similarity: mean(samples.iter().filter_map(|s| s.org_similarity).map(f64::from)),
            itm: mean(samples.iter().filter_map(|s| s.itm).map(f64::from)),
            circular,
            distinct: [distinct(&captions, 1), distinct(&captions, 2)],
            words: mean_words(&captions),
            scenes: ScenesReport::new(&samples),
        }
    }

    /// Returns [`ExitCode::Incomplete`] if shards could not be read whole, else [`ExitCode::Done`].
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        if self.shards_failed.is_empty() && self.shards_damaged.is_empty() {
            ExitCode::Done
        } else {
            ExitCode::Incomplete
        }
    }
}

impl References {
    fn new(samples: &[EvalSample]) -> Option<Self> {
        let pair = |s: &EvalSample| {
            let references: Vec<&str> = s.references.iter().map(String::as_str).collect();
            EvalPair::new(&s.caption, &references)
        };
        let pairs: Vec<EvalPair> = samples.iter().filter_map(pair).collect();
        Some(Self {
            captions: pairs.len(),
            cider_d: mean(cider_d(&pairs).into_iter())?,
            bleu: bleu(&pairs),
            rouge_l: mean(rouge_l(&pairs).into_iter())?,
        })
    }
}

impl Retrieval {
    fn new(samples: &[EvalSample]) -> Option<Self> {
        let pairs = samples.iter().filter_map(|s| s.embeddings.as_ref());
        let pairs: Vec<_> = pairs
            .filter_map(|e| e.original.as_ref().map(|original| (&e.image, original)))
            .take(RETRIEVAL_SAMPLES)
            .collect();
        let width = pairs.first()?.0.len();
        let images: Vec<f32> = pairs.iter().flat_map(|(image, _)| *image).copied().collect();
        let texts: Vec<f32> = pairs.iter().flat_map(|(_, text)| *text).copied().collect();
        let Recall { image_to_text, text_to_image } = recall(&images, &texts, width);
        Some(Self { pairs: pairs.len(), image_to_text, text_to_image })
    }
}

/// Returns the mean; `None` of no values.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, n), v| (sum + v, n + 1));
    (count > 0).then(|| sum / count as f64)
}

impl fmt::Display for EvalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rejected: u64 = self.rejects.values().sum();
        writeln!(f, "captions       {} ({rejected} samples rejected)", self.captions)?;
        for (reason, count) in &self.rejects {
            writeln!(f, "               {count:>8} {reason}")?;
        }
        if let Some(r) = &self.references {
            let [one, two, three, four] = r.bleu;
            writeln!(f, "references     of {} captions", r.captions)?;
            writeln!(f, "CIDEr-D        {:.4}", r.cider_d)?;
            writeln!(f, "BLEU-1 to 4    {one:.4}  {two:.4}  {three:.4}  {four:.4}")?;
            writeln!(f, "ROUGE-L        {:.4}", r.rouge_l)?;
        }
        if let Some(r) = &self.retrieval {
            let row = |[a, b, c]: [f64; 3]| format!("{a:.4}  {b:.4}  {c:.4}");
            writeln!(f, "R@1, 5, 10     {}  image to text, {} pairs", row(r.image_to_text), r.pairs)?;
            writeln!(f, "               {}  text to image", row(r.text_to_image))?;
        }
        let scorer = if self.circular {
            ", scored by the captioner itself: not comparable between models"
        } else {
            ""
        };
        writeln!(f, "similarity     {:.4} of captions{scorer}", self.similarity)?;
        if let Some(original) = self.org_similarity {
            writeln!(f, "               {original:.4} of original captions")?;
        }
        if let Some(itm) = self.itm {
            writeln!(f, "itm            {itm:.4} of captions")?;
        }
        writeln!(f, "distinct-1, 2  {:.4}  {:.4}", self.distinct[0], self.distinct[1])?;
        writeln!(f, "words          {:.2} per caption", self.words)?;
        if let Some(a) = &self.scenes {
            write!(f, "{a}")?;
        }
        for (shard, why) in &self.shards_failed {
            writeln!(f, "failed         {shard}: {why}")?;
        }
        for (shard, why) in &self.shards_damaged {
            writeln!(f, "damaged        {shard}: {why}")?;
        }
        Ok(())
    }
}
