//! The part of the report that only scenes have: everything that can truly be said of them is known.

use std::fmt;

use recaption_evaluate::roc_auc;
use serde::Serialize;

use super::gather::Sample;
use crate::scenes::{Accuracy, is_junk, names_true_object};

/// How good captions of scenes are, and how well the scorer judges their original captions.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ScenesReport {
    /// Attribute by attribute.
    #[serde(flatten)]
    pub accuracy: Accuracy,
    /// Share of captions that are the scene's short one, word for word, 0 to 1.
    pub exact_short: f64,
    /// Share of captions that are the scene's descriptive one, word for word, 0 to 1.
    pub exact_descriptive: f64,
    /// Area under the ROC curve of `org_similarity` for telling original captions that name a true object from junk, 0 to
    /// 1; none where there are none of a kind.
    pub junk_auc: Option<f64>,
    /// Original captions that name a true object of their scene.
    pub originals_true: usize,
    /// Original captions that are junk. Others, which are neither, are not counted.
    pub originals_junk: usize,
}

impl ScenesReport {
    /// Of the samples that are scenes; none where there are none.
    pub(super) fn of(samples: &[Sample]) -> Option<Self> {
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
            "               of {} objects: colour {:.1} %, shape {:.1} %, size {:.1} %, place {:.1} %",
            a.objects,
            percent(a.colour, a.objects),
            percent(a.shape, a.objects),
            percent(a.size, a.objects),
            percent(a.place, a.objects)
        )?;
        if let Some(auc) = self.junk_auc {
            writeln!(
                f,
                "junk AUC       {auc:.4} similarity of {} original captions that name a true object against {} of junk",
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

    fn captioned(caption: String, original: Option<&str>, org_similarity: f32) -> Sample {
        Sample {
            caption,
            similarity: 0.5,
            original: original.map(str::to_owned),
            org_similarity: original.map(|_| org_similarity),
            references: Vec::new(),
            embeddings: None,
            scene: Some(scene()),
        }
    }

    #[test]
    fn junk_is_told_from_captions_with_known_values() {
        let scene = scene();
        let named = AltText::Names.text(&scene);
        let samples = [
            captioned(short(&scene), Some(&named), 0.35),
            captioned(short(&scene), Some(&descriptive(&scene)), 0.8),
            captioned(descriptive(&scene), Some("img_7.jpg"), 0.1),
            captioned(String::new(), Some("thumbnail"), 0.4),
            // Neither, and none.
            captioned(String::new(), Some("a dog"), 0.9),
            captioned(String::new(), None, 0.0),
            Sample { scene: None, ..captioned(short(&scene), Some("thumbnail"), 0.99) },
        ];
        let report = ScenesReport::of(&samples).expect("scenes");
        assert_eq!((report.junk_auc, report.originals_true, report.originals_junk), (Some(0.75), 2, 2));
        assert_eq!((report.exact_short, report.exact_descriptive), (2.0 / 6.0, 1.0 / 6.0));
        assert!(report.to_string().contains("junk AUC       0.7500"), "{report}");
        let json = serde_json::to_value(report).expect("JSON");
        assert_eq!((&json["junk_auc"], &json["captions"]), (&0.75.into(), &6.into()));

        let report = ScenesReport::of(&samples[..2]).expect("scenes");
        assert_eq!((report.junk_auc, report.originals_junk), (None, 0));
        assert!(!report.to_string().contains("AUC"), "{report}");
        assert!(ScenesReport::of(&samples[6..]).is_none());
    }
}
