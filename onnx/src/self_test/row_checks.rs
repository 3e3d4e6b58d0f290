//! Compares the device's rows with the CPU's.

use super::{
    inputs::IMAGES,
    workload::{CaptionOutputs, CaptionerOutputs, Graph, LogitsRow, ScorerOutputs},
};
use crate::{
    model::SpecialIds,
    verify::{
        compare::{cosine, min_or_nan},
        forced::GenerationLimits,
    },
};

/// Smallest allowed cosine of a row on the device and on the CPU.
const MIN_COSINE: f32 = 0.99;
/// Largest distance of the selected token's logit below the CPU's best one; standard deviations of the row.
const CHOICE_TOLERANCE: f32 = 0.25;
/// Largest difference of a pair's two logits on the device from the CPU's: a constant, and a share of the CPU's.
const MATCH_TOLERANCE: (f64, f64) = (0.1, 0.05);
/// Rows closer than this share of their length cannot be distinguished.
const MIN_RELATIVE_DISTANCE: f64 = 0.05;

/// Result for one graph.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphResult {
    /// The graph.
    pub graph: Graph,
    /// Rows compared.
    pub rows: usize,
    /// Smallest cosine; `None` for token selection.
    pub cosine: Option<f32>,
    /// How the device's results differ from the CPU's; `None` if they do not.
    pub fault: Option<String>,
}

/// Checks all graphs of a captioner, whose image features are `width` wide: 0 without any.
pub(super) fn check_captioner(
    cpu: &CaptionerOutputs,
    device: &CaptionerOutputs,
    special: SpecialIds,
    width: usize,
) -> Vec<GraphResult> {
    let features = |got: &[f32]| {
        (width > 0).then(|| check_features(Graph::ImageEncoder, &cpu.image_features, got, width))
    };
    let mut results: Vec<GraphResult> = features(&device.image_features).into_iter().collect();
    results.push(check_logits(&cpu.logits, &device.logits));
    if let Some(captions) = &device.captions {
        results.extend(features(&captions.image_features));
        results.push(check_selection(&cpu.logits, captions, special));
    }
    results
}

/// Checks all graphs of a scorer.
pub(super) fn check_scorer(cpu: &ScorerOutputs, device: &ScorerOutputs, width: usize) -> Vec<GraphResult> {
    let images = cpu.image_features.iter().zip(&device.image_features);
    let mut results: Vec<GraphResult> =
        images.map(|(cpu, device)| check_features(Graph::ScorerImageEncoder, cpu, device, width)).collect();
    results.push(check_features(Graph::ScorerTextEncoder, &cpu.text_features, &device.text_features, width));
    results.extend(cpu.matches.iter().zip(&device.matches).map(|(cpu, device)| check_matches(cpu, device)));
    results
}

/// Checks the logits of pairs of images and texts by the difference of the two, which the probability depends on alone.
fn check_matches(cpu: &[[f32; 2]], device: &[[f32; 2]]) -> GraphResult {
    let mut result =
        GraphResult { graph: Graph::ScorerFusion, rows: device.len(), cosine: None, fault: None };
    if cpu.len() != device.len() || cpu.is_empty() {
        result.fault = Some("the number of computed rows differs".into());
        return result;
    }
    let difference = |[other, matched]: &[f32; 2]| f64::from(*matched) - f64::from(*other);
    for (pair, (want, got)) in cpu.iter().zip(device).enumerate() {
        let (want, got) = (difference(want), difference(got));
        // False for NaN.
        let is_close = (want - got).abs() <= MATCH_TOLERANCE.0 + MATCH_TOLERANCE.1 * want.abs();
        if !is_close {
            result.fault =
                Some(format!("the logits of pair {pair} differ by {got:.3}, on the CPU by {want:.3}"));
            return result;
        }
    }
    result
}

/// Checks rows of features, as one group.
fn check_features(graph: Graph, cpu: &[f32], device: &[f32], width: usize) -> GraphResult {
    let rows = |values: &'_ [f32]| values.chunks_exact(width).map(<[f32]>::to_vec).collect::<Vec<_>>();
    check_groups(graph, &[rows(cpu)], &[rows(device)])
}

/// Checks rows of logits, with a group per step.
fn check_logits(cpu: &[LogitsRow], device: &[LogitsRow]) -> GraphResult {
    let steps = |rows: &[LogitsRow]| {
        let by_step = rows.chunk_by(|a, b| a.step == b.step);
        by_step.map(|rows| rows.iter().map(|row| row.logits.clone()).collect()).collect::<Vec<Vec<_>>>()
    };
    check_groups(Graph::Decoder, &steps(cpu), &steps(device))
}

