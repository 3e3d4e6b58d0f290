//! Metrics of the synthetic scenes dataset, whose true captions are known.

use std::fmt;

use recaption_evaluate::roc_auc;
use serde::Serialize;

use super::gather::EvalSample;
use crate::scenes::{Accuracy, is_junk, names_true_object};

/// Accuracy of captions of scenes, and how well the scorer separates their original captions.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ScenesReport {
    /// Counts by attribute.
    #[serde(flatten)]
    pub accuracy: Accuracy,
    /// Share of captions that equal the scene's short caption word for word, in [0, 1].
    pub exact_short: f64,
    /// Share of captions that equal the scene's descriptive caption word for word, in [0, 1].
    pub exact_descriptive: f64,
    /// Area under the ROC curve of `org_similarity` as a classifier of original captions that name a true object against junk,
    /// in [0, 1]; `None` if a class is empty.
    pub junk_auc: Option<f64>,
    /// Number of original captions that name a true object of their scene.
    pub originals_true: usize,
    /// Number of original captions that are junk; those that are neither are not counted.
    pub originals_junk: usize,
}

impl ScenesReport {
    /// Computes the metrics of the samples that are scenes; `None` if there are none.
    pub(super) fn new(samples: &[EvalSample]) -> Option<Self> {
        let mut accuracy = Accuracy::default();
        let (mut informative, mut junk) = (Vec::new(), Vec::new());
        for (sample, scene) in samples.iter().filter_map(|s| s.scene.as_ref().map(|scene| (s, scene))) {
            accuracy.add(scene, &sample.caption);
            let (Some(original), Some(similarity)) = (&sample.original, sample.org_similarity) else {
                continue;
            };
            if names_true_object(scene, original) {
                informative.push(similarity);
            } else if is_junk(original) {
                junk.push(similarity);
            }
        }
        let share = |n: usize| n as f64 / accuracy.captions as f64;
        (accuracy.captions > 0).then(|| Self {
            accuracy,
            exact_short: share(accuracy.short),
            exact_descriptive: share(accuracy.descriptive),
            junk_auc: roc_auc(&informative, &junk),
            originals_true: informative.len(),
            originals_junk: junk.len(),
        })
    }
}

impl fmt::Display for ScenesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let a = &self.accuracy;
        let percent = |n: usize, of: usize| 100.0 * n as f64 / of.max(1) as f64;
        writeln!(
            f,
            "scenes         {:.1} % exactly descriptive, {:.1} % exactly short; right number of objects {:.1} %, background {:.1} %",
            100.0 * self.exact_descriptive,
            100.0 * self.exact_short,
            percent(a.count, a.captions),
            percent(a.background, a.captions)
        )?;
        writeln!(
            f,
            "               of {} objects: colour {:.1} %, shape {:.1} %, size {:.1} %, position {:.1} %",
            a.objects,
            percent(a.colour, a.objects),
            percent(a.shape, a.objects),
            percent(a.size, a.objects),
            percent(a.place, a.objects)
        )?;
        if let Some(auc) = self.junk_auc {
            writeln!(
                f,
                "junk AUC       {auc:.4} by similarity, {} original captions that name a true object against {} junk",
                self.originals_true, self.originals_junk
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::{AltText, Scene, descriptive, sample, short};

    fn scene() -> Scene {
        (0..)
            .map(|index| sample(3, index).0)
            .find(|scene| scene.objects().len() == 2)
            .expect("a scene of two")
    }

    fn captioned(caption: String, original: Option<&str>, org_similarity: f32) -> EvalSample {
        EvalSample {
            caption,
            similarity: 0.5,
            itm: None,
            original: original.map(str::to_owned),
            org_similarity: original.map(|_| org_similarity),
            references: Vec::new(),
            embeddings: None,
            scene: Some(scene()),
        }
    }

    #[test]
    fn scene_metrics_equal_known_values() {
        let scene = scene();
        let named = AltText::Names.text(&scene);
        let samples = [
            captioned(short(&scene), Some(&named), 0.35),
            captioned(short(&scene), Some(&descriptive(&scene)), 0.8),
            captioned(descriptive(&scene), Some("img_7.jpg"), 0.1),
            captioned(String::new(), Some("thumbnail"), 0.4),
            // Neither true nor junk, and no original caption.
            captioned(String::new(), Some("a dog"), 0.9),
            captioned(String::new(), None, 0.0),
            EvalSample { scene: None, ..captioned(short(&scene), Some("thumbnail"), 0.99) },
        ];
        let report = ScenesReport::new(&samples).expect("scenes");
        assert_eq!((report.junk_auc, report.originals_true, report.originals_junk), (Some(0.75), 2, 2));
        assert_eq!((report.exact_short, report.exact_descriptive), (2.0 / 6.0, 1.0 / 6.0));
        assert!(report.to_string().contains("junk AUC       0.7500"), "{report}");
        let json = serde_json::to_value(report).expect("JSON");
        assert_eq!((&json["junk_auc"], &json["captions"]), (&0.75.into(), &6.into()));

        let report = ScenesReport::new(&samples[..2]).expect("scenes");
        assert_eq!((report.junk_auc, report.originals_junk), (None, 0));
        assert!(!report.to_string().contains("AUC"), "{report}");
        assert!(ScenesReport::new(&samples[6..]).is_none());
    }
}
