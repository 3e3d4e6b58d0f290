//! Compares what a device computed with what the CPU computed.

use super::{
    exercise::{CaptionAnswers, CaptionerAnswers, Graph, LogitsRow, ScorerAnswers},
    inputs::PICTURES,
};
use crate::{
    model::SpecialIds,
    verify::{
        compare::{cosine, least},
        forced::GenerationRules,
    },
};

/// Smallest cosine of a row on the device and on the CPU.
pub const LEAST_COSINE: f32 = 0.99;
/// How far below the CPU's best logit a token that the device chose may lie, standard deviations of the row.
pub const CHOICE_TOLERANCE: f32 = 0.25;
/// Rows of the CPU whose distance is less than this share of their length are too alike to be told apart.
const LEAST_DISTANCE: f64 = 0.05;

/// What was found about one graph.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphResult {
    /// The graph.
    pub graph: Graph,
    /// Rows compared.
    pub rows: usize,
    /// Smallest cosine; none of a graph that chooses.
    pub cosine: Option<f32>,
    /// Why the device's results are not the CPU's; none where they are.
    pub fault: Option<String>,
}

/// All graphs of a captioner.
pub fn captioner(
    cpu: &CaptionerAnswers,
    device: &CaptionerAnswers,
    special: SpecialIds,
    width: usize,
) -> Vec<GraphResult> {
    let mut results = vec![
        features(Graph::ImageEncoder, &cpu.image_features, &device.image_features, width),
        logits(&cpu.logits, &device.logits),
    ];
    if let Some(captions) = &device.captions {
        results.push(features(Graph::ImageEncoder, &cpu.image_features, &captions.image_features, width));
        results.push(choices(&cpu.logits, captions, special));
    }
    results
}

/// All graphs of a scorer.
pub fn scorer(cpu: &ScorerAnswers, device: &ScorerAnswers, width: usize) -> Vec<GraphResult> {
    let images = cpu.image_features.iter().zip(&device.image_features);
    let mut results: Vec<GraphResult> =
        images.map(|(cpu, device)| features(Graph::ScorerImageEncoder, cpu, device, width)).collect();
    results.push(features(Graph::ScorerTextEncoder, &cpu.text_features, &device.text_features, width));
    results
}

/// Rows of features, each of which may be mistaken for each other.
fn features(graph: Graph, cpu: &[f32], device: &[f32], width: usize) -> GraphResult {
    let rows = |values: &'_ [f32]| values.chunks_exact(width).map(<[f32]>::to_vec).collect::<Vec<_>>();
    compare(graph, &[rows(cpu)], &[rows(device)])
}

/// Rows of logits; those of one step may be mistaken for each other.
fn logits(cpu: &[LogitsRow], device: &[LogitsRow]) -> GraphResult {
    let steps = |rows: &[LogitsRow]| {
        let by_step = rows.chunk_by(|a, b| a.step == b.step);
        by_step.map(|rows| rows.iter().map(|row| row.logits.clone()).collect()).collect::<Vec<Vec<_>>>()
    };
    compare(Graph::Decoder, &steps(cpu), &steps(device))
}

/// Groups of rows: each row must have the direction of the CPU's, and be nearer to it than to any other of its group.
fn compare(graph: Graph, cpu: &[Vec<Vec<f32>>], device: &[Vec<Vec<f32>>]) -> GraphResult {
    let mut result = GraphResult { graph, rows: 0, cosine: None, fault: None };
    let sizes = |groups: &[Vec<Vec<f32>>]| {
        groups.iter().map(|group| group.iter().map(Vec::len).collect()).collect::<Vec<Vec<usize>>>()
    };
    if sizes(cpu) != sizes(device) || cpu.iter().all(Vec::is_empty) {
        result.fault = Some("it computed another number of rows".into());
        return result;
    }
    let (mut smallest, mut mistaken) = (f32::INFINITY, 0);
    for (cpu, device) in cpu.iter().zip(device) {
        for (index, (want, got)) in cpu.iter().zip(device).enumerate() {
            result.rows += 1;
            smallest = least(smallest, cosine(want, got));
            let own = distance(want, got);
            let far = LEAST_DISTANCE * distance(want, &vec![0.0; want.len()]);
            let others = cpu.iter().enumerate().filter(|(other, _)| *other != index);
            let mut others = others.filter(|(_, other)| distance(other, want) > far);
            mistaken += usize::from(others.any(|(_, other)| distance(other, got) <= own));
        }
    }
    result.cosine = Some(smallest);
    // Not a number is not at least anything.
    let is_near = smallest >= LEAST_COSINE;
    if !is_near {
        result.fault = Some(format!(
            "the smallest cosine of {} rows is {smallest:.4}, where at least {LEAST_COSINE} is needed",
            result.rows
        ));
    } else if mistaken > 0 {
        result.fault = Some(format!("{mistaken} of {} rows are those of another image or text", result.rows));
    }
    result
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

/// The device's first tokens against the CPU's logits for the same beginning.
fn choices(cpu: &[LogitsRow], captions: &CaptionAnswers, special: SpecialIds) -> GraphResult {
    let rules = GenerationRules { special, min_tokens: 0, max_tokens: 2 };
    let mut result = GraphResult { graph: Graph::TokenSelection, rows: 0, cosine: None, fault: None };
    for (image, id) in captions.first_ids.iter().enumerate() {
        let Some(row) = cpu.iter().find(|row| row.asked == Some(image)) else { continue };
        result.rows += 1;
        let gap = rules.gap(&row.logits, *id, 0);
        let is_near = gap <= CHOICE_TOLERANCE;
        if !is_near {
            result.fault = Some(format!(
                "for picture {image} it chose token {id}, whose logit lies {gap:.2} standard deviations below the CPU's best, where {CHOICE_TOLERANCE} is allowed"
            ));
        }
    }
    if result.rows != PICTURES {
        result.fault = Some(format!("it captioned {} of {PICTURES} pictures", result.rows));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_another_image_are_noticed_although_all_point_one_way() {
        let rows: Vec<f32> = [[10.0, 1.0], [10.0, -0.4]].concat();
        let swapped: Vec<f32> = [[10.0, -0.4], [10.0, 1.0]].concat();
        let result = features(Graph::ImageEncoder, &rows, &rows, 2);
        assert_eq!((result.rows, result.fault), (2, None));
        let result = features(Graph::ImageEncoder, &rows, &swapped, 2);
        assert!(result.cosine > Some(0.99) && result.fault.expect("swapped").contains("another image"));
    }

    #[test]
    fn nan_zeros_and_missing_rows_fail() {
        for got in [vec![f32::NAN, 1.0], vec![0.0, 0.0], vec![1.0], vec![-1.0, -2.0]] {
            assert!(features(Graph::Decoder, &[1.0, 2.0], &got, 2).fault.is_some(), "{got:?}");
        }
        assert!(features(Graph::Decoder, &[], &[], 2).fault.is_some());
    }
}
