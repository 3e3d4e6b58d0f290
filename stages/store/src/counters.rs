//! Counts of requests to stores.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation {
    /// Reads an object, part of one, or its metadata.
    Read,
    /// Writes an object, or starts an upload in pieces.
    Write,
    /// Lists objects; its pages are one request.
    List,
    /// Deletes objects.
    Delete,
    /// Copies an object.
    Copy,
}

impl StoreOperation {
    /// All operations.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::List, Self::Delete, Self::Copy];

    /// Returns the operation's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Copy => "copy",
        }
    }
}

/// Requests to all stores of one opener, attempts of the cloud clients' own not included.
#[derive(Debug, Default)]
pub struct StoreCounters {
    requests: [AtomicU64; 5],
    retried: AtomicU64,
}

impl StoreCounters {
    /// Returns the number of requests so far, further attempts included.
    #[must_use]
    pub fn requests(&self, operation: StoreOperation) -> u64 {
        self.requests[operation as usize].load(Relaxed)
    }

    /// Returns the number of further attempts so far.
    #[must_use]
    pub fn retried(&self) -> u64 {
        self.retried.load(Relaxed)
    }

    /// Counts a request.
    pub(crate) fn count(&self, operation: StoreOperation) {
        self.requests[operation as usize].fetch_add(1, Relaxed);
    }

    /// Counts a further attempt.
    pub(crate) fn count_retry(&self) {
        self.retried.fetch_add(1, Relaxed);
    }
}
