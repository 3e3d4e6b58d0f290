//! Which execution provider runs which node of a session, as recorded by ONNX Runtime.
//!
//! The only module with `unsafe`: `ort` has no safe function for this part of the C API (version 24). It copies strings that
//! ONNX Runtime owns; it changes nothing and keeps no pointer.

#![allow(
    unsafe_code,
    reason = "Session_GetEpGraphAssignmentInfo and its getters are C functions without a safe wrapper"
)]

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char},
};

use ort::{AsPointer, session::Session};

/// Session option that makes ONNX Runtime record its assignment.
pub(super) const RECORD_ASSIGNMENT: &str = "session.record_ep_graph_assignment_info";

/// Nodes per provider and operator: `provider -> operator -> count`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Assignment(pub(super) BTreeMap<String, BTreeMap<String, usize>>);

impl Assignment {
    /// Reads the assignment of a session that was created with `session.record_ep_graph_assignment_info` = 1, as all are
    /// here.
    ///
    /// # Errors
    /// When ONNX Runtime did not record it.
    pub(super) fn of(session: &Session) -> ort::Result<Self> {
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

    /// Returns the number of nodes of all providers.
    pub(super) fn nodes(&self) -> usize {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    /// Returns the nodes of one provider by operator.
    pub(super) fn on(&self, provider: &str) -> BTreeMap<String, usize> {
        self.0.get(provider).cloned().unwrap_or_default()
    }
}

/// Returns a C array as a slice, empty for a null pointer.
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

/// Returns a copy of the string that a getter yields.
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
