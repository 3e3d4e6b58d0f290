//! Request rates of a bucket: token buckets as S3 documents them, and counts of every request.

use std::collections::BTreeMap;

/// What a request does. The order is that of the reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RequestKind {
    /// Reads an object.
    Get,
    /// Reads an object's metadata.
    Head,
    /// Reads one page of a listing.
    List,
    /// Writes an object.
    Put,
    /// Deletes objects.
    Delete,
}

impl RequestKind {
    /// Returns the name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::List => "LIST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }

    fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Delete)
    }
}

/// The limits of one partition of a bucket, in requests per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimits {
    /// PUT, COPY, POST and DELETE.
    pub writes: f64,
    /// GET, HEAD and LIST.
    pub reads: f64,
    /// Whether each folder has these limits, as after S3 has split a busy bucket; otherwise the whole bucket shares them.
    pub by_folder: bool,
}

impl RateLimits {
    /// S3's, of a bucket that was not split into partitions yet.
    pub(crate) const S3: Self = Self { writes: 3500.0, reads: 5500.0, by_folder: false };
}

/// Requests of one folder and kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestCount {
    /// Requests that were served.
    pub served: u64,
    /// Requests that were answered with 503 SlowDown.
    pub refused: u64,
}

/// One limit: tokens, and the rate of the current second.
#[derive(Debug)]
struct Meter {
    tokens: f64,
    filled: f64,
    second: u64,
    count: u64,
    peak: u64,
}

/// The highest number of requests that arrived in one second, refused ones included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeakRates {
    /// PUT and DELETE.
    pub writes: u64,
    /// GET, HEAD and LIST.
    pub reads: u64,
}

/// Counts and limits requests.
#[derive(Debug)]
pub(crate) struct Traffic {
    limits: RateLimits,
    meters: BTreeMap<(String, bool), Meter>,
    counts: BTreeMap<(String, RequestKind), RequestCount>,
}

impl Traffic {
    /// Returns the traffic of an unused bucket.
    pub(crate) fn new(limits: RateLimits) -> Self {
        Self { limits, meters: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// Admits a request of `weight` keys at `now` seconds, or refuses it.
    pub(crate) fn admit(&mut self, now: f64, kind: RequestKind, path: &str, weight: f64) -> bool {
        let folder = folder_of(path);
        let limit = if kind.is_write() { self.limits.writes } else { self.limits.reads };
        let partition = if self.limits.by_folder { folder } else { "" };
        let key = (partition.to_owned(), kind.is_write());
        let fresh = || Meter { tokens: limit, filled: now, second: 0, count: 0, peak: 0 };
        let meter = self.meters.entry(key).or_insert_with(fresh);
        meter.tokens = (meter.tokens + (now - meter.filled) * limit).min(limit);
        meter.filled = now;
        let second = now as u64;
        if second != meter.second {
            (meter.second, meter.count) = (second, 0);
        }
        meter.count += weight as u64;
        meter.peak = meter.peak.max(meter.count);
        // A batch of deletions may overdraw the tokens: it is one request.
        let admitted = meter.tokens >= 1.0;
        if admitted {
            meter.tokens -= weight;
        }
        let count = self.counts.entry((folder.to_owned(), kind)).or_default();
        if admitted {
            count.served += 1;
        } else {
            count.refused += 1;
        }
        admitted
    }

    /// Returns the counts by folder and kind.
    pub(crate) fn counts(&self) -> &BTreeMap<(String, RequestKind), RequestCount> {
        &self.counts
    }

    /// Returns the requests of a kind that were served, of all folders.
    pub(crate) fn served(&self, kind: RequestKind) -> u64 {
        self.counts.iter().filter(|((_, of), _)| *of == kind).map(|(_, count)| count.served).sum()
    }

    /// Returns the highest rates of any partition.
    pub(crate) fn peaks(&self) -> PeakRates {
        let peak = |writes| {
            let meters = self.meters.iter().filter(|((_, of), _)| *of == writes);
            meters.map(|(_, meter)| meter.peak).max().unwrap_or(0)
        };
        PeakRates { writes: peak(true), reads: peak(false) }
    }
}

/// Returns the folder of a path: everything before the last slash.
fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}
