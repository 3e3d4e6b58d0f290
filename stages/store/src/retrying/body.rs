//! An object's bytes, resumed where a connection breaks.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{Error, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, Result, path::Path};
use tokio::time::Instant;

use super::{
    attempts::{Attempts, io_error, timeout_error},
    versions::is_unversioned,
};
use crate::{ErrorKind, RetryBudget, StoreOperation};

/// Bytes that count as progress and restore the attempts; of large objects a [`PROGRESS_SHARE`]th of them. A server whose
/// connections always break earlier is not retried without end.
const PROGRESS_BYTES: u64 = 256 << 10;
/// See [`PROGRESS_BYTES`].
const PROGRESS_SHARE: u64 = 1000;
/// A quarter of the rest is progress too: a small object need not come in one piece.
const PROGRESS_REST_SHARE: u64 = 4;

/// The body of a GET request in flight.
pub(super) struct ResumableBody {
    attempts: Attempts,
    location: Path,
    options: GetOptions,
    budget: RetryBudget,
    /// Metadata of the object when its first byte was sent.
    meta: ObjectMeta,
    /// Bytes of the object that were asked for.
    range: Range<u64>,
    /// Offset of the next byte.
    offset: u64,
    /// Bytes since the connection broke last.
    progress: u64,
    /// Time spent waiting, and bytes received in it, since the throughput was checked last.
    waited: Duration,
    received: u64,
    stream: Option<BoxStream<'static, Result<Bytes>>>,
}

impl ResumableBody {
    /// Returns the body of a first response, whose stream is `stream`.
    pub(super) fn new(
        attempts: Attempts,
        location: Path,
        options: GetOptions,
        (meta, range): (ObjectMeta, Range<u64>),
        stream: BoxStream<'static, Result<Bytes>>,
    ) -> Self {
        Self {
            budget: attempts.budget(),
            attempts,
            location,
            meta,
            offset: range.start,
            progress: 0,
            waited: Duration::ZERO,
            received: 0,
            range,
            options,
            stream: Some(stream),
        }
    }

    /// Returns the bytes as a stream that ends after the last one, or after an error.
    pub(super) fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        let stream = futures::stream::unfold(Some(self), |body| async {
            let mut body = body?;
            match body.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(body))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        // Fused: object_store polls the stream of an empty object after its end.
        stream.fuse().boxed()
    }

