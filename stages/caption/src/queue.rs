//! The queue of images in front of the caption workers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use recaption_messages::PreparedSample;

/// Pause between two looks of a waiting worker at whether it should stop.
const POLL: Duration = Duration::from_millis(20);

/// Images for one or several caption workers: the decoder's channel, and images requeued by workers whose device failed.
///
/// Clones share the queue. Requeued images come first.
#[derive(Clone, Debug)]
pub struct ImageQueue {
    decoded: Receiver<PreparedSample>,
    requeue: Option<Requeue>,
}

/// A channel for images that come back, and a count of those that still can.
#[derive(Clone, Debug)]
struct Requeue {
    sender: Sender<PreparedSample>,
    receiver: Receiver<PreparedSample>,
    /// Number of images that were taken and are not finished.
    in_flight: Arc<AtomicUsize>,
}

enum Received {
    Image(Box<PreparedSample>),
    TimedOut,
    /// The decoder has ended.
    Disconnected,
}

impl ImageQueue {
    /// Creates the queue of a single worker, or of workers that all end when one fails.
    #[must_use]
    pub fn new(decoded: Receiver<PreparedSample>) -> Self {
        Self { decoded, requeue: None }
    }

    /// Creates the queue of several workers of which some may fail: [`ImageQueue::requeue`] passes their images to the others,
    /// none of which ends before all images are finished.
    #[must_use]
    pub fn with_requeue(decoded: Receiver<PreparedSample>) -> Self {
        let (sender, receiver) = unbounded();
        Self { decoded, requeue: Some(Requeue { sender, receiver, in_flight: Arc::default() }) }
    }

    /// Passes the images of a worker that failed to the other workers; returns their number.
    ///
    /// Of a queue made by [`ImageQueue::new`] the images are dropped: its run ends with the failure.
    pub fn requeue(&self, samples: Vec<PreparedSample>) -> usize {
        let count = samples.len();
        if let Some(requeue) = &self.requeue {
            // Cannot fail: the receiver lives beside the sender.
            samples.into_iter().for_each(|sample| drop(requeue.sender.send(sample)));
        }
        count
    }

    /// Returns the number of decoded images that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.decoded.len()
    }

    /// Takes an image if there is one now.
    pub(crate) fn try_recv(&self) -> Option<PreparedSample> {
        self.recv_timeout(Duration::ZERO)
    }

    /// Takes an image if one comes within `timeout`.
    pub(crate) fn recv_timeout(&self, timeout: Duration) -> Option<PreparedSample> {
        match self.receive(timeout) {
            Received::Image(sample) => Some(*sample),
            Received::TimedOut | Received::Disconnected => None,
        }
    }

    /// Waits for an image; returns `None` when none will come or `stop` was set.
    pub(crate) fn recv(&self, stop: &AtomicBool) -> Option<PreparedSample> {
        while !stop.load(SeqCst) {
            match (self.receive(POLL), &self.requeue) {
                (Received::Image(sample), _) => return Some(*sample),
                (Received::TimedOut, _) => {}
                (Received::Disconnected, None) => return None,
                (Received::Disconnected, Some(requeue)) => {
                    // Images in flight elsewhere may still be requeued.
                    if requeue.in_flight.load(SeqCst) == 0 {
                        return None;
                    }
                    std::thread::sleep(POLL);
                }
            }
        }
        None
    }

    fn receive(&self, timeout: Duration) -> Received {
        if let Some(requeue) = &self.requeue {
            if let Ok(sample) = requeue.receiver.try_recv() {
                return Received::Image(Box::new(sample));
            }
            // Counted before it is received: the count must not be 0 while an image is on its way.
            requeue.in_flight.fetch_add(1, SeqCst);
        }
        match self.decoded.recv_timeout(timeout) {
            Ok(sample) => Received::Image(Box::new(sample)),
            Err(error) => {
                self.mark_finished();
                match error {
                    RecvTimeoutError::Timeout => Received::TimedOut,
                    RecvTimeoutError::Disconnected => Received::Disconnected,
                }
            }
        }
    }

    /// Notes that one image that was taken has become a row or a reject.
    pub(crate) fn mark_finished(&self) {
        if let Some(requeue) = &self.requeue {
            requeue.in_flight.fetch_sub(1, SeqCst);
        }
    }
}
