//! Copies between host and device that ONNX Runtime adds to a graph, read from its log: nothing in its API tells them.
//!
//! A graph that runs per token or per batch has none: `export::host_inputs` sees to that before a graph is written. This is
//! the runtime's own word on it, for graphs of other versions and for kernels that differ from the table.

use std::sync::{Arc, Mutex, PoisonError};

use ort::logging::{LogLevel, LoggerFunction};

/// What a session's log said of copies while it was created.
#[derive(Clone, Default)]
pub struct CopyLog(Arc<Mutex<Vec<String>>>);

impl CopyLog {
    /// A logger for one session that collects copies and hands errors on.
    pub fn logger(&self, graph: &str) -> LoggerFunction {
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

    /// The copies: direction and value, as ONNX Runtime names them.
    pub fn copies(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `Add MemcpyToHost before total_12 for CUDAExecutionProvider` -> `MemcpyToHost before total_12`; the line that counts them,
/// `2 Memcpy nodes are added to the graph decoder for ...`, as far as the graph's name. From ONNX Runtime's
/// `core/optimizer/transformer_memcpy.cc`.
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
    fn copies_are_read_from_the_log() {
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

    /// The log of a session that is made here reaches the logger: on the CPU it tells of no copies, but of other things.
    #[test]
    fn a_sessions_log_reaches_its_logger() {
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
