//! Sessions, created the same way for every graph: on the provider that was chosen, and with a word on which provider took it.
//!
//! A node that falls back to the CPU is told, never hidden.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use ort::{
    environment::Environment,
    ep::ExecutionProviderDispatch,
    logging::LogLevel,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};

use super::{
    Assignment, Execution, RuntimeError, assignment,
    copies::CopyLog,
    device::{Memory, OPSET},
    load_library,
    provider::{self, tensorrt},
};
use crate::{
    export::graph::GraphBuilder,
    model::{IMAGE_ENCODER_FILE, ModelFolder, Precision},
};

/// How sessions use the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads inside one operator, at least 1. They sleep when idle: other stages use the same cores.
    pub threads: usize,
    /// What computes.
    pub execution: Execution,
    /// Whether ONNX Runtime writes a profile of every graph, `recaption-<graph>_<time>.json`, into the working folder when
    /// its session ends.
    pub profile: bool,
    /// Whether a decoder's steps on a GPU may be captured once and replayed (CUDA graphs). Where ONNX Runtime refuses, they
    /// run as others do.
    pub cuda_graphs: bool,
    /// For tests: takes the way of a GPU (tensors stay with the session, tokens are chosen by a graph) on the CPU.
    #[doc(hidden)]
    pub as_device: bool,
    /// For tests: a decoder of more slots than this finds no memory.
    #[doc(hidden)]
    pub most_slots: Option<usize>,
    /// For tests: a decoder call fails while an image of this seed is in hand.
    #[doc(hidden)]
    pub refuses: Option<u64>,
}

impl SessionOptions {
    /// On the CPU.
    #[must_use]
    pub const fn on_cpu(threads: usize) -> Self {
        Self {
            threads,
            execution: Execution::Cpu,
            profile: false,
            cuda_graphs: true,
            as_device: false,
            most_slots: None,
            refuses: None,
        }
    }

    /// Whether tensors stay on a device between graphs.
    #[must_use]
    pub fn is_on_device(&self) -> bool {
        self.memory().is_some()
    }

    /// Where tensors stay between graphs; `None` is the host's memory, reached by plain slices.
    pub(crate) fn memory(&self) -> Option<Memory> {
        match self.execution {
            Execution::Cuda { device } | Execution::TensorRt { device } => Some(Memory::Cuda(device)),
            Execution::Cpu => self.as_device.then_some(Memory::Cpu),
        }
    }
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self::on_cpu(std::thread::available_parallelism().map_or(1, Into::into))
    }
}

/// Loads a graph of a model folder.
pub(super) fn create(
    model: &ModelFolder,
    file: &str,
    options: &SessionOptions,
) -> Result<Session, RuntimeError> {
    let providers = match options.execution {
        Execution::TensorRt { device } if file == IMAGE_ENCODER_FILE => {
            let settings = tensorrt::Settings::of(model, device, options.execution.encode_batch());
            settings.prepare()?;
            vec![settings.provider(), provider::cuda_provider(device, false)]
        }
        other => other.providers(),
    };
    create_on(model, file, options, providers)
}

/// Loads the decoder's graph with CUDA graphs, if there is a GPU, they are wanted and ONNX Runtime takes them; `true` beside
/// the session says that it does.
pub(super) fn create_for_replay(
    model: &ModelFolder,
    file: &str,
    options: &SessionOptions,
) -> Result<(Session, bool), RuntimeError> {
    if let Some(device) = options.execution.device().filter(|_| options.cuda_graphs) {
        match create_on(model, file, options, vec![provider::cuda_provider(device, true)]) {
            Ok(session) => return Ok((session, true)),
            Err(error) if error.is_out_of_memory() => return Err(error),
            Err(error) => {
                tracing::warn!(graph = file, %error, "ONNX Runtime refuses CUDA graphs; decoding without them");
            }
        }
    }
    Ok((create(model, file, options)?, false))
}

fn create_on(
    model: &ModelFolder,
    file: &str,
    options: &SessionOptions,
    providers: Vec<ExecutionProviderDispatch>,
) -> Result<Session, RuntimeError> {
    let path = model.path(file);
    let failed = |source| RuntimeError::Session { path: path.clone(), source };
    let environment = load_library()?;
    let name = file.trim_end_matches(".onnx");
    let copies = CopyLog::default();
    let session = builder(&environment, name, options, providers, &copies)
        .and_then(|mut b| b.commit_from_file(&path))
        .map_err(failed)?;
    refuse_copies(name, &copies)?;
    if model.spec.precision == Precision::Int8 && !fast_int8() {
        tracing::warn!(graph = name, "this CPU has no VNNI: int8 is likely slower than fp32 here");
    }
    report(name, &session, options.execution, |operator| HEAVY.contains(&operator));
    Ok(session)
}

/// Every graph here runs per token or per batch: copies between host and device are an error.
fn refuse_copies(graph: &str, copies: &CopyLog) -> Result<(), RuntimeError> {
    let copies = copies.copies();
    if copies.is_empty() {
        return Ok(());
    }
    Err(RuntimeError::Copies { graph: graph.to_owned(), copies: copies.join(", ") })
}

