//! Metrics against pycocoevalcap, and their edge cases.

use crate::*;

/// Metrics computed by pycocoevalcap 1.2 (scripts/make_metric_goldens.py).
#[derive(serde::Deserialize)]
struct Golden {
    cases: Vec<Case>,
    bleu: [f64; 4],
    cider: Vec<f64>,
    rouge: Vec<f64>,
}

#[derive(serde::Deserialize)]
struct Case {
    caption: String,
    references: Vec<String>,
}

fn golden() -> (Golden, Vec<EvalPair>) {
    let text = include_str!("../../../tests/data/metrics.json");
    let golden: Golden = serde_json::from_str(text).expect("a golden");
    let pair = |case: &Case| {
        let references: Vec<&str> = case.references.iter().map(String::as_str).collect();
        EvalPair::new(&case.caption, &references).expect("references")
    };
    let pairs = golden.cases.iter().map(pair).collect();
    (golden, pairs)
}

fn assert_near(name: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("{name}: largest difference to pycocoevalcap {worst:.1e}");
    assert!(worst < 1e-9, "{name}: {worst}");
    // A metric with one value everywhere would make the comparison empty.
    assert!(want.iter().any(|w| (w - want[0]).abs() > 0.01), "{name}");
}

#[test]
fn caption_metrics_equal_pycocoevalcap() {
    let (golden, pairs) = golden();
    assert_near("BLEU", &bleu(&pairs), &golden.bleu);
    assert_near("CIDEr-D", &cider_d(&pairs), &golden.cider);
    assert_near("ROUGE-L", &rouge_l(&pairs), &golden.rouge);
}

#[test]
fn empty_captions_score_zero() {
    let pairs = [
        EvalPair::new("", &["a cat"]).expect("one reference"),
        EvalPair::new("a cat", &["", "..."]).expect("two"),
    ];
    assert!(EvalPair::new("a cat", &[]).is_none());
    assert_eq!(rouge_l(&pairs), [0.0, 0.0]);
    assert!(cider_d(&pairs).iter().all(|v| *v == 0.0));
    assert!(bleu(&pairs).iter().all(|v| v.is_finite() && *v < 1e-6));
    assert_eq!((bleu(&[])[0], cider_d(&[]).len(), rouge_l(&[]).len()), (0.0, 0, 0));
}

#[test]
fn words_are_lower_case_without_punctuation() {
    assert_eq!(words("A  Cat, on-the mat.  It's 3.5!"), ["a", "cat", "on", "the", "mat", "it's", "3.5"]);
    assert!(words(" ... ").is_empty());
}

#[test]
fn recall_counts_ranks_and_ties_against_the_query() {
    let images = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
    // Text 0 is right, texts 1 and 2 are swapped.
    let texts = [1.0, 0.0, 0.6, 0.8, 0.0, 1.0];
    let found = recall(&images, &texts, 2);
    assert_eq!(found.image_to_text, [1.0 / 3.0, 1.0, 1.0]);
    assert_eq!(found.text_to_image, [1.0 / 3.0, 1.0, 1.0]);
    let alike = recall(&[1.0, 0.0].repeat(12), &[1.0, 0.0].repeat(12), 2);
    assert_eq!(alike.image_to_text, [0.0; 3]);
    assert_eq!(recall(&[], &[], 4).image_to_text, [0.0; 3]);
}

#[test]
fn distinct_counts_different_n_grams() {
    let captions = [words("a cat a cat"), words("a dog")];
    assert_eq!((distinct(&captions, 1), distinct(&captions, 2)), (3.0 / 6.0, 3.0 / 4.0));
    assert_eq!((distinct(&captions, 9), distinct(&[], 1), mean_words(&[])), (0.0, 0.0, 0.0));
    assert!((mean_words(&captions) - 3.0).abs() < 1e-12);
}