/// Checks groups of rows: each row must have the direction of the CPU's, and be closer to it than to any other row of its group.
fn check_groups(graph: Graph, cpu: &[Vec<Vec<f32>>], device: &[Vec<Vec<f32>>]) -> GraphResult {
    let mut result = GraphResult { graph, rows: 0, cosine: None, fault: None };
    let sizes = |groups: &[Vec<Vec<f32>>]| {
        groups.iter().map(|group| group.iter().map(Vec::len).collect()).collect::<Vec<Vec<usize>>>()
    };
    if sizes(cpu) != sizes(device) || cpu.iter().all(Vec::is_empty) {
        result.fault = Some("the number of computed rows differs".into());
        return result;
    }
    let (mut smallest, mut mistaken) = (f32::INFINITY, 0);
    for (cpu, device) in cpu.iter().zip(device) {
        for (index, (want, got)) in cpu.iter().zip(device).enumerate() {
            result.rows += 1;
            smallest = min_or_nan(smallest, cosine(want, got));
            let own = distance(want, got);
            let far = MIN_RELATIVE_DISTANCE * distance(want, &vec![0.0; want.len()]);
            let others = cpu.iter().enumerate().filter(|(other, _)| *other != index);
            let mut others = others.filter(|(_, other)| distance(other, want) > far);
            mistaken += usize::from(others.any(|(_, other)| distance(other, got) <= own));
        }
    }
    result.cosine = Some(smallest);
    // False for NaN.
    let is_close = smallest >= MIN_COSINE;
    if !is_close {
        result.fault =
            Some(format!("the smallest cosine of {} rows is {smallest:.4}, below {MIN_COSINE}", result.rows));
    } else if mistaken > 0 {
        result.fault = Some(format!("{mistaken} of {} rows belong to another image or text", result.rows));
    }
    result
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

/// Checks the device's first tokens against the CPU's logits after the same prompt.
fn check_selection(cpu: &[LogitsRow], captions: &CaptionOutputs, special: SpecialIds) -> GraphResult {
    let limits = GenerationLimits { special, min_tokens: 0, max_tokens: 2 };
    let mut result = GraphResult { graph: Graph::TokenSelection, rows: 0, cosine: None, fault: None };
    for (image, id) in captions.first_ids.iter().enumerate() {
        let Some(row) = cpu.iter().find(|row| row.prompted_image == Some(image)) else { continue };
        result.rows += 1;
        let gap = limits.gap(&row.logits, *id, 0);
        let is_close = gap <= CHOICE_TOLERANCE;
        if !is_close {
            result.fault = Some(format!(
                "for image {image} it selected token {id}, whose logit is {gap:.2} standard deviations below the CPU's best (allowed {CHOICE_TOLERANCE})"
            ));
        }
    }
    if result.rows != IMAGES {
        result.fault = Some(format!("it captioned {} of {IMAGES} images", result.rows));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_rows_of_similar_direction_are_detected() {
        let rows: Vec<f32> = [[10.0, 1.0], [10.0, -0.4]].concat();
        let swapped: Vec<f32> = [[10.0, -0.4], [10.0, 1.0]].concat();
        let result = check_features(Graph::ImageEncoder, &rows, &rows, 2);
        assert_eq!((result.rows, result.fault), (2, None));
        let result = check_features(Graph::ImageEncoder, &rows, &swapped, 2);
        assert!(result.cosine > Some(0.99) && result.fault.expect("swapped").contains("another image"));
    }

    #[test]
    fn matches_are_compared_by_the_difference_of_their_logits() {
        let cpu = [[1.0, 2.0], [0.0, -4.0]];
        assert_eq!(check_matches(&cpu, &[[11.0, 12.05], [0.0, -4.2]]).fault, None);
        for other in [
            vec![[1.0, 2.0], [0.0, -5.0]],
            vec![[0.0, -4.0], [1.0, 2.0]],
            vec![[1.0, 2.0]],
            vec![[1.0, f32::NAN]; 2],
        ] {
            assert!(check_matches(&cpu, &other).fault.is_some(), "{other:?}");
        }
        assert!(check_matches(&[], &[]).fault.is_some());
    }

    #[test]
    fn nan_zeros_and_missing_rows_fail() {
        for got in [vec![f32::NAN, 1.0], vec![0.0, 0.0], vec![1.0], vec![-1.0, -2.0]] {
            assert!(check_features(Graph::Decoder, &[1.0, 2.0], &got, 2).fault.is_some(), "{got:?}");
        }
        assert!(check_features(Graph::Decoder, &[], &[], 2).fault.is_some());
    }
}
