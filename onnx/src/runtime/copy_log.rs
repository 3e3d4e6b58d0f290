//! Copies between host and device that ONNX Runtime inserts into a graph, read from its log because no API reports them.
//!
//! `export::host_inputs` prevents them in the graphs of this crate; this check covers graphs of other versions and kernels
//! that differ from the table there.

use std::sync::{Arc, Mutex, PoisonError};

use ort::logging::{LogLevel, LoggerFunction};

/// Copies that were logged while a session was created.
#[derive(Clone, Debug, Default)]
pub(super) struct CopyLog(Arc<Mutex<Vec<String>>>);

impl CopyLog {
    /// Returns a logger for one session that collects copies and forwards errors.
    pub(super) fn logger(&self, graph: &str) -> LoggerFunction {
        let (copies, graph) = (Arc::clone(&self.0), graph.to_owned());
        Arc::new(move |level, _category, _id, _location, message| {
            if let Some(copy) = copied_value(message) {
                copies.lock().unwrap_or_else(PoisonError::into_inner).push(copy.to_owned());
            }
            match level {
                LogLevel::Error | LogLevel::Fatal => tracing::error!(graph, "ONNX Runtime: {message}"),
                LogLevel::Warning => tracing::debug!(graph, "ONNX Runtime: {message}"),
                LogLevel::Verbose | LogLevel::Info => {}
            }
        })
    }

    /// Returns direction and value of the copies, as ONNX Runtime names them.
    pub(super) fn copies(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Extracts the copy from a log message: `Add MemcpyToHost before total_12 for CUDAExecutionProvider` ->
/// `MemcpyToHost before total_12`. The line that counts them, `2 Memcpy nodes are added to the graph decoder for ...`, is
/// returned up to the graph's name. Source: ONNX Runtime's `core/optimizer/transformer_memcpy.cc`.
fn copied_value(message: &str) -> Option<&str> {
    if let Some(copy) = message.strip_prefix("Add Memcpy") {
        let end = copy.find(" for ").unwrap_or(copy.len());
        return Some(&message["Add ".len().."Add Memcpy".len() + end]);
    }
    let (count, _) = message.split_once(" Memcpy nodes are added to the graph ")?;
    (count.parse::<u32>().is_ok()).then(|| message.split(" for ").next().unwrap_or(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::graph::{DType, Dim, GraphBuilder},
        runtime::load_library,
    };

    #[test]
    fn copies_are_parsed_from_log_messages() {
        for (line, copy) in [
            ("Add MemcpyToHost before add_9 for CUDAExecutionProvider", Some("MemcpyToHost before add_9")),
            (
                "Add MemcpyFromHost after shape_2 for CUDAExecutionProvider",
                Some("MemcpyFromHost after shape_2"),
            ),
            (
                "2 Memcpy nodes are added to the graph decoder for CUDAExecutionProvider. It might have negative impact on performance",
                Some("2 Memcpy nodes are added to the graph decoder"),
            ),
            ("Memcpy nodes are fine", None),
            ("GraphTransformer MemcpyTransformer modified: 0 with status: OK", None),
        ] {
            assert_eq!(copied_value(line), copy, "{line}");
        }
    }

    /// On the CPU a session logs other things, but no copies.
    #[test]
    fn session_log_reaches_the_logger() {
        let mut g = GraphBuilder::new("g");
        let x = g.input("x", DType::F32, &[Dim::Named("n")]);
        let y = g.declare_output("y", DType::F32, &[Dim::Named("n")]);
        g.op_into("Exp", &[&x], &y, &[]);
        let lines = Arc::new(Mutex::new(0));
        let (log, count) = (CopyLog::default(), Arc::clone(&lines));
        let inner = log.logger("g");
        let logger: LoggerFunction = Arc::new(move |level, category, id, location, message| {
            *count.lock().expect("count") += 1;
            inner(level, category, id, location, message);
        });
        let _session = ort::session::Session::builder(&load_library().expect("ONNX Runtime"))
            .and_then(|b| Ok(b.with_logger(logger)?.with_log_level(LogLevel::Info)?))
            .and_then(|mut b| b.commit_from_memory(&g.finish().expect("a graph")))
            .expect("a session");
        assert!(*lines.lock().expect("count") > 3, "nothing was logged");
        assert!(log.copies().is_empty());
    }
}