/// Loads a graph that was built at run time, on the same provider. Graphs are of [`OPSET`].
pub(crate) fn create_in_memory(
    name: &str,
    graph: GraphBuilder,
    options: &SessionOptions,
) -> Result<Session, RuntimeError> {
    let graph = graph.finish_as(OPSET)?;
    let failed = |source| RuntimeError::Built { graph: name.to_owned(), source };
    let environment = load_library()?;
    let copies = CopyLog::default();
    let session = builder(&environment, name, options, options.execution.providers(), &copies)
        .and_then(|mut b| b.commit_from_memory(&graph))
        .map_err(failed)?;
    refuse_copies(name, &copies)?;
    // Whatever is not arithmetic on shapes handles whole rows here.
    report(name, &session, options.execution, |operator| !LIGHT.contains(&operator));
    Ok(session)
}

fn builder(
    environment: &Environment,
    name: &str,
    options: &SessionOptions,
    providers: Vec<ExecutionProviderDispatch>,
    copies: &CopyLog,
) -> ort::Result<SessionBuilder> {
    let builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(options.threads.max(1))?
        .with_intra_op_spinning(false)?
        .with_config_entry(assignment::RECORD, "1")?
        .with_execution_providers(providers)?;
    // Copies are told at this level alone.
    let builder = if options.execution.is_gpu() {
        builder.with_logger(copies.logger(name))?.with_log_level(LogLevel::Info)?
    } else {
        builder
    };
    // Without VNNI, products of unsigned and signed bytes overflow in 16 bits: only then is the slow exact way taken.
    let builder = if fast_int8() { builder } else { builder.with_precise_qmm()? };
    Ok(if options.profile { builder.with_profiling(format!("recaption-{name}"))? } else { builder })
}

/// Whether this CPU multiplies bytes fast and without overflow: Arm's kernels do, x86's with VNNI.
fn fast_int8() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

/// Operators whose tensors are large: on the CPU they would drag them over the bus.
const HEAVY: [&str; 19] = [
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

/// Operators that may stand on the CPU in graphs built at run time: they compute shapes.
const LIGHT: [&str; 8] = ["Cast", "Concat", "Constant", "Gather", "Shape", "Slice", "Squeeze", "Unsqueeze"];

/// Says which provider took the graph, and what fell to the CPU although another one was asked for.
fn report(graph: &str, session: &Session, execution: Execution, is_heavy: impl Fn(&str) -> bool) {
    let assignment = match Assignment::of(session) {
        Ok(assignment) => assignment,
        Err(error) => {
            tracing::warn!(graph, %error, "ONNX Runtime does not tell which provider took the graph");
            return;
        }
    };
    let told = Told::of(&assignment, execution, is_heavy);
    // Copies of a model load the same graphs: once is enough.
    static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("{graph} {} {} {}", told.providers, told.nodes, told.cpu_nodes);
    if !KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(line) {
        return;
    }
    if execution == Execution::Cpu {
        tracing::info!(graph, provider = told.providers, nodes = told.nodes, "graph loaded");
        return;
    }
    tracing::info!(
        graph,
        provider = told.providers,
        nodes = told.nodes,
        cpu_nodes = told.cpu_nodes,
        "graph loaded"
    );
    if !told.heavy.is_empty() {
        tracing::warn!(
            graph,
            operators = told.heavy.join(", "),
            "large operators of this graph run on the CPU and not on the GPU: it will be slow"
        );
    }
}

/// What is said about a graph.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// Providers that took nodes, the CPU left out when others did: `CUDA`, `Tensorrt+CUDA`, `CPU`.
    providers: String,
    nodes: usize,
    cpu_nodes: usize,
    /// `2 MatMul`, only of those that a GPU should have taken.
    heavy: Vec<String>,
}

impl Told {
    fn of(assignment: &Assignment, execution: Execution, is_heavy: impl Fn(&str) -> bool) -> Self {
        const CPU: &str = "CPUExecutionProvider";
        let cpu = assignment.on(CPU);
        let short = |name: &str| name.trim_end_matches("ExecutionProvider").to_owned();
        let mut providers: Vec<String> =
            assignment.0.keys().filter(|name| *name != CPU).map(|name| short(name)).collect();
        if providers.is_empty() {
            providers.push(short(CPU));
        }
        // Engines come before single kernels.
        providers.sort_by_key(|name| !name.starts_with("Tensorrt"));
        let fallen = cpu.iter().filter(|(operator, _)| execution != Execution::Cpu && is_heavy(operator));
        Self {
            providers: providers.join("+"),
            nodes: assignment.nodes(),
            cpu_nodes: cpu.values().sum(),
            heavy: fallen.map(|(operator, count)| format!("{count} {operator}")).collect(),
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
    fn fallbacks_of_large_operators_are_named() {
        let mixed = assignment(&[
            ("CUDAExecutionProvider", "MatMul", 12),
            ("TensorrtExecutionProvider", "TRTKernel", 1),
            ("CPUExecutionProvider", "Shape", 4),
            ("CPUExecutionProvider", "GroupQueryAttention", 2),
        ]);
        let heavy = |operator: &str| HEAVY.contains(&operator);
        let told = Told::of(&mixed, Execution::Cuda { device: 0 }, heavy);
        assert_eq!((told.providers.as_str(), told.nodes, told.cpu_nodes), ("Tensorrt+CUDA", 19, 6));
        assert_eq!(told.heavy, ["2 GroupQueryAttention"]);
        let told = Told::of(&assignment(&[("CPUExecutionProvider", "MatMul", 3)]), Execution::Cpu, heavy);
        assert_eq!((told.providers.as_str(), told.cpu_nodes, told.heavy.len()), ("CPU", 3, 0));
    }
}
