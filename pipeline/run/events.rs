//! The collector's queue: what readers, decoders and captioners report, counted where it is received.

use std::sync::Arc;

use recaption_messages::ShardEvent;
use tokio::sync::mpsc;

use super::progress::Progress;

/// Events waiting for the collector.
const EVENT_QUEUE: usize = 256;

/// The receiving end of the queue.
pub(crate) struct Events {
    receiver: mpsc::Receiver<ShardEvent>,
    progress: Arc<Progress>,
    /// Whether an event was received and the next one was not asked for: the receiver works.
    is_working: bool,
}

/// Creates the queue. Every sample that ends is counted in `progress` when its event is received.
#[must_use]
pub(super) fn events(progress: &Arc<Progress>) -> (mpsc::Sender<ShardEvent>, Events) {
    let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
    progress.write_queue.set_capacity(EVENT_QUEUE);
    (sender, Events { receiver, progress: Arc::clone(progress), is_working: false })
}

impl Events {
    /// Receives the next event; `None` once all senders are gone.
    pub(crate) async fn recv(&mut self) -> Option<ShardEvent> {
        self.end_work();
        let event = self.receiver.recv().await?;
        let progress = &self.progress;
        progress.write.collector().begin_work();
        self.is_working = true;
        progress.write_queue.set(self.receiver.len());
        if let ShardEvent::Sample(result) = &event {
            progress.outcomes.count(&result.outcome);
        }
        Some(event)
    }

    fn end_work(&mut self) {
        if std::mem::take(&mut self.is_working) {
            self.progress.write.collector().end_work();
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.end_work();
    }
}
