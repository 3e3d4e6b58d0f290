//! Where captioners take images from: the decoders' channel, and images that a captioner gave back when its device failed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use recaption_messages::PreparedSample;

/// How often a captioner that waits for images looks whether it should end.
const POLL: Duration = Duration::from_millis(20);

/// Images for one or several captioners. Clones are the same queue.
#[derive(Clone)]
pub struct ImageQueue {
    decoded: Receiver<PreparedSample>,
    returned: Option<Returned>,
}

/// What a look at the queue found.
enum Received {
    Image(Box<PreparedSample>),
    Nothing,
    /// The decoders are done.
    Closed,
}

/// What captioners that may fail need: a way back, and a count of what is still to come back or to be finished.
#[derive(Clone)]
struct Returned {
    to: Sender<PreparedSample>,
    from: Receiver<PreparedSample>,
    /// Images that were taken and are not finished.
    unfinished: Arc<AtomicUsize>,
}

impl ImageQueue {
    /// Over the decoders' channel. A captioner that fails takes its images with it.
    #[must_use]
    pub fn new(decoded: Receiver<PreparedSample>) -> Self {
        Self { decoded, returned: None }
    }

    /// As [`ImageQueue::new`], for captioners of which some may fail: [`ImageQueue::give_back`] hands their images to the
    /// others, which do not end before all images are finished.
    #[must_use]
    pub fn with_returns(decoded: Receiver<PreparedSample>) -> Self {
        let (to, from) = unbounded();
        Self { decoded, returned: Some(Returned { to, from, unfinished: Arc::default() }) }
    }

    /// An image, if there is one now.
    #[must_use]
    pub fn try_take(&self) -> Option<PreparedSample> {
        self.take_within(Duration::ZERO)
    }

    /// An image, if one comes within `time`.
    #[must_use]
    pub fn take_within(&self, time: Duration) -> Option<PreparedSample> {
        match self.receive(time) {
            Received::Image(sample) => Some(*sample),
            Received::Nothing | Received::Closed => None,
        }
    }

    /// Waits for an image; `None` when none will come, or `ended` was set meanwhile.
    #[must_use]
    pub fn take(&self, ended: &AtomicBool) -> Option<PreparedSample> {
        while !ended.load(SeqCst) {
            match (self.receive(POLL), &self.returned) {
                (Received::Image(sample), _) => return Some(*sample),
                (Received::Nothing, _) => {}
                (Received::Closed, None) => return None,
                (Received::Closed, Some(returned)) => {
                    // What others hold may still come back.
                    if returned.unfinished.load(SeqCst) == 0 {
                        return None;
                    }
                    std::thread::sleep(POLL);
                }
            }
        }
        None
    }

    fn receive(&self, time: Duration) -> Received {
        if let Some(returned) = &self.returned {
            if let Ok(sample) = returned.from.try_recv() {
                return Received::Image(Box::new(sample));
            }
            // Counted first: it must not look as if nothing were left while an image is on its way.
            returned.unfinished.fetch_add(1, SeqCst);
        }
        match self.decoded.recv_timeout(time) {
            Ok(sample) => Received::Image(Box::new(sample)),
            Err(error) => {
                self.finished();
                match error {
                    RecvTimeoutError::Timeout => Received::Nothing,
                    RecvTimeoutError::Disconnected => Received::Closed,
                }
            }
        }
    }

    /// One image that was taken became a row or a reject.
    pub fn finished(&self) {
        if let Some(returned) = &self.returned {
            returned.unfinished.fetch_sub(1, SeqCst);
        }
    }

    /// Hands images of a captioner that failed to the others; how many.
    pub fn give_back(&self, samples: Vec<PreparedSample>) -> usize {
        let count = samples.len();
        if let Some(returned) = &self.returned {
            // The receiver lives beside the sender.
            samples.into_iter().for_each(|sample| drop(returned.to.send(sample)));
        }
        count
    }
}
