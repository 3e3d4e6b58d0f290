//! What the readers of all formats share: the request, and how samples, rejects and errors leave.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use recaption_messages::{
    BusyClock, ByteBudget, Closed, PreviousRows, ReadCounters, ReadError, ReadSink, ReadStop, RetryDecision,
    Sample, SampleResult,
};
use recaption_schemas::{FailureClass, OriginalCaption, Reject, RejectReason, redact_text};
use recaption_store::{ErrorKind, user_message};

use super::{counts::SharedCounts, settings::ReadSettings};
use crate::shards::ShardRef;

/// Error of a retry whose shard does not match its rows.
pub(super) const DIFFERENT_SAMPLES: &str =
    "its samples differ from those of its rows: replace its rows with `recaption run --overwrite`";

/// A shard to read, and what reading needs.
#[derive(Debug)]
pub struct ReadRequest<'a> {
    /// Number of the shard within the run.
    pub number: usize,
    /// The shard.
    pub shard: &'a ShardRef,
    /// How shards are read.
    pub settings: &'a ReadSettings,
    /// Bound on the image bytes in flight.
    pub budget: &'a ByteBudget,
    /// Counts bytes and samples as they arrive.
    pub counters: &'a ReadCounters,
    /// Rows of an earlier run, in a retry: only samples that are processed again are then sent on.
    pub previous: Option<PreviousRows>,
    /// Takes samples and results.
    pub sink: &'a ReadSink,
}

/// The context of a shard that is being read.
#[derive(Clone, Copy)]
pub(super) struct ReadContext<'a> {
    pub(super) number: usize,
    pub(super) shard: &'a ShardRef,
    pub(super) settings: &'a ReadSettings,
    pub(super) budget: &'a ByteBudget,
    pub(super) bytes_read: &'a AtomicU64,
    pub(super) samples_read: &'a AtomicU64,
    pub(super) clock: &'a BusyClock,
    pub(super) previous: Option<&'a Mutex<PreviousRows>>,
    pub(super) counts: &'a SharedCounts,
    pub(super) sink: &'a ReadSink,
}

impl ReadContext<'_> {
    /// Returns an error of this shard, without the secrets of a URL that a store's message quotes.
    pub(super) fn error(&self, what: &str, class: FailureClass) -> ReadError {
        ReadError { url: self.shard.url.clone(), what: redact_text(what), class, is_retryable: false }
    }

    /// Returns an error of the shard's store.
    pub(super) fn store_error(&self, error: &object_store::Error) -> ReadError {
        if matches!(error, object_store::Error::NotFound { .. }) {
            return self.error(&user_message(error), FailureClass::Missing);
        }
        let is_retryable = ErrorKind::of(error).is_retryable();
        ReadError { is_retryable, ..self.error(&user_message(error), FailureClass::Transport) }
    }

    /// Returns an error of the shard's content.
    pub(super) fn data_error(&self, what: &str) -> ReadError {
        self.error(what, FailureClass::Data)
    }

    /// Counts bytes that arrived.
    pub(super) fn count_bytes(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Relaxed);
    }

    /// Sends a sample to the decoder, once the budget has room for its bytes.
    pub(super) async fn send(&self, mut sample: Sample) -> Result<(), Closed> {
        let texts = [
            sample.org_caption.as_ref().map(OriginalCaption::as_str),
            sample.meta.as_deref(),
            sample.url.as_deref(),
        ];
        let bytes = sample.image.len() + texts.into_iter().flatten().map(str::len).sum::<usize>();
        sample.permit = self.clock.while_blocked(self.budget.acquire(bytes)).await;
        self.send_with_permit(sample).await
    }

    /// Sends a sample that has its share of the budget to the decoder.
    pub(super) async fn send_with_permit(&self, sample: Sample) -> Result<(), Closed> {
        self.samples_read.fetch_add(1, Relaxed);
        self.clock.while_blocked(self.sink.send_sample(sample)).await
    }

    /// Rejects the sample at `index`.
    pub(super) async fn reject(&self, index: u64, reject: Reject) -> Result<(), Closed> {
        self.samples_read.fetch_add(1, Relaxed);
        let result = SampleResult::rejected(self.number, index, reject);
        self.clock.while_blocked(self.sink.send_result(result)).await
    }

    /// Returns whether the next sample keeps its row of an earlier run, and reports it if so.
    pub(super) async fn keep_previous(&self, index: u64, key: &str) -> Result<bool, ReadStop> {
        let Some(previous) = self.previous else { return Ok(false) };
        let decision = previous.lock().unwrap_or_else(PoisonError::into_inner).decide(key);
        match decision {
            Some(RetryDecision::Reprocess) => Ok(false),
            Some(RetryDecision::Keep(outcome)) => {
                self.samples_read.fetch_add(1, Relaxed);
                let result = SampleResult::kept(self.number, index, outcome);
                self.clock.while_blocked(self.sink.send_result(result)).await?;
                Ok(true)
            }
            None => Err(self.data_error(DIFFERENT_SAMPLES).into()),
        }
    }

    /// Rejects the damaged end of a shard as one sample.
    pub(super) async fn reject_tail(&self, index: u64, key: String, detail: String) -> Result<(), ReadStop> {
        if self.keep_previous(index, &key).await? {
            return Ok(());
        }
        Ok(self.reject(index, Reject::new(key, RejectReason::DamagedShard, detail)).await?)
    }
}
