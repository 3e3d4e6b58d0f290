//! The collector's queue: what readers, decoders and captioners report, counted where it is received.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use recaption_messages::{SampleOutcome, ShardEvent};
use tokio::sync::mpsc;

use super::progress::Progress;

/// Events waiting for the collector.
const EVENT_QUEUE: usize = 256;

/// The receiving end of the queue.
pub(crate) struct Events {
    receiver: mpsc::Receiver<ShardEvent>,
    progress: Arc<Progress>,
}

/// Creates the queue. Every sample that ends is counted in `progress` when its event is received.
#[must_use]
pub(super) fn events(progress: &Arc<Progress>) -> (mpsc::Sender<ShardEvent>, Events) {
    let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
    (sender, Events { receiver, progress: Arc::clone(progress) })
}

impl Events {
    /// Receives the next event; `None` once all senders are gone.
    pub(crate) async fn recv(&mut self) -> Option<ShardEvent> {
        let event = self.receiver.recv().await?;
        let progress = &self.progress;
        progress.write_queue.store(self.receiver.len(), Relaxed);
        if let ShardEvent::Sample(result) = &event {
            progress.finished.fetch_add(1, Relaxed);
            if matches!(result.outcome, SampleOutcome::Reject(_)) {
                progress.rejected.fetch_add(1, Relaxed);
            }
        }
        Some(event)
    }
}
