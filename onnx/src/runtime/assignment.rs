//! Which execution provider took which node of a session, as ONNX Runtime itself tells it.
//!
//! The one place with `unsafe`: `ort` has no safe function for this part of the C API (version 24). It reads strings that
//! ONNX Runtime owns and copies them; it changes nothing and keeps no pointer.

#![allow(
    unsafe_code,
    reason = "Session_GetEpGraphAssignmentInfo and its getters are C functions without a safe wrapper"
)]

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char},
};

use ort::{AsPointer, session::Session};

/// Session option that makes ONNX Runtime remember its assignment.
pub const RECORD: &str = "session.record_ep_graph_assignment_info";

/// Nodes per provider and operator: `provider -> operator -> count`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment(pub BTreeMap<String, BTreeMap<String, usize>>);

impl Assignment {
    /// Of a session that was made with `session.record_ep_graph_assignment_info` set to 1, as all are here.
    ///
    /// # Errors
    /// When ONNX Runtime did not record it.
    pub fn of(session: &Session) -> ort::Result<Self> {
        let api = ort::api();
        let (mut subgraphs, mut count) = (std::ptr::null(), 0);
        // SAFETY: the session is alive, both places are ours. ONNX Runtime writes an array that lives as long as the session.
        let status = unsafe {
            (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &raw mut subgraphs, &raw mut count)
        };
        // SAFETY: the status is fresh and handed over.
        unsafe { ort::Error::result_from_status(status) }?;
        let mut assignment = Self::default();
        // SAFETY: the array that was just written, `count` long; borrowed no longer than `session`.
        for subgraph in unsafe { array(subgraphs, count) } {
            // SAFETY: a subgraph of a live session, and the getter of its name.
            let provider = unsafe { text(|out| (api.EpAssignedSubgraph_GetEpName)(*subgraph, out)) }?;
            let operators = assignment.0.entry(provider).or_default();
            let (mut nodes, mut count) = (std::ptr::null(), 0);
            // SAFETY: as for the subgraphs.
            let status =
                unsafe { (api.EpAssignedSubgraph_GetNodes)(*subgraph, &raw mut nodes, &raw mut count) };
            // SAFETY: the status is fresh and handed over.
            unsafe { ort::Error::result_from_status(status) }?;
            // SAFETY: as for the subgraphs.
            for node in unsafe { array(nodes, count) } {
                // SAFETY: a node of a live session, and the getter of its operator.
                let operator = unsafe { text(|out| (api.EpAssignedNode_GetOperatorType)(*node, out)) }?;
                *operators.entry(operator).or_default() += 1;
            }
        }
        Ok(assignment)
    }

    /// Nodes of all providers.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    /// Nodes of one provider by operator.
    #[must_use]
    pub fn on(&self, provider: &str) -> BTreeMap<String, usize> {
        self.0.get(provider).cloned().unwrap_or_default()
    }
}

/// An array of C, empty when there is none.
///
/// # Safety
/// `first` is null, or points at `count` values that live for `'a`.
unsafe fn array<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// A copy of the string that a getter yields.
///
/// # Safety
/// `get` writes null or a string that ends in a zero byte and outlives this call.
unsafe fn text(get: impl FnOnce(*mut *const c_char) -> ort::sys::OrtStatusPtr) -> ort::Result<String> {
    let mut out = std::ptr::null();
    let status = get(&raw mut out);
    // SAFETY: the status is fresh and handed over.
    unsafe { ort::Error::result_from_status(status) }?;
    if out.is_null() {
        return Ok(String::new());
    }
    // SAFETY: not null, and the caller's promise.
    Ok(unsafe { CStr::from_ptr(out) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use crate::{
        export::graph::{DType, Dim, GraphBuilder},
        runtime::{SessionOptions, session},
    };

    use super::*;

    #[test]
    fn every_node_of_a_cpu_session_is_told() {
        let mut g = GraphBuilder::new("three");
        let shape = [Dim::Named("rows"), Dim::Fixed(2)];
        let x = g.input("x", DType::F32, &shape);
        let y = g.op("Exp", &[&x], &[]);
        let y = g.op("Mul", &[&y, &x], &[]);
        let out = g.declare_output("y", DType::F32, &shape);
        g.op_into("Exp", &[&y], &out, &[]);
        let session = session::create_in_memory("three", g, &SessionOptions::on_cpu(1)).expect("session");
        let assignment = Assignment::of(&session).expect("recorded");
        assert_eq!(assignment.nodes(), 3);
        let cpu = assignment.on("CPUExecutionProvider");
        assert_eq!(cpu, BTreeMap::from([("Exp".to_owned(), 2), ("Mul".to_owned(), 1)]));
        assert!(assignment.on("CUDAExecutionProvider").is_empty());
    }
}
