//! Creates sessions, the same way for every graph: on the chosen provider, with a log line on which provider runs what.

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
    assignment::RECORD_ASSIGNMENT,
    copy_log::CopyLog,
    error::RuntimeError,
    execution::Execution,
    graph_log::{is_large_in_memory, is_large_in_model, log_assignment},
    library::load_library,
    options::SessionOptions,
    provider::{
        registration::{cuda_provider, execution_providers},
        tensorrt::TensorRtOptions,
    },
};
use crate::{
    export::graph::GraphBuilder,
    model::{IMAGE_ENCODER_FILE, ModelFolder, Precision},
};

/// Operator set of graphs that are built in memory: old enough that every provider has kernels for it.
const OPSET: i64 = 17;

/// Loads a graph of a model folder.
///
/// # Errors
/// When the library or the graph cannot be loaded.
pub(super) fn create(
    model: &ModelFolder,
    file: &str,
    options: &SessionOptions,
) -> Result<Session, RuntimeError> {
    let providers = match options.execution {
        Execution::TensorRt { device } if file == IMAGE_ENCODER_FILE => {
            let settings = TensorRtOptions::new(model, device, options.execution.encode_batch(model));
            settings.create_cache()?;
            vec![settings.provider(), cuda_provider(device, false)]
        }
        other => execution_providers(other),
    };
    create_on(model, file, options, providers)
}

/// Loads the decoder's graph, with CUDA graphs where they are enabled and supported. Returns the session, and whether it
/// uses CUDA graphs.
pub(super) fn create_for_replay(
    model: &ModelFolder,
    file: &str,
    options: &SessionOptions,
) -> Result<(Session, bool), RuntimeError> {
    if let Some(device) = options.execution.device().filter(|_| options.cuda_graphs) {
        match create_on(model, file, options, vec![cuda_provider(device, true)]) {
            Ok(session) => return Ok((session, true)),
            Err(error) if error.is_out_of_memory() => return Err(error),
            Err(error) => {
                tracing::warn!(graph = file, %error, "cannot use CUDA graphs; decoding without them");
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
    check_copies(name, &copies)?;
    if model.spec.precision == Precision::Int8 && !fast_int8() {
        tracing::warn!(graph = name, "this CPU has no VNNI; int8 is likely slower than fp32");
    }
    log_assignment(name, &session, options.execution, is_large_in_model);
    Ok(session)
}

/// Fails if ONNX Runtime inserted copies between host and device: every graph here runs per token or per batch.
fn check_copies(graph: &str, copies: &CopyLog) -> Result<(), RuntimeError> {
    let copies = copies.copies();
    if copies.is_empty() {
        return Ok(());
    }
    Err(RuntimeError::Copies { graph: graph.to_owned(), copies: copies.join(", ") })
}

/// Loads a graph that was built in memory, with operator set [`OPSET`], on the provider of `options`.
///
/// # Errors
/// When the graph breaks the rules of `export::host_inputs`, or ONNX Runtime cannot load it.
pub(crate) fn create_in_memory(
    name: &str,
    graph: GraphBuilder,
    options: &SessionOptions,
) -> Result<Session, RuntimeError> {
    let graph = graph.finish_as(OPSET)?;
    let failed = |source| RuntimeError::Built { graph: name.to_owned(), source };
    let environment = load_library()?;
    let copies = CopyLog::default();
    let session = builder(&environment, name, options, execution_providers(options.execution), &copies)
        .and_then(|mut b| b.commit_from_memory(&graph))
        .map_err(failed)?;
    check_copies(name, &copies)?;
    log_assignment(name, &session, options.execution, is_large_in_memory);
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
        .with_config_entry(RECORD_ASSIGNMENT, "1")?
        .with_execution_providers(providers)?;
    // Copies are logged at this level only.
    let builder = if options.execution.is_gpu() {
        builder.with_logger(copies.logger(name))?.with_log_level(LogLevel::Info)?
    } else {
        builder
    };
    // Without VNNI, products of unsigned and signed bytes overflow in 16 bits unless they are computed the slow way.
    let builder = if fast_int8() { builder } else { builder.with_precise_qmm()? };
    Ok(if options.profile { builder.with_profiling(format!("recaption-{name}"))? } else { builder })
}

/// Returns whether this CPU multiplies bytes fast and without overflow: on Arm always, on x86 with VNNI.
fn fast_int8() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        export::graph::{DType, Dim},
        runtime::assignment::Assignment,
    };

    #[test]
    fn every_node_of_a_cpu_session_is_assigned() {
        let mut g = GraphBuilder::new("three");
        let shape = [Dim::Named("rows"), Dim::Fixed(2)];
        let x = g.input("x", DType::F32, &shape);
        let y = g.op("Exp", &[&x], &[]);
        let y = g.op("Mul", &[&y, &x], &[]);
        let out = g.declare_output("y", DType::F32, &shape);
        g.op_into("Exp", &[&y], &out, &[]);
        let session = create_in_memory("three", g, &SessionOptions::on_cpu(1)).expect("session");
        let assignment = Assignment::of(&session).expect("recorded");
        assert_eq!(assignment.nodes(), 3);
        let cpu = assignment.on("CPUExecutionProvider");
        assert_eq!(cpu, BTreeMap::from([("Exp".to_owned(), 2), ("Mul".to_owned(), 1)]));
        assert!(assignment.on("CUDAExecutionProvider").is_empty());
    }
}