    /// Returns the next bytes, `None` after the last one.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.stream.is_none() && self.offset < self.range.end {
                self.attempts.counters.count(StoreOperation::Read);
                match self.resume_request().send().await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) => {
                        self.on_disconnect(error).await?;
                        continue;
                    }
                }
            }
            let timeout = self.attempts.settings.timeout;
            let Some(stream) = &mut self.stream else { return Ok(None) };
            let began = Instant::now();
            let piece = tokio::time::timeout(timeout, stream.next()).await;
            self.waited += began.elapsed();
            let error = match piece {
                Ok(Some(Ok(bytes))) if self.offset + bytes.len() as u64 > self.range.end => {
                    io_error(std::io::ErrorKind::UnexpectedEof, "more bytes than announced".into())
                }
                Ok(Some(Ok(bytes))) if bytes.is_empty() => continue,
                Ok(Some(Ok(bytes))) => match self.record_progress(bytes.len() as u64) {
                    Ok(()) => return Ok(Some(bytes)),
                    Err(error) => {
                        // The bytes are kept: the next attempt begins after them.
                        self.stream = None;
                        self.on_disconnect(error).await?;
                        return Ok(Some(bytes));
                    }
                },
                // All bytes are there, so it does not matter how the connection ends. Clients ask for the empty rest, which
                // servers refuse.
                Ok(None | Some(Err(_))) | Err(_) if self.offset == self.range.end => return Ok(None),
                Ok(Some(Err(error))) => error,
                Ok(None) => {
                    let what = format!("the connection ended at byte {} of {}", self.offset, self.range.end);
                    io_error(std::io::ErrorKind::UnexpectedEof, what)
                }
                Err(_) => timeout_error(timeout),
            };
            self.stream = None;
            self.on_disconnect(error).await?;
        }
    }

    fn resume_request(&self) -> ResumeRequest {
        ResumeRequest {
            inner: Arc::clone(&self.attempts.inner),
            timeout: self.attempts.settings.timeout,
            location: self.location.clone(),
            options: self.options.clone(),
            meta: self.meta.clone(),
            rest: self.offset..self.range.end,
        }
    }

    /// Counts received bytes and restores the attempts after progress. Returns an error when the throughput is too low.
    fn record_progress(&mut self, bytes: u64) -> Result<()> {
        self.offset += bytes;
        self.received += bytes;
        self.progress += bytes;
        let size = self.range.end - self.range.start;
        let rest_before = self.range.end - self.offset + self.progress;
        if self.progress >= PROGRESS_BYTES.max(size / PROGRESS_SHARE)
            || self.progress >= rest_before / PROGRESS_REST_SHARE
        {
            self.budget.reset();
            self.progress = 0;
        }
        if self.waited < self.attempts.settings.timeout || self.offset == self.range.end {
            return Ok(());
        }
        let (waited, received) = (std::mem::take(&mut self.waited), std::mem::take(&mut self.received));
        let least = self.attempts.settings.min_bytes_per_second;
        if received as f64 >= least as f64 * waited.as_secs_f64() {
            return Ok(());
        }
        let what = format!(
            "{received} bytes in {:.1} seconds, less than the minimum of {least} bytes per second",
            waited.as_secs_f64()
        );
        Err(io_error(std::io::ErrorKind::TimedOut, what))
    }

    /// Pauses before the body is resumed, or returns why it cannot be.
    async fn on_disconnect(&mut self, error: Error) -> Result<()> {
        (self.progress, self.waited, self.received) = (0, Duration::ZERO, 0);
        let begun = self.offset > self.range.start;
        if begun && self.offset < self.range.end && is_unversioned(&self.meta) {
            let what = format!(
                "the connection broke at byte {} of an object without entity tag and modification time, so it cannot be \
                 resumed: {error}",
                self.offset
            );
            return Err(io_error(std::io::ErrorKind::ConnectionReset, what));
        }
        // The client's own attempts do not count as long as bytes come.
        let error = match ErrorKind::of(&error) {
            ErrorKind::Exhausted => io_error(std::io::ErrorKind::ConnectionReset, error.to_string()),
            _ => error,
        };
        self.attempts.pause(&mut self.budget, "reading", &self.location, error).await
    }
}

/// A request for the rest of an object.
struct ResumeRequest {
    inner: Arc<dyn ObjectStore>,
    timeout: Duration,
    location: Path,
    /// Options of the first request.
    options: GetOptions,
    /// Metadata of the object when its first byte was sent.
    meta: ObjectMeta,
    rest: Range<u64>,
}

impl ResumeRequest {
    /// Returns the rest of the object, provided that it is unchanged.
    async fn send(self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let mut options = self.options.clone();
        options.range = Some(GetRange::Bounded(self.rest.clone()));
        match self.get(options).await {
            Ok(got) => Ok(got.into_stream()),
            // A web server without ranges sends the whole object; the bytes that are known are skipped.
            Err(error) if self.options.range.is_none() && ErrorKind::is_range_unsupported(&error) => {
                let got = self.get(self.options.clone()).await?;
                let mut skip = self.rest.start - got.range.start;
                let rest = got.into_stream().map(move |piece| {
                    piece.map(|mut bytes| {
                        let now = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
                        skip -= now as u64;
                        bytes.split_off(now)
                    })
                });
                Ok(rest.boxed())
            }
            Err(error) => Err(error),
        }
    }

    async fn get(&self, options: GetOptions) -> Result<GetResult> {
        let call = self.inner.get_opts(&self.location, options);
        let got =
            tokio::time::timeout(self.timeout, call).await.map_err(|_| timeout_error(self.timeout))??;
        let (old, new) = (&self.meta, &got.meta);
        // Only some servers give entity tags; without one the modification time decides.
        let same = old.size == new.size
            && match (&old.e_tag, &new.e_tag) {
                (Some(old), Some(new)) => old == new,
                _ => old.last_modified == new.last_modified,
            };
        if same { Ok(got) } else { Err(changed_error(&self.location)) }
    }
}

fn changed_error(location: &Path) -> Error {
    let what = "the object changed while it was read";
    Error::Precondition { path: location.to_string(), source: what.into() }
}
