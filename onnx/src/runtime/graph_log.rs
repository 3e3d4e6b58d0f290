//! Logs which execution providers run a graph's nodes: a node that falls back to the CPU is reported.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use ort::session::Session;

use super::{assignment::Assignment, execution::Execution};

/// Operators with large tensors: on the CPU, those would be copied over the bus.
const LARGE_OPERATORS: [&str; 19] = [
    "Attention",
    "BiasGelu",
    "Conv",
    "DynamicQuantizeMatMul",
    "FastGelu",
    "FusedGemm",
    "FusedMatMul",
    "Gelu",
    "Gemm",
    "GroupQueryAttention",
    "LayerNormalization",
    "MatMul",
    "MatMulNBits",
    "MultiHeadAttention",
    "QuickGelu",
    "SkipLayerNormalization",
    "Softmax",
    "Transpose",
    "LpNormalization",
];

/// Operators that compute shapes: they may run on the CPU in graphs built in memory.
const SHAPE_OPERATORS: [&str; 8] =
    ["Cast", "Concat", "Constant", "Gather", "Shape", "Slice", "Squeeze", "Unsqueeze"];

/// Returns whether an operator of a model's graph should not fall back to the CPU.
pub(super) fn is_large_in_model(operator: &str) -> bool {
    LARGE_OPERATORS.contains(&operator)
}

/// Returns whether an operator of a graph built in memory should not fall back to the CPU: all but arithmetic on shapes
/// processes whole rows there.
pub(super) fn is_large_in_memory(operator: &str) -> bool {
    !SHAPE_OPERATORS.contains(&operator)
}

/// Logs which providers run a session's nodes, and warns of large operators that fell back to the CPU.
pub(super) fn log_assignment(
    graph: &str,
    session: &Session,
    execution: Execution,
    is_large: impl Fn(&str) -> bool,
) {
    let assignment = match Assignment::of(session) {
        Ok(assignment) => assignment,
        Err(error) => {
            tracing::warn!(graph, %error, "cannot read which provider runs the graph");
            return;
        }
    };
    let summary = AssignmentSummary::new(&assignment, execution, is_large);
    // Copies of a model load the same graphs; each is logged once.
    static LOGGED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("{graph} {} {} {}", summary.providers, summary.nodes, summary.cpu_nodes);
    if !LOGGED.lock().unwrap_or_else(PoisonError::into_inner).insert(line) {
        return;
    }
    if execution == Execution::Cpu {
        tracing::debug!(graph, provider = summary.providers, nodes = summary.nodes, "graph loaded");
        return;
    }
    tracing::info!(
        graph,
        provider = summary.providers,
        nodes = summary.nodes,
        cpu_nodes = summary.cpu_nodes,
        "graph loaded"
    );
    if !summary.fallbacks.is_empty() {
        tracing::warn!(
            graph,
            operators = summary.fallbacks.join(", "),
            "large operators of this graph run on the CPU instead of the GPU; it will be slow"
        );
    }
}

/// What is logged about a graph.
#[derive(Debug, PartialEq, Eq)]
struct AssignmentSummary {
    /// Providers that run nodes, without the CPU if there are others: `CUDA`, `Tensorrt+CUDA`, `CPU`.
    providers: String,
    nodes: usize,
    cpu_nodes: usize,
    /// Large operators that run on the CPU although a GPU was chosen, as `2 MatMul`.
    fallbacks: Vec<String>,
}

impl AssignmentSummary {
    fn new(assignment: &Assignment, execution: Execution, is_large: impl Fn(&str) -> bool) -> Self {
        const CPU: &str = "CPUExecutionProvider";
        let cpu = assignment.on(CPU);
        let short = |name: &str| name.trim_end_matches("ExecutionProvider").to_owned();
        let mut providers: Vec<String> =
            assignment.0.keys().filter(|name| *name != CPU).map(|name| short(name)).collect();
        if providers.is_empty() {
            providers.push(short(CPU));
        }
        // TensorRT's engines are listed before CUDA's kernels.
        providers.sort_by_key(|name| !name.starts_with("Tensorrt"));
        let fallen = cpu.iter().filter(|(operator, _)| execution != Execution::Cpu && is_large(operator));
        Self {
            providers: providers.join("+"),
            nodes: assignment.nodes(),
            cpu_nodes: cpu.values().sum(),
            fallbacks: fallen.map(|(operator, count)| format!("{count} {operator}")).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn assignment(nodes: &[(&str, &str, usize)]) -> Assignment {
        let mut all: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for (provider, operator, count) in nodes {
            all.entry((*provider).to_owned()).or_default().insert((*operator).to_owned(), *count);
        }
        Assignment(all)
    }

    #[test]
    fn fallbacks_of_large_operators_are_listed() {
        let mixed = assignment(&[
            ("CUDAExecutionProvider", "MatMul", 12),
            ("TensorrtExecutionProvider", "TRTKernel", 1),
            ("CPUExecutionProvider", "Shape", 4),
            ("CPUExecutionProvider", "GroupQueryAttention", 2),
        ]);
        let summary = AssignmentSummary::new(&mixed, Execution::Cuda { device: 0 }, is_large_in_model);
        assert_eq!((summary.providers.as_str(), summary.nodes, summary.cpu_nodes), ("Tensorrt+CUDA", 19, 6));
        assert_eq!(summary.fallbacks, ["2 GroupQueryAttention"]);
        let cpu = assignment(&[("CPUExecutionProvider", "MatMul", 3)]);
        let summary = AssignmentSummary::new(&cpu, Execution::Cpu, is_large_in_model);
        assert_eq!((summary.providers.as_str(), summary.cpu_nodes, summary.fallbacks.len()), ("CPU", 3, 0));
    }
}
