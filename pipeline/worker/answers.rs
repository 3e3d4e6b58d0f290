//! Answers -> stdout: a thread that writes lines, so that a driver that does not read holds up nothing else.
//!
//! What waits is bounded by the permits of the lines that are answered. Once stdout is closed the driver is gone: the worker stops,
//! and further answers are dropped.

use std::{
    io::{self, Write},
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::protocol::{Answer, ErrorClass};
use crate::run::Stop;

/// Time for the answers that are not written yet, once a stop was requested: a driver that does not read keeps no worker.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer, with the place of its line.
type Queued = (Answer, Option<OwnedSemaphorePermit>);

/// Where answers go. Dropping it drops answers that are not written.
#[derive(Debug)]
pub(crate) struct Answers {
    queue: mpsc::Sender<Queued>,
    written: oneshot::Receiver<()>,
}

impl Answers {
    /// Starts to write to `output` on a thread of its own.
    ///
    /// # Errors
    /// When the operating system starts no thread.
    pub(crate) fn start(output: impl Write + Send + 'static, stop: &Arc<Stop>) -> io::Result<Self> {
        let (queue, answers) = mpsc::channel();
        let (done, written) = oneshot::channel();
        let stop = Arc::clone(stop);
        std::thread::Builder::new().name("answers".into()).spawn(move || {
            write_all(output, &answers, &stop);
            let _ = done.send(());
        })?;
        Ok(Self { queue, written })
    }

    /// Sends an answer; `place` is given back once it is written.
    pub(super) fn send(&self, answer: Answer, place: Option<OwnedSemaphorePermit>) {
        // The thread ends only after this sender.
        let _ = self.queue.send((answer, place));
    }

    /// Sends the error that ends the worker.
    pub(crate) fn fatal(&self, class: ErrorClass, error: String) {
        self.send(Answer::Fatal { class, error }, None);
    }

    /// Waits until everything is written; once a stop was requested only for a moment.
    pub(crate) async fn finish(self, stop: &Stop) {
        let Self { queue, written } = self;
        drop(queue);
        let too_long = async {
            stop.wait_requested().await;
            tokio::time::sleep(FLUSH_TIMEOUT).await;
        };
        tokio::select! {
            _ = written => {}
            () = too_long => tracing::warn!("answers are left: nobody reads them"),
        }
    }
}

fn write_all(mut output: impl Write, answers: &mpsc::Receiver<Queued>, stop: &Stop) {
    let mut is_open = true;
    for (answer, place) in answers {
        if is_open && let Err(error) = write(&mut output, &answer) {
            is_open = false;
            tracing::error!(%error, "answers cannot be written; stopping, since the driver is gone");
            if !stop.requested() {
                stop.request_stop();
            }
        }
        drop(place);
    }
}

fn write(output: &mut impl Write, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("unpoisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A pipe that nobody reads, or that is closed.
    struct Pipe {
        is_closed: bool,
    }

    impl Write for Pipe {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            if self.is_closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            std::thread::sleep(Duration::from_secs(3600));
            Ok(0)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn invalid(line: u64) -> Answer {
        Answer::Invalid { line, error: "two\nlines".to_owned() }
    }

    #[tokio::test]
    async fn every_answer_is_one_line() {
        let (stop, shared) = (Arc::new(Stop::default()), Shared::default());
        let answers = Answers::start(shared.clone(), &stop).expect("a thread");
        (1..=3).for_each(|line| answers.send(invalid(line), None));
        answers.finish(&stop).await;
        let text = String::from_utf8(shared.0.lock().expect("unpoisoned").clone()).expect("UTF-8");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert_eq!(text.lines().next(), Some(r#"{"type":"invalid","line":1,"error":"two\nlines"}"#));
    }

    #[tokio::test]
    async fn closed_pipe_stops_the_worker() {
        let stop = Arc::new(Stop::default());
        let answers = Answers::start(Pipe { is_closed: true }, &stop).expect("a thread");
        (1..=3).for_each(|line| answers.send(invalid(line), None));
        answers.finish(&stop).await;
        assert!(stop.requested() && !stop.is_aborted());
    }

    #[tokio::test]
    async fn blocked_pipe_keeps_no_worker_that_stops() {
        let stop = Arc::new(Stop::default());
        let answers = Answers::start(Pipe { is_closed: false }, &stop).expect("a thread");
        answers.send(invalid(1), None);
        stop.request_stop();
        let finished = tokio::time::timeout(10 * FLUSH_TIMEOUT, answers.finish(&stop)).await;
        finished.expect("it waits no longer than its timeout");
    }
}
